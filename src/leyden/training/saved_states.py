"""A checkpoint on the disk: written whole or not at all, checked before it is used."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leyden.data.cache import flush
from leyden.settings.resuming import CONFIG, identity
from leyden.training.callbacks import Point

log = logging.getLogger(__name__)

STATE = "state.ckpt"
MANIFEST = "manifest.json"
PATTERN = "step-*"
OWN = "sha256"  # of the manifest


@dataclass(frozen=True)
class SavedState:
    """A checkpoint on the disk.

    Attributes:
        path: its folder.
        point: the step it was written after, and the metrics if that was evaluated; else there are none.
        size: bytes of all its files.
        resumable: it holds the optimizer too; the one before the first update holds weights alone.
        settled: what was found in place of settings that say `auto`, by key.
        grown: bytes and sha256 of the files that grow with the run, by name, at that time.
        position: where in the epochs, as keywords of `Position`; empty before the training.
        run: identity of the run; empty if it has none.
        rows: sha256 of the table of each part.
    """

    path: Path
    point: Point
    size: int
    resumable: bool
    settled: Mapping[str, Any] = field(default_factory=dict)
    grown: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    position: Mapping[str, int] = field(default_factory=dict)
    run: str = ""
    rows: Mapping[str, str] = field(default_factory=dict)


class DamagedError(Exception):
    """A checkpoint that is not as it was written; the text says what is wrong with it."""


def finish_state(path: Path, about: Mapping[str, Any]) -> int:
    """Make a checkpoint of what was written into `partial_of(path)`: flush it, write its manifest, rename it.

    A folder of that name that is there already is replaced.

    Args:
        path: of the checkpoint.
        about: goes into the manifest, beside size and sha256 of each file.

    Returns:
        The bytes of all files.
    """
    partial, old = partial_of(path), path.with_name(f".{path.name}.old")
    size = _seal(partial, about)
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    partial.rename(path)
    flush(path.parent)
    shutil.rmtree(old, ignore_errors=True)
    return size


def partial_of(path: Path) -> Path:
    """Where a checkpoint is written before it is whole."""
    return path.with_name(f".{path.name}.partial")


def read_state(path: Path, *, checked: bool = False) -> SavedState:
    """A checkpoint, if every file is as it was written.

    Args:
        path: its folder.
        checked: by the process that started this one; the files are not read again.

    Raises:
        DamagedError: it is not.
    """
    try:
        said = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if said.pop(OWN) != _digest(said):
            raise ValueError("its own sha256 is another")
        files, metrics = dict(said["files"]), {name: _number(value) for name, value in said["metrics"].items()}
        point = Point(int(said["step"]), int(said["samples"]), metrics)
        rest = (
            bool(said["resumable"]),
            dict(said["settled"]),
            dict(said["grown"]),
            dict(said["position"]),
            str(said["run"]),
            dict(said["rows"]),
        )
    except OSError as error:
        raise DamagedError(f"{MANIFEST} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{MANIFEST} is not as it was written ({type(error).__name__}: {error})") from error
    if STATE not in files:
        raise DamagedError(f"{MANIFEST} does not list {STATE}")
    for name, facts in files.items():
        file = path / name
        if not file.is_file():
            raise DamagedError(f"{name} is not there")
        if file.stat().st_size != facts["bytes"]:
            raise DamagedError(f"{name} has {file.stat().st_size} bytes in place of {facts['bytes']}")
        if not checked and sha256(file) != facts["sha256"]:
            raise DamagedError(f"{name} has another sha256 than {MANIFEST} says")
    size = sum(int(facts["bytes"]) for facts in files.values()) + (path / MANIFEST).stat().st_size
    return SavedState(path, point, size, *rest)


def saved_states(folder: Path, *, checked: bool = False) -> list[SavedState]:
    """The checkpoints of a run that are whole, oldest first; each other one is named and left where it is."""
    found: list[SavedState] = []
    run = identity(folder.parent / CONFIG)
    for path in sorted(folder.glob(PATTERN)):
        try:
            state = read_state(path, checked=checked)
            if run and state.run and state.run != run:
                log.warning("%s belongs to another run and is passed over.", path)
            else:
                found.append(state)
        except DamagedError as error:
            log.warning("%s is damaged and is passed over: %s.", path, error)
    return found


def forget_unfinished(folder: Path) -> None:
    """Delete what a run that was killed while it saved has left beside the checkpoints.

    A checkpoint that was being replaced is put back if the new one is not there.
    """
    for old in folder.glob(".step-*.old"):
        place = old.with_name(old.name[1:].removesuffix(".old"))
        if place.exists():
            shutil.rmtree(old)
        else:
            old.rename(place)
    for partial in folder.glob(".step-*.partial"):
        log.info("%s was not finished and is deleted.", partial)
        shutil.rmtree(partial)
    for deleted in folder.glob(".step-*.deleted"):
        shutil.rmtree(deleted)


def delete_state(path: Path) -> None:
    """Delete a checkpoint so that a kill leaves none that looks damaged."""
    deleted = path.with_name(f".{path.name}.deleted")
    path.rename(deleted)
    shutil.rmtree(deleted)


def about(  # noqa: PLR0913
    point: Point,
    *,
    resumable: bool,
    settled: Mapping[str, Any],
    position: Mapping[str, int],
    growing: Sequence[Path],
    run: str,
    rows: Mapping[str, str],
) -> dict[str, Any]:
    """What the manifest of a checkpoint says besides its files; flushes the files that grow, so that they last too.

    Args:
        point: step, samples and metrics.
        resumable: whether the optimizer is in it.
        settled: what was found in place of settings that say `auto`.
        position: where in the epochs.
        growing: files of the run that are only ever appended to.
        run: identity of the run.
        rows: sha256 of the table of each part.
    """
    there = [path for path in growing if path.exists()]
    for path in there:
        flush(path)
    metrics = {name: value if math.isfinite(value) else None for name, value in point.metrics.items()}
    return {
        "step": point.step, "samples": point.samples, "metrics": metrics, "resumable": resumable,
        "settled": dict(settled), "position": dict(position), "run": run, "rows": dict(rows),
        "grown": {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in there},
    }  # fmt: skip


def sha256(path: Path) -> str:
    """Hash of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(folder: Path, content: Mapping[str, Any]) -> int:
    """Flush every file, write the manifest last; return the bytes of all."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        flush(path)
    listed = {str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps(sealed({**content, "files": listed}), indent=2) + "\n", encoding="utf-8")
    flush(manifest)
    flush(folder)
    return sum(path.stat().st_size for path in [*files, manifest])


def sealed(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says, with the hash of it by which `read_state` knows that it is as it was written."""
    content = {name: value for name, value in said.items() if name != OWN}
    return {**content, OWN: _digest(content)}


def _digest(said: Mapping[str, Any]) -> str:
    """Hash of what a manifest says, but for the hash itself."""
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
