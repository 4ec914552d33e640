"""Import an experiment of H2O LLM Studio: `python -m leyden.import_h2o old.yaml`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from leyden.settings.command import report
from leyden.settings.errors import USER_FAULT, ConfigError
from leyden.settings.h2o_command import import_file
from leyden.settings.stops import ended_by_signals


@ended_by_signals()
def main(arguments: Sequence[str] | None = None) -> int:
    """Write our experiment file, and say what became of each key.

    Args:
        arguments: of the command line; None: those of this process.

    Returns:
        0 done, 2 a fault of the user; then nothing is written.
    """
    parser = argparse.ArgumentParser("python -m leyden.import_h2o", description=__doc__)
    parser.add_argument("old", type=Path, help="saved experiment file of H2O LLM Studio (.yaml)")
    parser.add_argument("--output", type=Path, help="new file; default: conf/experiment/NAME.yaml")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    parser.add_argument("--conf", type=Path, help="folder of the config groups; default: conf here or of the checkout")
    options = parser.parse_args(arguments)
    try:
        print(import_file(options.old, options.output, options.conf, force=options.force))
    except ConfigError as error:
        report(error)
        return USER_FAULT
    return 0


if __name__ == "__main__":
    sys.exit(main())
