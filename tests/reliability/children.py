"""Runs in forked processes: the libraries are loaded once, and a child can be killed without harm to anyone else."""

from __future__ import annotations

import logging
import multiprocessing.util
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from leyden.settings.command import PROGRAM_FAULT, USER_FAULT, report
from leyden.settings.errors import LeydenError

LONGEST = 180.0  # seconds after which a child is held to hang
PATIENCE = 15.0  # seconds that processes of a child may outlive it; workers look for their parent every 5


@dataclass(frozen=True)
class End:
    """How a child ended.

    Attributes:
        code: as a shell would have it; the negative number of a signal that killed it.
        said: everything it printed.
        seconds: it took.
        hung: it had to be killed, since it did not end.
        left: processes of it that were there long after it.
    """

    code: int
    said: str
    seconds: float
    hung: bool = False
    left: tuple[int, ...] = ()


@dataclass
class Child:
    """A child that runs.

    Attributes:
        pid: of the process, and of its session.
        log: where it prints.
        begun: when it started, by the monotonic clock.
        end: how it ended; None until it has.
    """

    pid: int
    log: Path
    begun: float
    end: End | None = None

    def wait(self, *, kill_after: float | None = None, longest: float = LONGEST) -> End:
        """Wait for its end, or bring it about with SIGKILL after so many seconds."""
        ended = self._ends_within(longest if kill_after is None else kill_after)
        hung = not ended and kill_after is None
        if not ended:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        _, status, _ = os.wait4(self.pid, 0)
        seconds = time.monotonic() - self.begun
        left = left_of(self.pid)
        # a kill may come before the child has opened its log
        said = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        self.end = End(os.waitstatus_to_exitcode(status), said, seconds, hung, left)
        return self.end

    def _ends_within(self, seconds: float) -> bool:
        """Wait so long, second by second: where all is made to stand still for a while, that counts as one of them."""
        descriptor = os.pidfd_open(self.pid)
        try:
            while seconds > 0:
                if select.select([descriptor], [], [], min(seconds, 1.0))[0]:
                    return True
                seconds -= 1.0
            return False
        finally:
            os.close(descriptor)


def start(work: Callable[[], object], log: Path) -> Child:
    """Do the work in a child, with the exit code and the words that `train.py` would have."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    begun = time.monotonic()
    pid = os.fork()
    if pid:
        return Child(pid, log, begun)
    os._exit(_work(work, log))


def members(session: int) -> tuple[int, ...]:
    """Processes of a session, but for those that have ended and are only not waited for."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                state, _, _, of = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(of) == session and state != "Z":
                    found.append(int(entry.name))
    return tuple(found)


def left_of(session: int) -> tuple[int, ...]:
    """Processes of a session whose first one has ended, that are there long after it; they are killed then."""
    latest = time.monotonic() + PATIENCE
    while (left := members(session)) and time.monotonic() < latest:
        time.sleep(0.1)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return left


def _work(work: Callable[[], object], log: Path) -> int:
    def logged() -> None:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        work()

    return work_of(logged)


def work_of(work: Callable[[], object]) -> int:
    """Do the work in this process, and all that a process does at its end; return the exit code."""
    code = PROGRAM_FAULT
    try:
        work()
        code = 0
    except LeydenError as error:
        report(error)
        code = USER_FAULT
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            logging.shutdown()
            multiprocessing.util._exit_function()  # what the end of a process does to its workers
            sys.stdout.flush()
            sys.stderr.flush()
    return code
