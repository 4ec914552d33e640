"""Signals where no run listens for them: before the first job, between the jobs of a sweep, and after the last."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT = 128  # plus the number of the signal: the convention of shells
LOOK = 1.0  # seconds between two looks for the process that has started a job
before_the_end: list[Callable[[int], None]] = []  # what is done with a signal before it ends this process


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Have SIGTERM and Ctrl-C end this process in order, with the code of shells and a line in place of a traceback.

    A run inside the block listens itself. Only a main thread can.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, _end) for signum in SIGNALS}
    try:
        yield
    finally:
        before_the_end.clear()
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def job_ended_by_signals() -> Iterator[None]:
    """Have signals end a job in a process of its own, and the end of the process that has started it, however it came.

    Between jobs signals are left to the command: a process that waits for a job and dies of a Ctrl-C would take the
    others with it.
    """
    before_the_end.clear()
    parent, over = os.getppid(), threading.Event()
    threading.Thread(target=_end_with, args=(parent, over), daemon=True).start()
    for signum in SIGNALS:
        signal.signal(signum, _end)
    try:
        yield
    finally:
        over.set()
        for signum in SIGNALS:
            signal.signal(signum, signal.SIG_IGN)
        if os.getppid() != parent:  # nobody is there who would want another job
            os._exit(EXIT + signal.SIGTERM)


def _end_with(parent: int, over: threading.Event) -> None:
    while not over.wait(LOOK):
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            return


def _end(signum: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    for call in before_the_end:
        call(signum)
    print(f"{signal.Signals(signum).name}: this ends here.", file=sys.stderr)
    raise SystemExit(EXIT + signum)


@contextmanager
def unread() -> Iterator[None]:
    """Go on where nobody reads standard output any more: what was done is worth more than saying so."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
