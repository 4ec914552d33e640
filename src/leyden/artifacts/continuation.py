"""A run folder that is opened again: what of it is whole, what is cut off, and what has changed since."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from leyden.artifacts.folder import RunFolder
from leyden.artifacts.metrics_file import HEADER
from leyden.settings.read import dump, saved_config
from leyden.settings.resuming import CONFIG, differences, typed_in
from leyden.settings.schema import Settings
from leyden.training.saved_states import SavedState, forget_unfinished, saved_states

log = logging.getLogger(__name__)

RESUMES = "resumes.jsonl"  # one line per time that a run was gone on with
GROWING = ("metrics.csv",)


def changed(folder: RunFolder, settings: Settings) -> dict[str, list[Any]]:
    """What differs from the settings that a run has had so far: key to old and new value."""
    return differences(saved_config(folder.path / CONFIG), dump(settings))


def reopen(folder: RunFolder, settings: Settings) -> list[SavedState]:
    """Bring a run folder back to its newest checkpoint that is whole, and note that the run goes on.

    What was logged after that checkpoint is cut off, since it will be logged again. Without a checkpoint the run begins
    anew, in the same folder.

    Args:
        folder: locked.
        settings: with which it goes on.

    Returns:
        The checkpoints that are whole, oldest first; none if the run begins anew.
    """
    forget_unfinished(folder.checkpoints)
    states = saved_states(folder.checkpoints)
    resumable = [state for state in states if state.resumable]
    states = [state for state in states if resumable and state.point.step <= resumable[-1].point.step]
    lengths = states[-1].lengths if states else {}
    for name in GROWING:
        cut(folder.path / name, lengths.get(name, 0))
    if states:
        log.info("The run goes on after update %d, from %s.", states[-1].point.step, states[-1].path)
    else:
        log.warning("%s has no checkpoint to go on from, so the run begins anew.", folder.path)
        shutil.rmtree(folder.checkpoints, ignore_errors=True)
    _note(folder, settings, states)
    return states


def cut(path: Path, length: int) -> None:
    """Shorten a file that grows with the run to what it had at a checkpoint, and say how many lines that takes.

    The rest goes to the end of `cut_off(path)`, since trackers have had it already. A file of which nothing is kept is
    deleted.
    """
    if not path.exists():
        return
    with path.open("r+b") as file:
        file.seek(length)
        if rest := file.read():
            log.info("%s: %d lines after the checkpoint are cut off, and come again.", path.name, rest.count(b"\n"))
            with cut_off(path).open("ab") as kept:
                kept.write(rest if rest.endswith(b"\n") else rest + b"\n")
        file.truncate(length)
    if not length:
        path.unlink()


def cut_off(path: Path) -> Path:
    """Where the lines are that were cut off a file."""
    return path.with_name(f".{path.name}.cut-off")


def sent_before(folder: Path) -> frozenset[tuple[int, str]]:
    """Step and name of each number that trackers have had from a part of the run that is done again."""
    path = cut_off(folder / GROWING[0])
    if not path.exists():
        return frozenset()
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = [
            row for row in csv.reader(file) if len(row) == len(HEADER) and row[0].isdigit()
        ]  # a kill may leave half
    return frozenset((int(step), name) for step, _, name, _ in rows)


def resumes(folder: Path) -> list[dict[str, Any]]:
    """When a run was gone on with, after which update, and what was changed then."""
    path = folder / RESUMES
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _note(folder: RunFolder, settings: Settings, states: Sequence[SavedState]) -> None:
    """Keep what has changed, in the list of resumes and in the config."""
    new = changed(folder, settings)
    for key, (old, value) in new.items():
        log.info("%s is %s from here on; it was %s.", key, value, old)
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "after_update": states[-1].point.step if states else 0,
        "changes": new,
    }
    with (folder.path / RESUMES).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    folder.write_config(settings, list(typed_in(folder.path / CONFIG).values()))
