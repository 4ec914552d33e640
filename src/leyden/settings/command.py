"""The front of both entry files: Hydra's command line, with every fault of the user in one clear message."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from leyden.settings.composition import compose_config, fault_of
from leyden.settings.errors import ConfigError, LeydenError

USER_FAULT = 2
_reported: list[LeydenError] = []


def run_command(main: Callable[[], Any], check: str, config_name: str, config_dir: Path) -> int:
    """Check the whole command line, then hand over to Hydra; return the exit code.

    Faults of composition (misspelt keys, unknown choices) and of `check` are reported together, before any job starts.

    Args:
        main: the function that `hydra.main` decorates.
        check: `module:function` that reads a composed config and the keys that were typed, or raises LeydenError;
            imported only when there is something to check.
        config_name: the primary config.
        config_dir: the folder of the config groups.

    Returns:
        0 done, 2 a fault of the user. Faults of the program keep their traceback.
    """
    arguments = get_args_parser().parse_args()
    debug = "debug=true" in [text.replace("True", "true") for text in arguments.overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors reach us and not Hydra's own printer
    os.environ.setdefault("TQDM_DISABLE", "1")  # the libraries' bars; the display is ours
    try:
        if not (arguments.help or arguments.hydra_help or arguments.info or arguments.shell_completion):
            only_show = arguments.cfg is not None
            name = arguments.config_name or config_name
            extra = Path(arguments.config_dir).absolute() if arguments.config_dir else None
            _check_all(arguments.overrides, name, config_dir, extra, None if only_show else check)
        main()
        if _reported:
            return USER_FAULT
    except LeydenError as error:
        if debug:
            raise
        report(error)
        return USER_FAULT
    except (HydraException, OmegaConfBaseException) as error:
        if debug:
            raise
        report(ConfigError(fault_of(error, config_dir)))
        return USER_FAULT
    return 0


@contextmanager
def reported_faults(*, debug: bool) -> Iterator[None]:
    """Report a user's fault where it happens and remember it for the exit code, so that no traceback follows.

    Args:
        debug: let the error through, with its traceback.
    """
    try:
        yield
    except LeydenError as error:
        if debug:
            raise
        report(error)
        _reported.append(error)


def report(error: LeydenError) -> None:
    """Print every fault of an error on its own lines, to standard error."""
    count = len(error.faults)
    title = error.kind if count == 1 else f"{count} {error.kind}s"
    print(f"{title}:", file=sys.stderr)
    for fault in error.faults:
        print(f"  - {fault}", file=sys.stderr)


def typed_keys(overrides: Sequence[str]) -> frozenset[str]:
    """The keys that stand on a command line: `lora.r=8` gives `lora.r`."""
    return frozenset(o.key_or_group for o in OverridesParser.create().parse_overrides(list(overrides)))


def job_folder() -> Path | None:
    """The folder of this job inside a Hydra multirun; None for a single run."""
    hydra = HydraConfig.get()
    return Path(hydra.runtime.output_dir) if hydra.mode == RunMode.MULTIRUN else None


def _check_all(overrides: list[str], name: str, folder: Path, extra: Path | None, check: str | None) -> None:
    """Compose once with the first value of every sweep, then once for each further value; gather all faults."""
    faults: list[str] = []
    variants = _variants(overrides)
    for number, variant in enumerate(variants):
        config, found = compose_config(name, variant, folder, extra)
        faults += [fault for fault in found if fault not in faults]
        if check is None or config is None or (found and number):
            continue
        try:
            module, _, function = check.partition(":")
            getattr(import_module(module), function)(config, typed_keys(variant))
        except ConfigError as error:
            faults += [fault for fault in error.faults if fault not in faults]
    if faults:
        raise ConfigError(faults)


def _variants(overrides: list[str]) -> list[list[str]]:
    """The command line with every sweep at its first value, and again for each other value of each sweep."""
    try:
        parsed: list[Override] = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigError(f"The command line cannot be read: {' '.join(str(error).split())}") from error
    choices = [_values(override) for override in parsed]
    first = [values[0] for values in choices]
    others = [
        [*first[:place], value, *first[place + 1 :]] for place, values in enumerate(choices) for value in values[1:]
    ]
    return [first, *others]


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override() or not (override.is_discrete_sweep() or override.is_choice_sweep()):
        return [override.input_line or ""]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
