"""A look at a run before it is trained: its tables alone (mode=inspect), or one trial of its longest batch too."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from leyden.artifacts.endings import disk_errors
from leyden.artifacts.folder import RunFolder, created_folder, plan_folder
from leyden.artifacts.preparation import announce, keep_description, prepared, with_seed
from leyden.artifacts.run_log import RunLog
from leyden.report.report import write_report
from leyden.settings.command import typed_overrides
from leyden.settings.resuming import by_key
from leyden.settings.schema import Settings
from leyden.training.reading import find_columns

LOOKING = ("mode", "dry_run")

log = logging.getLogger(__name__)


def look(settings: Settings, job_folder: Path | None = None) -> float:
    """Do all that comes before the weights, and write what was seen: `data.json` and `report.html`.

    The folder is that of the run; a training takes its place without `overwrite`.

    Args:
        settings: checked.
        job_folder: the folder of this job inside a sweep.

    Returns:
        NaN: nothing was trained that could be measured.
    """
    settings = with_seed(settings)
    folder = plan_folder(settings, job_folder)
    with disk_errors(folder.path), RunLog() as run_log, ExitStack() as stack:
        settings = find_columns(settings)
        material = stack.enter_context(prepared(settings, folder))
        stack.enter_context(created_folder(folder, settings, typed_overrides()))
        run_log.open(folder.log)
        announce(material)
        keep_description(material, settings, folder)
        write_report(folder.path)
    print(last_words(folder, typed_overrides()))
    return math.nan


def last_words(folder: RunFolder, typed: Iterable[str]) -> str:
    """Where things are, and the command that trains.

    Args:
        folder: that was written into.
        typed: the overrides of the command line.
    """
    words = [text for key, text in by_key(typed).items() if key not in LOOKING]
    if "experiment_name" not in by_key(typed):
        words.append(f"experiment_name={folder.path.name}")
    command = " ".join(shlex.quote(word) for word in ["python", "train.py", *words])
    return f"The data check is in {folder.path / 'report.html'}. Nothing was trained. Next: {command}"
