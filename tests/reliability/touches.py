"""What a run does to its files, in order: a list to draw from, and the same places to make something happen at."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
EVENTS = {  # of Python's audit, where their path is among the arguments, and where the folder it is relative to
    "os.rename": (1, 3), "os.mkdir": (0, 2), "os.remove": (0, 1), "os.rmdir": (0, 1), "os.utime": (0, None),
    "os.truncate": (0, None),
}  # fmt: skip
At = Callable[[str, str], None]


def watch(roots: Sequence[Path], at: At) -> None:
    """Call `at(event, path)` before this process changes anything below the roots, for the rest of its life.

    The path is relative to its root. What is raised there is what the call raises.
    """
    places = [f"{root}/" for root in roots]
    fsync = os.fsync

    def touched(event: str, path: str) -> None:
        for place in places:
            if path.startswith(place):
                at(event, path.removeprefix(place))

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        found = _change(event, arguments)
        if found is not None:
            touched(*found)

    def flushed(descriptor: int) -> None:
        touched("flush", os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    sys.addaudithook(heard)
    os.fsync = flushed


def _change(event: str, arguments: tuple[Any, ...]) -> tuple[str, str] | None:
    """What an audit event of Python changes: a short name of the call, and the path; None for any other event."""
    if event == "open":
        path, _, flags = arguments
        writes = isinstance(flags, int) and flags & WRITES
        return ("write", os.fsdecode(path)) if writes and isinstance(path, str | bytes) else None
    if event not in EVENTS:
        return None
    place, folder = EVENTS[event]
    if isinstance(arguments[place], int):
        return event.removeprefix("os."), os.readlink(f"/proc/self/fd/{arguments[place]}")
    path, descriptor = os.fsdecode(arguments[place]), -1 if folder is None else arguments[folder]
    if descriptor >= 0 and not path.startswith("/"):
        path = f"{os.readlink(f'/proc/self/fd/{descriptor}')}/{path}"
    return event.removeprefix("os."), path


def recorder(into: Path) -> At:
    """Writes every touch on a line of its own."""
    descriptor = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    return lambda event, path: os.write(descriptor, f"{event} {path}\n".encode()) and None


def at_touch(number: int, act: Callable[[str], None]) -> At:
    """Act before the touch of that number, counted from 0; the name of it is told."""
    count = [0]

    def at(event: str, path: str) -> None:
        count[0] += 1
        if count[0] == number + 1:
            os.write(2, f"[fault at touch {number}: {event} {path}]\n".encode())
            act(path)

    return at


def kill(_: str) -> None:
    """As a machine that loses its power."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_writing(root: Path, more: int) -> Callable[[str], None]:
    """The system kills this process in the middle of a write: when a file would grow by more than so many bytes."""

    def act(path: str) -> None:
        file = root / path
        size = file.stat().st_size if file.is_file() else 0
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + more, size + more))

    return act


def fail(number: int) -> Callable[[str], None]:
    """The call fails with that error of the system."""

    def act(path: str) -> None:
        raise OSError(number, os.strerror(number), path)

    return act


def group(line: str) -> str:
    """Touches of one kind: the same call on the same file, whatever the step and the key."""
    return re.sub(r"[0-9a-f]{32}[^/]*|step-\d+|_\w{8}\b", "*", line)
