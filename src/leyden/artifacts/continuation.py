"""A run folder that is opened again: what of it is whole, what is cut off, and what has changed since."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from leyden.artifacts.folder import DONE, FAILED, RUNNING, SAVED, RunFolder, status_of
from leyden.artifacts.metrics_file import HEADER
from leyden.artifacts.whole import write_whole
from leyden.settings.errors import ConfigError
from leyden.settings.read import dump, saved_config
from leyden.settings.resuming import CONFIG, differences, typed_in
from leyden.settings.schema import Settings
from leyden.training.saved_states import PATTERN, SavedState, forget_unfinished, saved_states

log = logging.getLogger(__name__)

RESUMES = "resumes.jsonl"  # one line per time that a run was gone on with
GROWING = ("metrics.csv",)


def changed(folder: RunFolder, settings: Settings) -> dict[str, list[Any]]:
    """What differs from the settings that a run has had so far: key to old and new value."""
    return differences(saved_config(folder.path / CONFIG), dump(settings))


def reopen(folder: RunFolder, settings: Settings) -> list[SavedState]:
    """Bring a run folder back to its newest checkpoint that is whole.

    What was logged after that checkpoint is cut off, since it will be logged again. Without a checkpoint the run begins
    anew, in the same folder.

    Args:
        folder: locked.
        settings: with which it goes on.

    Returns:
        The checkpoints that are whole, oldest first; none if the run begins anew.

    Raises:
        ConfigError: there are checkpoints, and none is whole; or the run has ended and there is none.
    """
    forget_unfinished(folder.checkpoints)
    saved = saved_states(folder.checkpoints)
    resumable = [state for state in saved if state.resumable]
    states = [state for state in saved if resumable and state.point.step <= resumable[-1].point.step]
    if not states and (lost := sorted({*folder.checkpoints.glob(PATTERN)} - {one.path for one in saved})):
        raise ConfigError(
            f"{folder.path} has {len(lost)} checkpoints and none that is whole, so its training is lost unless you can "
            f"put one back. To train it again from the start, delete {folder.checkpoints}."
        )
    if not states and status_of(folder.path) in (DONE, SAVED, FAILED):
        raise ConfigError(
            f"{folder.path} was trained to its end and has no checkpoint to go on from (checkpoint="
            f"{settings.checkpoint.policy}), so there is nothing that could be trained further. Start a new run."
        )
    for name in GROWING:
        cut(folder.path / name, states[-1].grown.get(name) if states else None)
    if states:
        log.info("The run goes on after update %d, from %s.", states[-1].point.step, states[-1].path)
    else:
        log.warning("%s has no checkpoint to go on from, so the run begins anew.", folder.path)
        shutil.rmtree(folder.checkpoints, ignore_errors=True)
    return states


def cut(path: Path, known: Mapping[str, Any] | None) -> None:
    """Shorten a file that grows with the run to what it had at a checkpoint, and say how many lines that takes.

    The rest goes to the end of `cut_off(path)`, since trackers have had it already. A file of which nothing is kept is
    deleted. Of one that has not what it had, what is left stays; the training can go on without it.

    Args:
        path: of the file.
        known: bytes and sha256 at the checkpoint; None if there was no such file.
    """
    length = int(known["bytes"]) if known else 0
    if known:
        content = path.read_bytes()[:length] if path.exists() else b""
        if hashlib.sha256(content).hexdigest() != known["sha256"]:
            log.warning(
                "%s is not as it was at the checkpoint: %d of %d bytes are there%s. What is lost of it does not come "
                "back; the training goes on.",
                path.name, len(content), length, ", and some are other ones" if len(content) == length else "",
            )  # fmt: skip
            length = content.rfind(b"\n") + 1
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


def requested_seed(folder: RunFolder, settings: Settings, *, goes_on: bool) -> int:
    """The seed that a run was begun with: -1 where the one in its config was drawn."""
    return -1 if goes_on and typed_in(folder.path / CONFIG).get("seed") == "seed=-1" else settings.seed


def resumes(folder: Path) -> list[dict[str, Any]]:
    """When a run was gone on with, after which update, and what was changed then; a damaged line is named."""
    path = folder / RESUMES
    found: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else [], 1):
        try:
            found.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            log.warning("%s, line %d is damaged and is passed over.", path, number)
    return found


def note(folder: RunFolder, settings: Settings, states: Sequence[SavedState]) -> None:
    """Note that a run goes on, once nothing speaks against it: in the list of resumes, in the config, as its state."""
    manifest = folder.path / "manifest.json"
    if status_of(folder.path) is not None:
        said = {**json.loads(manifest.read_text(encoding="utf-8")), "status": RUNNING}
        write_whole(manifest, json.dumps(said, indent=2, ensure_ascii=False) + "\n")
    new = changed(folder, settings)
    for key, (old, value) in new.items():
        log.info("%s is %s from here on; it was %s.", key, value, old)
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "after_update": states[-1].point.step if states else 0,
        "changes": new,
    }
    lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in (*resumes(folder.path), entry)]
    write_whole(folder.path / RESUMES, "".join(lines))
    folder.write_config(settings, list(typed_in(folder.path / CONFIG).values()))
