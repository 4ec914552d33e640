"""One process of several: `python -m leyden.artifacts.worker RUN_FOLDER`, started by a job or by Lightning."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from omegaconf import OmegaConf

from leyden.artifacts.folder import RunFolder
from leyden.artifacts.job import finish_job, prepared
from leyden.artifacts.run_log import RunLog
from leyden.settings.command import USER_FAULT, report
from leyden.settings.errors import LeydenError
from leyden.settings.read import parse, saved_config
from leyden.settings.schema import Settings
from leyden.training.run import is_later_rank


def main(path: Path) -> int:
    """Train with the settings that the run folder holds; return the exit code."""
    folder = RunFolder(path)
    settings = parse(OmegaConf.create(saved_config(path / "config.yaml")), Settings)
    try:
        with RunLog(quiet=is_later_rank()) as run_log, prepared(settings, folder) as material:
            run_log.open(folder.log)
            finish_job(settings, material, folder, int(os.environ.get("LEYDEN_REQUESTED_SEED", settings.seed)))
    except LeydenError as error:
        if settings.debug:
            raise
        if not is_later_rank():
            report(error)
        return USER_FAULT
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
