"""Objects kept on disk with their arrays beside them: opening one reads no array, which are mapped into memory."""

from __future__ import annotations

import json
import mmap
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import numpy as np
import pyarrow as pa

from leyden.data.cache import cached_folder, checksum, forget_unused
from leyden.data.unpickling import unpickled

Kept = TypeVar("Kept")

OBJECT, ARRAYS, INDEX = "object.pickle", "arrays.bin", "index.json"
ALIGNED = 64  # bytes; what Arrow asks for
UNUSED = 30 * 24 * 3600.0  # seconds after which an object that no start has asked for is removed


def kept(kind: str, key: str, make: Callable[[], Kept]) -> tuple[Kept, bool]:
    """The object of a key, made when it is not there yet; arrays of numpy and Arrow in it are memory maps, read-only.

    Making one removes those of its kind that were not used for 30 days.

    Args:
        kind: what it is, such as `tables`.
        key: content hash of everything the object depends on, the code that makes it included.
        make: makes it. What it raises is raised, and nothing is kept.

    Returns:
        The object, and whether an earlier start had made it.

    Raises:
        ConfigError: the cache folder cannot be written.
    """
    made: list[object] = []
    found: list[object] = []

    def fill(folder: Path) -> None:
        made.append(make())
        _write(folder, made[0])

    def sound(folder: Path) -> bool:
        found[:] = _opened(folder)
        return bool(found)

    folder = cached_folder(kind, key, fill, sound=sound)
    if not made:
        with suppress(OSError):  # of a cache that can only be read
            os.utime(folder)
        return cast(Kept, found[0]), True
    (content,) = _opened(folder) or made
    made.clear()
    forget_unused(kind, UNUSED, but=key)
    pa.default_memory_pool().release_unused()
    return cast(Kept, content), False


def _write(folder: Path, content: object) -> None:
    buffers: list[pickle.PickleBuffer] = []
    (folder / OBJECT).write_bytes(pickle.dumps(content, protocol=5, buffer_callback=buffers.append))
    written: dict[tuple[int, int], int] = {}  # arrays that share their memory share it in the file, too
    places = []
    with (folder / ARRAYS).open("wb") as file:
        for view in [buffer.raw() for buffer in buffers]:
            memory = (int(np.frombuffer(view, np.uint8).ctypes.data), view.nbytes)
            if memory not in written:
                file.write(bytes(-file.tell() % ALIGNED))
                written[memory] = file.tell()
                file.write(view)
            places.append((written[memory], view.nbytes))
    sums = [checksum(folder / name) for name in (OBJECT, ARRAYS)]
    (folder / INDEX).write_text(json.dumps({"places": places, "checksums": sums}), encoding="utf-8")


def _opened(folder: Path) -> list[object]:
    """The object; nothing if its files are not as they were written, or name what has no place in them."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if [checksum(folder / name) for name in (OBJECT, ARRAYS)] != list(index["checksums"]):
            return []
        with (folder / ARRAYS).open("rb") as file:
            arrays = memoryview(_mapped(file))
        buffers = [arrays[start : start + size] for start, size in index["places"]]
        return [unpickled((folder / OBJECT).read_bytes(), buffers)]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, pickle.UnpicklingError):
        return []


def _mapped(file: BinaryIO) -> mmap.mmap | bytes:
    empty = not file.seek(0, 2)  # an empty file cannot be mapped
    return b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
