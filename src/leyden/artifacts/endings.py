"""How a run has ended: what was wrong with it, where to go on from, what a disk that takes no more means."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leyden.artifacts.continuation import changed
from leyden.artifacts.folder import DONE, FAILED, RunFolder, status_of
from leyden.artifacts.parent import PARENT
from leyden.settings.errors import ExportError, LeydenError, MetricError, TrainingError
from leyden.settings.escapes import argument
from leyden.settings.schema import Settings
from leyden.training.devices import is_later_rank
from leyden.training.disk import refusal
from leyden.training.interrupts import Stopped
from leyden.training.outcome import Run
from leyden.training.saved_states import PATTERN

log = logging.getLogger(__name__)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Name the cure where a file of a run cannot be written.

    Args:
        folder: of the run.

    Raises:
        TrainingError: the disk, its quota or its permissions are in the way.
    """
    try:
        yield
    except LeydenError:
        raise
    except Exception as error:
        number = refusal(error)
        if number is None:
            raise
        named = getattr(error, "filename", None)
        raise TrainingError(
            f"{named or folder} cannot be read or written: {os.strerror(number)}. What {folder} has is kept. Free "
            f"some space or mend the folder, then go on with resume={folder}."
        ) from error


@contextmanager
def where_to_go_on(folder: RunFolder) -> Iterator[None]:
    """Say, when a run ends before its time, how it can be gone on with; a command says it for its workers."""
    try:
        yield
    except BaseException as error:
        if is_later_rank() or PARENT in os.environ:
            raise
        newest = max(folder.checkpoints.glob(PATTERN), default=None)
        again = f"python train.py {argument('resume', str(folder.path))}"
        if newest is not None:
            log.warning("The newest checkpoint is %s. To go on from there: %s", newest.name, again)
        elif isinstance(error, Stopped):
            log.warning("There is no checkpoint yet. To begin anew in the same folder: %s", again)
        raise


def finished_metric(folder: RunFolder, settings: Settings) -> float | None:
    """The first metric of a run that has come to its end and that nothing was changed in since; None of another one.

    Raises:
        LeydenError: what was wrong with it in the end.
    """
    if status_of(folder.path) not in (DONE, FAILED) or changed(folder, settings):
        return None
    metric = kept_metric(folder, settings)
    if metric is not None:
        raise_faults(folder)
        log.info("%s is finished, and nothing has changed: there is nothing to do.", folder.path)
    return metric


def faults_of(run: Run, verdict: Mapping[str, Any], folder: RunFolder) -> dict[str, list[str]]:
    """What is wrong with a run that has come to its end: with the saved model, and with metrics."""
    metrics = [
        f"validation/{name} is NaN in {times} evaluations, the rest is saved in {folder.path}. Last: {error}"
        for name, (times, error) in run.module.failures.items()
    ]
    return {"export": list(verdict.get("faults", [])), "metrics": metrics}


def raise_faults(folder: RunFolder) -> None:
    """Raise what was wrong with a run that has come to its end, as its manifest keeps it.

    Raises:
        ExportError: the saved model is not what was trained; what metrics said is added.
        MetricError: a metric has failed in an evaluation after training had begun.
    """
    faults = json.loads((folder.path / "manifest.json").read_text(encoding="utf-8")).get("faults") or {}
    if faults.get("export"):
        raise ExportError([*faults["export"], *faults["metrics"]])
    if faults.get("metrics"):
        raise MetricError(faults["metrics"])


def kept_metric(folder: RunFolder, settings: Settings) -> float | None:
    """The first metric of the weights that a finished run keeps; None if its results cannot be read."""
    path = folder.path / "results.json"
    try:
        results = json.loads(path.read_bytes())
        kept = results[settings.checkpoint.kept] or results["final"]
        value = kept[f"validation/{next(iter(settings.metric))}"]
        return math.nan if value is None else float(value)
    except (OSError, ValueError, LookupError, TypeError) as error:
        log.warning("%s is damaged (%s: %s).", path, type(error).__name__, error)
        return None
