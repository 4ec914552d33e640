"""Folders that are filled once and found again by what they hold: tokens, converted weights."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from leyden.settings.errors import ConfigError
from leyden.settings.paths import user_path

log = logging.getLogger(__name__)

BLOCK = 1 << 20  # bytes of a file that are in memory at a time
LIST = ".files.json"  # of a folder that `listed` has filled
READ = 16 * BLOCK  # bytes up to which a file is read to see whether it is whole
FULL = (errno.ENOSPC, errno.EDQUOT)  # no space is left on the disk, or none that the user may take
_LOOKED_AT: set[Path] = set()  # folders of a kind that this process has cleaned


def cache_root() -> Path:
    """The folder of all caches: `LEYDEN_CACHE`, else `leyden` in the user's cache folder."""
    chosen = os.environ.get("LEYDEN_CACHE")
    if chosen:
        return user_path(chosen)
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


def checksum(path: Path) -> int:
    """CRC-32 of a file, read block by block, so that it does not fill the memory."""
    total, block = 0, bytearray(BLOCK)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(block):
            total = zlib.crc32(memoryview(block)[:size], total)
    return total


def flush(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cached_folder(
    kind: str,
    key: str,
    fill: Callable[[Path], None],
    *,
    root: Path | None = None,
    sound: Callable[[Path], bool] = Path.is_dir,
) -> Path:
    """The folder `<root>/<kind>/<key>`, filled when it is not there yet.

    It is filled beside its place and renamed, so a folder that exists is complete; a lock lets one process of several
    do the work.

    Args:
        kind: what it holds, such as `tokens`.
        key: content hash of everything the folder depends on.
        fill: writes the files into the empty folder it is given.
        root: another place than `cache_root()`.
        sound: says of a folder that exists whether its files are as they were written; if not, it is filled anew.

    Raises:
        ConfigError: the cache folder cannot be written, or its disk is full.
    """
    if found := known_folder(kind, key, root=root, sound=sound):
        return found
    parent = (root or cache_root()) / kind
    target = parent / key
    with _locked(parent, key):
        if target.is_dir() and not sound(target):
            log.warning("%s is damaged and is made again.", target)
            shutil.rmtree(target)
        if not target.is_dir():
            for left in parent.glob(f".{key}-*"):  # of a process that was killed; the lock says that it is gone
                shutil.rmtree(left, ignore_errors=True)
            with _fresh(parent, key) as fresh:
                fill(fresh)
                fresh.rename(target)
    return target


def listed(fill: Callable[[Path], None]) -> Callable[[Path], None]:
    """Fill a folder, then list its files in it, so that `as_listed` can say whether they are whole."""

    def filled(folder: Path) -> None:
        fill(folder)
        (folder / LIST).write_text(json.dumps(_facts(folder)), encoding="utf-8")

    return filled


def as_listed(folder: Path) -> bool:
    """Whether a folder that `listed` has filled holds what was written: the size of each file, and what small ones say.

    Weights are not read for it: that would take as long as the rest of a start.
    """
    try:
        return bool(json.loads((folder / LIST).read_bytes()) == _facts(folder))
    except (OSError, ValueError):
        return False


def _facts(folder: Path) -> dict[str, list[int]]:
    """Bytes of each file, and the checksum of small ones."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != LIST)
    sizes = [(path, path.stat().st_size) for path in files]
    return {
        str(path.relative_to(folder)): [size, checksum(path) if size <= READ else 0] for path, size in sizes
    }  # fmt: skip


def known_folder(
    kind: str, key: str, *, root: Path | None = None, sound: Callable[[Path], bool] = Path.is_dir
) -> Path | None:
    """The folder that `cached_folder` would return without filling it; None if it would have to."""
    target = (root or cache_root()) / kind / key
    return target if target.is_dir() and sound(target) else None


def forget_unused(kind: str, seconds: float, *, but: str) -> None:
    """Remove the folders of a kind that were last filled or touched so long ago, each under its lock.

    Each process looks once: a sweep of many jobs would look at all folders for every job. What is being filled, or
    cannot be removed, is left where it is.

    Args:
        kind: as for `cached_folder`.
        seconds: how long a folder may stand unused.
        but: the key of a folder that stays in any case.
    """
    parent = cache_root() / kind
    if parent in _LOOKED_AT:
        return
    _LOOKED_AT.add(parent)
    oldest = time.time() - seconds
    with os.scandir(parent) as entries:
        unused = [Path(entry) for entry in entries if entry.is_dir() and entry.stat().st_mtime < oldest]
    for folder in unused:
        key = folder.name.removeprefix(".").partition("-")[0]  # also of one that a killed process left half-written
        if key == but:
            continue
        with suppress(OSError, Timeout), FileLock(parent / f".{key}.lock", blocking=False):
            if folder.stat().st_mtime < oldest:  # seen under the lock: another process may have filled it anew
                shutil.rmtree(folder)


@contextmanager
def _fresh(parent: Path, key: str) -> Iterator[Path]:
    """A folder to fill, which is gone afterwards unless it was renamed."""
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=parent))
        yield folder
    except Exception as error:
        if _says_full(error):
            raise ConfigError(
                f"The disk of the cache folder {parent} is full. Make room there, or set the variable LEYDEN_CACHE to "
                "a folder with more space, or cache=off."
            ) from error
        raise
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _says_full(error: Exception) -> bool:
    """Whether the disk is full; numpy and the library that writes weights give no number, but say so in words."""
    if isinstance(error, OSError):
        return error.errno in FULL or (error.errno is None and str(error).endswith(" written"))
    return any(f"(os error {number})" in str(error) for number in FULL)


@contextmanager
def _locked(parent: Path, key: str) -> Iterator[None]:
    lock = FileLock(parent / f".{key}.lock")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise ConfigError(
            f"The cache folder {parent} cannot be written: {error.strerror}. Set the variable LEYDEN_CACHE to a folder "
            "that can, or cache=off."
        ) from error
    try:
        yield
    finally:
        lock.release()
