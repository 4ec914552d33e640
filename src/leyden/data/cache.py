"""Folders that are filled once and found again by what they hold: tokens, converted weights."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def cache_root() -> Path:
    """The folder of all caches: `LEYDEN_CACHE`, else `leyden` in the user's cache folder."""
    chosen = os.environ.get("LEYDEN_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leyden"


def content_key(*parts: object) -> str:
    """A key that changes when any part changes; parts are hashed by their text, in order."""
    digest = hashlib.sha256()
    for part in parts:
        text = repr(part).encode()
        digest.update(len(text).to_bytes(8, "little") + text)
    return digest.hexdigest()[:32]


def file_key(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached_folder(kind: str, key: str, fill: Callable[[Path], None], *, root: Path | None = None) -> Path:
    """The folder `<root>/<kind>/<key>`, filled when it is not there yet.

    It is filled beside its place and renamed, so a folder that exists is complete; a lock lets one process of several
    do the work.

    Args:
        kind: what it holds, such as `tokens`.
        key: content hash of everything the folder depends on.
        fill: writes the files into the empty folder it is given.
        root: another place than `cache_root()`.
    """
    parent = (root or cache_root()) / kind
    target = parent / key
    if target.is_dir():
        return target
    parent.mkdir(parents=True, exist_ok=True)
    with FileLock(parent / f".{key}.lock"):
        if not target.is_dir():
            fresh = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=parent))
            try:
                fill(fresh)
                fresh.rename(target)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
    return target
