"""Whether a process is writing into a run folder now: its lock, as far as others may read it without taking it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LOCK = ".lock"  # the file of a run folder that is locked; it says who has locked it last
# `struct flock` in C: where the type stands, and how the whole is packed
LAYOUTS = {"linux": (0, "hhqqi4x"), "darwin": (3, "qqihh")}

_held: dict[tuple[int, int], int] = {}  # lock files that a process holds, and which process


def said_in(descriptor: int) -> dict[str, Any]:
    """Who has locked a file last: `pid`, `host`, `since`; empty where it does not say."""
    try:
        said = json.loads(os.pread(descriptor, 1000, 0))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


@contextmanager
def holding(descriptor: int) -> Iterator[None]:
    """Remember, in the block, that this process holds the lock of an open file.

    The system cannot be asked: a process that opens such a file once more and closes it gives its lock away.
    """
    key = _key(os.fstat(descriptor))
    _held[key] = os.getpid()
    try:
        yield
    finally:
        _held.pop(key, None)


def is_written(folder: Path) -> bool | None:
    """Whether a process holds the lock of a run folder; None where that cannot be told.

    It cannot be told of a folder without a lock, of one that a process of another machine has locked last, since not
    every network disk shares locks, and where the system has none.

    Args:
        folder: of a run.
    """
    path = folder / LOCK
    try:
        if _held.get(_key(path.stat())) == os.getpid():
            return True
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        if said_in(descriptor).get("host") != socket.gethostname():
            return None
        return _is_locked(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool | None:
    """Ask who would be in the way of locking a file, without locking it: a run that begins now must not be refused."""
    place, layout = LAYOUTS.get(sys.platform, (0, ""))
    if not layout:
        return None
    wanted = [0] * len(struct.unpack(layout, bytes(struct.calcsize(layout))))
    wanted[place] = fcntl.F_WRLCK
    found = struct.unpack(layout, fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(layout, *wanted)))
    return bool(found[place] != fcntl.F_UNLCK)


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
