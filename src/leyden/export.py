"""Write the model of a run for use elsewhere: `python -m leyden.export run=outputs/NAME merge=true`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from leyden.settings.help import help_text
from leyden.settings.plain_command import run_plain
from leyden.settings.read_export import NAME, compose_export, read_export
from leyden.settings.read_predict import CONFIG_DIR
from leyden.settings.schema import ExportSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Export the model of a run and say what was found.

    Args:
        arguments: of the command line; None: those of this process.

    Returns:
        0 done, 2 a fault of the user, 1 a model that is not what was trained.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")  # the libraries' bars
    return run_plain(_export, lambda: help_text(NAME, CONFIG_DIR, ExportSettings), arguments, debug=True)


def _export(words: Sequence[str]) -> None:
    wanted = read_export(compose_export(words))
    from leyden.artifacts.export_run import export_run  # late: a refused command does not wait for torch

    export_run(*wanted)


if __name__ == "__main__":
    sys.exit(main())
