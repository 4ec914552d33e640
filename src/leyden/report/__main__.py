"""Write the page of a run anew from its files: `python -m leyden.report run=outputs/NAME`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from leyden.report.report import write_report
from leyden.settings.errors import ConfigError
from leyden.settings.escapes import visible
from leyden.settings.overrides import read_overrides
from leyden.settings.plain_command import run_plain
from leyden.settings.read_predict import missing_runs, run_folder

USAGE = """\
python -m leyden.report run=outputs/NAME

Writes report.html of a run anew, from what its files say now: of one that goes on, was stopped or killed, or is done.

run   run folder, or its model folder"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and say where it is.

    Args:
        arguments: of the command line; None: those of this process.

    Returns:
        0 done, 2 a fault of the user, 1 parts of the page could not be made.
    """
    return run_plain(_write, lambda: USAGE, arguments)


def _write(words: Sequence[str]) -> None:
    folder = folder_of(words)
    try:
        page = write_report(folder)
    except OSError as error:
        raise ConfigError(
            f"run={str(folder)!r}: the page cannot be written ({error}). Mend the folder, or copy it elsewhere first."
        ) from error
    print(f"{visible(str(page))} is written.")


def folder_of(words: Sequence[str]) -> Path:
    """The run folder that a command line names.

    Raises:
        ConfigError: it names none, or something else.
    """
    overrides, faults = read_overrides(words)
    faults += [
        f"{one.input_line} is not a setting here. There is: run." for one in overrides if one.key_or_group != "run"
    ]
    named = [one.value() for one in overrides if one.key_or_group == "run" and not one.is_sweep_override()]
    if len(named) != 1 and not faults:
        faults.append(
            "run is not set once. Set run=outputs/NAME." if overrides else "run is not set. Set run=outputs/NAME."
        )
    folder = run_folder(str(named[0])) if named else None
    if named and (runs := missing_runs(str(named[0]))) is not None:
        faults.append(f"run={named[0]!r}: there is no such folder. There are: {', '.join(runs) or 'none'}.")
    elif named and folder is None:
        faults.append(f"run={named[0]!r} is no run folder: it has no config.yaml. Name one that train.py has written.")
    if faults or folder is None:
        raise ConfigError(faults)
    return folder


if __name__ == "__main__":
    sys.exit(main())
