"""The front of both entry files: Hydra's command line, with every fault of the user in one clear message."""

from __future__ import annotations

import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
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
from leyden.settings.composition import compose_config, fault_of, search_space
from leyden.settings.errors import PROGRAM_FAULT, USER_FAULT, ConfigError, LeydenError, TrainingError
from leyden.settings.escapes import visible
from leyden.settings.help import help_text
from leyden.settings.overrides import misfits, read_overrides, typed_keys, variants, with_texts
from leyden.settings.resuming import going_on_faults
from leyden.settings.stops import ended_by_signals, ended_unread
from leyden.settings.sweeps import count_faults, flag_first, sweep_fault, taken
from leyden.settings.torchrun import is_one_of_several
from leyden.settings.wording import fields_of

SWEEP_FOLDER = "hydra.sweep.dir="  # where that is said, the names below do not count
Check = Callable[[DictConfig, frozenset[str]], object]
_reported: list[Exception] = []
_codes: list[int] = []


@dataclass(frozen=True)
class Entry:
    """What an entry file runs on.

    Attributes:
        name: of the primary config.
        folder: of the config groups.
        schema: of the settings.
        complete: what else the settings come from, before they are checked: the composed config and the overrides in,
            the config out.
        check: reads a composed config and the keys that were typed, or raises LeydenError.
        finish: sums a sweep up when it is over, and returns the exit code that its jobs ask for.
    """

    name: str
    folder: Path
    schema: type[Group]
    check: Check
    finish: Callable[[], int] = int
    complete: Callable[[DictConfig, Sequence[str]], DictConfig] = lambda config, overrides: config  # noqa: ARG005


@ended_by_signals()
def run_command(main: Callable[[], Any], entry: Entry) -> int:
    """Check the whole command line, then hand over to Hydra; return the exit code.

    Faults of the command line, of composition and of the settings are reported together, before any job starts.

    Args:
        main: the function that `hydra.main` decorates.
        entry: what it runs on.

    Returns:
        0 done, 2 a fault of the user, 1 a fault of the program in a job of a sweep. Elsewhere faults of the program
        keep their traceback.
    """
    sys.argv[1:] = with_texts(flag_first(sys.argv[1:]), dict(fields_of(entry.schema)))
    arguments = get_args_parser().parse_args()
    if arguments.help:
        print(help_text(entry.name, entry.folder, entry.schema))
        return 0
    _reported.clear()
    _codes.clear()
    debug = "debug=true" in [text.lower() for text in arguments.overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors reach us and not Hydra's own printer
    os.environ.setdefault("TQDM_DISABLE", "1")  # the libraries' bars; the display is ours
    try:
        if not (arguments.hydra_help or arguments.info or arguments.shell_completion):
            check_command(arguments, entry)
        _run_all(main, entry)
    except LeydenError as error:
        if debug:
            raise
        report(error)
        return error.code
    except (HydraException, OmegaConfBaseException) as error:
        if debug:
            raise
        report(ConfigError(fault_of(error, [entry.folder])))
        return USER_FAULT
    return _code()


def _run_all(main: Callable[[], Any], entry: Entry) -> None:
    """Run the job or jobs, and sum a sweep up however it ends."""
    try:
        main()
    except Exception as error:
        if not (code := entry.finish()):
            raise
        report(TrainingError(f"The sweep ended early: {' '.join(str(error).split())}"))
        _codes.append(code)
    except BaseException:
        entry.finish()
        raise
    else:
        _codes.append(entry.finish())


def _code() -> int:
    """The exit code that all jobs together ask for: a fault of the program weighs more than one of the user."""
    codes = {*_codes, *(error.code if isinstance(error, LeydenError) else PROGRAM_FAULT for error in _reported)}
    return next((code for code in (PROGRAM_FAULT, USER_FAULT) if code in codes), 0)


@contextmanager
def reported_faults(*, debug: bool) -> Iterator[None]:
    """Report a user's fault where it happens and remember it for the exit code, so that no traceback follows.

    In a sweep a fault of the program is reported too, with its traceback, and the other jobs go on.

    Args:
        debug: let the error through, with its traceback; in a sweep, print the traceback.
    """
    try:
        with ended_unread():  # in here: Hydra has words of its own for an error that reaches it
            yield
    except Exception as error:
        if job_folder() is None and (debug or not isinstance(error, LeydenError)):
            raise
        if isinstance(error, LeydenError) and not debug:
            report(error)
        else:
            traceback.print_exception(error)
        _reported.append(error)


def report(error: LeydenError) -> None:
    """Print every fault of an error on its own lines, to standard error."""
    count = len(error.faults)
    title = error.kind if count == 1 else f"{count} {error.kind}s"
    print(f"{title}:", file=sys.stderr)
    for fault in error.faults:
        print(f"  - {visible(fault)}", file=sys.stderr)


def typed_overrides() -> list[str]:
    """The overrides of the job at hand, as they were typed; none outside of Hydra."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def job_folder() -> Path | None:
    """The folder of this job inside a Hydra multirun; None for a single run."""
    if not HydraConfig.initialized():
        return None
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
    overrides, faults = read_overrides(with_texts(arguments.overrides, dict(fields_of(entry.schema))))
    faults += [*_launch_faults(entry, multirun=arguments.multirun), *count_faults(overrides)]
    if not arguments.multirun:
        sweeps = [override for override in overrides if override.is_sweep_override()]
        faults += [sweep_fault(override) for override in sweeps]
        overrides = [override for override in overrides if override not in sweeps]
    else:
        faults += going_on_faults(overrides)
        overrides += _space(overrides, entry, arguments)
    for variant in variants(overrides):
        faults += [fault for fault in _faults(variant, entry, arguments) if fault not in faults]
    if faults:
        raise ConfigError(faults)


def _launch_faults(entry: Entry, *, multirun: bool) -> list[str]:
    """What torchrun cannot start: each process would do it all, and of a sweep each might draw other values."""
    if not is_one_of_several():
        return []
    if entry.name != "train":
        return [f"{entry.name}.py is one process. Start it with python, not with torchrun."]
    if multirun:
        return [
            "-m (a sweep) does not go with torchrun: every process would sweep for itself. Run `python train.py -m "
            "trainer=ddp trainer.devices=N ...`, which starts the processes of each job, or one torchrun for each job."
        ]
    return []


def _space(overrides: list[Override], entry: Entry, arguments: Namespace) -> list[Override]:
    """What a sweep varies by a file, unless the command line says otherwise."""
    name, extra = arguments.config_name or entry.name, _config_dir(arguments.config_dir)
    given = {override.key_or_group for override in overrides}
    space, _ = read_overrides(search_space(name, variants(overrides)[0], entry.folder, extra))
    return [override for override in space if override.key_or_group not in given]


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
    whole = config if arguments.multirun else entry.complete(config, fitting)  # each job of a sweep has its own
    try:
        entry.check(whole, typed_keys(read_overrides(fitting)[0]))
    except ConfigError as error:
        faults += error.faults
    if arguments.multirun and name == entry.name and not any(text.startswith(SWEEP_FOLDER) for text in texts):
        faults += taken(config)
    return faults


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
