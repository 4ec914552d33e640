"""The front of both entry files: Hydra's command line, with every fault of the user in one clear message."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from leyden.settings.base import Group
from leyden.settings.composition import compose_config, fault_of
from leyden.settings.errors import ConfigError, LeydenError
from leyden.settings.help import help_text
from leyden.settings.overrides import as_list, misfits, read_overrides, typed_keys, variants
from leyden.settings.wording import fields_of

USER_FAULT = 2
SAVED = "config.yaml"  # a folder with this file is a run
SWEEP_FOLDER = "hydra.sweep.dir="  # where that is said, the names below do not count
Check = Callable[[DictConfig, frozenset[str]], object]
_reported: list[LeydenError] = []
_crashes: list[Exception] = []  # of the program


@dataclass(frozen=True)
class Entry:
    """What an entry file runs on.

    Attributes:
        name: of the primary config.
        folder: of the config groups.
        schema: of the settings.
        check: reads a composed config and the keys that were typed, or raises LeydenError.
    """

    name: str
    folder: Path
    schema: type[Group]
    check: Check


def run_command(main: Callable[[], Any], entry: Entry) -> int:
    """Check the whole command line, then hand over to Hydra; return the exit code.

    Faults of the command line, of composition and of the settings are reported together, before any job starts.

    Args:
        main: the function that `hydra.main` decorates.
        entry: what it runs on.

    Returns:
        0 done, 2 a fault of the user. Faults of the program keep their traceback.
    """
    arguments = get_args_parser().parse_args()
    if arguments.help:
        print(help_text(entry.name, entry.folder, entry.schema))
        return 0
    _reported.clear()
    _crashes.clear()
    debug = "debug=true" in [text.lower() for text in arguments.overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors reach us and not Hydra's own printer
    os.environ.setdefault("TQDM_DISABLE", "1")  # the libraries' bars; the display is ours
    try:
        if not (arguments.hydra_help or arguments.info or arguments.shell_completion):
            check_command(arguments, entry)
        main()
        if _crashes:
            raise _crashes[0]
    except LeydenError as error:
        if debug:
            raise
        report(error)
        return USER_FAULT
    except (HydraException, OmegaConfBaseException) as error:
        if debug:
            raise
        report(ConfigError(fault_of(error, [entry.folder])))
        return USER_FAULT
    return USER_FAULT if _reported else 0


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
    except Exception as error:
        if debug or HydraConfig.get().mode == RunMode.MULTIRUN:
            raise  # the next jobs of a sweep would crash alike
        _crashes.append(error)  # raised again once Hydra is out of the way, which would put a line of its own before it


def report(error: LeydenError) -> None:
    """Print every fault of an error on its own lines, to standard error."""
    count = len(error.faults)
    title = error.kind if count == 1 else f"{count} {error.kind}s"
    print(f"{title}:", file=sys.stderr)
    for fault in error.faults:
        print(f"  - {fault}", file=sys.stderr)


def job_folder() -> Path | None:
    """The folder of this job inside a Hydra multirun; None for a single run."""
    hydra = HydraConfig.get()
    return Path(hydra.runtime.output_dir) if hydra.mode == RunMode.MULTIRUN else None


def check_command(arguments: Namespace, entry: Entry) -> None:
    """Compose once with the first value of every sweep, then once for each further value; write and train nothing.

    Args:
        arguments: of the command line, as Hydra parses it.
        entry: whose.

    Raises:
        ConfigError: all faults, each once.
    """
    overrides, faults = read_overrides(arguments.overrides)
    if not arguments.multirun:
        sweeps = [override for override in overrides if override.is_sweep_override()]
        faults += [_sweep_fault(override) for override in sweeps]
        overrides = [override for override in overrides if override not in sweeps]
    for variant in variants(overrides):
        faults += [fault for fault in _faults(variant, entry, arguments) if fault not in faults]
    if faults:
        raise ConfigError(faults)


def _faults(texts: list[str], entry: Entry, arguments: Namespace) -> list[str]:
    """Faults of one command line without sweeps."""
    name = arguments.config_name or entry.name
    extra = _config_dir(arguments.config_dir)
    overrides, _ = read_overrides(texts)
    wrong = misfits(overrides, [entry.folder, *([extra] if extra else [])], dict(fields_of(entry.schema)))
    fitting = [text for text in texts if text not in wrong]
    config, unfit = compose_config(name, fitting, entry.folder, extra)
    faults = [*wrong.values(), *unfit]
    if config is None or arguments.cfg is not None:
        return faults
    try:
        entry.check(config, typed_keys(read_overrides(fitting)[0]))
    except ConfigError as error:
        faults += error.faults
    if arguments.multirun and name == entry.name and not any(text.startswith(SWEEP_FOLDER) for text in texts):
        faults += _taken(config)
    return faults


def _taken(config: DictConfig) -> list[str]:
    """The fault of a sweep whose folder holds a run, or the runs of an earlier sweep that may not be replaced."""
    name = config.get("experiment_name")
    if name is None:
        return []  # it will be named after the time
    folder = Path(str(config.output_directory), str(name))
    if (folder / SAVED).is_file():
        return [f"experiment_name={name}: {folder} is a run, so no sweep goes into it. Choose another experiment_name."]
    if config.overwrite is not True and any(folder.glob(f"*/{SAVED}")):
        return [
            f"experiment_name={name}: {folder} holds the runs of a sweep already. Choose another experiment_name, or "
            "set overwrite=true to replace the runs of the same number."
        ]
    return []


def _config_dir(folder: str | None) -> Path | None:
    """The folder of a saved config.

    Raises:
        ConfigError: it is not there.
    """
    if folder is None:
        return None
    path = Path(folder).absolute()
    if not path.is_dir():
        raise ConfigError(f"--config-dir {folder} does not exist (seen from {Path.cwd()}). Name the folder of a run.")
    return path


def _sweep_fault(override: Override) -> str:
    return (
        f"{override.input_line} lists several values. For one run per value add -m; for one run with a list write "
        f"{as_list(override)}."
    )
