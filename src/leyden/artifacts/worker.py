"""One process of several: `python -m leyden.artifacts.worker RUN_FOLDER`, started by a job or by Lightning."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from leyden.artifacts.parent import end_with_parent

if __name__ == "__main__":
    end_with_parent()  # before the seconds that the rest takes to load

from omegaconf import OmegaConf

import leyden.artifacts.libraries  # noqa: F401  first, and for what it leaves out
from leyden.artifacts.folder import RunFolder
from leyden.artifacts.job import finish_job
from leyden.artifacts.preparation import prepared
from leyden.artifacts.run_log import RunLog
from leyden.artifacts.workers import GOES_ON, REQUESTED_SEED
from leyden.settings.command import report
from leyden.settings.errors import LeydenError
from leyden.settings.read import parse, saved_config
from leyden.settings.schema import Settings
from leyden.training.devices import is_later_rank, world_size
from leyden.training.interrupts import Interrupts, Stopped
from leyden.training.saved_states import saved_states


def main(path: Path) -> int:
    """Train with the settings that the run folder holds; return the exit code."""
    folder, interrupts = RunFolder(path), Interrupts()
    settings = parse(OmegaConf.create(saved_config(path / "config.yaml")), Settings)
    rank = _rank(settings) if settings.log_all_ranks else None
    speaks = rank is not None or not is_later_rank()
    try:
        with (
            interrupts.listening(),
            RunLog(quiet=not speaks, terse=settings.trainer.progress == "none", rank=rank) as run_log,
            prepared(settings, folder) as material,
        ):
            run_log.open(folder.log_of(rank or 0))
            seed = int(os.environ.get(REQUESTED_SEED, settings.seed))
            start = saved_states(folder.checkpoints, checked=True) if os.environ.get(GOES_ON) else []
            finish_job(settings, material, folder, seed, interrupts, start)
    except LeydenError as error:
        if settings.debug:
            raise
        if speaks:
            report(error)
        return error.code
    except Stopped:
        if not is_later_rank():
            raise
        # rank 0 writes what there is so far, and would be killed if another process ended with an error meanwhile
    return 0


def _rank(settings: Settings) -> int:
    """The number of this process among all: as a launcher says, else by its place on its machine."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    local = world_size(settings.trainer) // settings.trainer.num_nodes
    return int(os.environ.get("NODE_RANK", "0")) * local + int(os.environ.get("LOCAL_RANK", "0"))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
