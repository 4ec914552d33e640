"""Signals where no run listens for them, before, between and after jobs; and pipes that nobody reads any more."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, TextIO

SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT = 128  # plus the number of the signal: the convention of shells
LOOK = 1.0  # seconds between two looks for the process that has started a job
before_the_end: list[Callable[[int], None]] = []  # what is done with a signal before it ends this process


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Have SIGTERM and Ctrl-C end this process in order, with the code of shells and a line in place of a traceback.

    A pipe that nobody reads any more ends it too, as `ended_unread` says. A run inside the block listens itself. Only a
    main thread can listen.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, _end) for signum in SIGNALS}
    try:
        with ended_unread():
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


@contextmanager
def ended_unread() -> Iterator[None]:
    """End this process without a word once nobody reads what it says: `python predict.py ... | head -1`.

    With the code that a shell has for SIGPIPE, of which Python makes an error.
    """
    try:
        try:
            yield
        except SystemExit:
            _say_all()
            raise
        _say_all()
    except BrokenPipeError:  # of a stream, or of a connection, whose end is a fault like any other
        if not sum([_silence(stream) for stream in (sys.stdout, sys.stderr)]):  # both, whichever it was
            raise
        raise SystemExit(EXIT + signal.SIGPIPE) from None


def _say_all() -> None:
    """Write what is still held back: Python would do it later, with last words of its own where nobody reads it."""
    if sys.stdout is not None:  # None: it was closed before this began
        sys.stdout.flush()


def _silence(stream: TextIO | None) -> bool:
    """Whether nobody reads a stream any more; what is still written to it goes nowhere from then on."""
    if stream is None:
        return False
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # in place of a stream there is something without a file
        return False
    poll = select.poll()
    poll.register(number, 0)
    closed = any(state & (select.POLLERR | select.POLLHUP) for _, state in poll.poll(0))
    if closed:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
    return closed


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
        if not _silence(sys.stdout):
            raise
