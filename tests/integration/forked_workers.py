"""Worker processes that are forked from this one: they train as those of a command, without the seconds of loading."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.strategies.launchers import subprocess_script
from tests.reliability.children import work_of

from leyden.artifacts import worker, workers
from leyden.artifacts.parent import end_with_parent


class ForkedWorker:
    """What `subprocess.Popen` is asked for where it starts `python -m leyden.artifacts.worker FOLDER`.

    Args:
        command: of the first worker, which ends with the folder; Lightning starts the others with its own.
        env: the variables of the process.
        start_new_session: as of `Popen`.
    """

    def __init__(
        self, command: list[str], env: Mapping[str, str], *, start_new_session: bool = False, cwd: None = None
    ) -> None:
        assert cwd is None
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            os._exit(work_of(lambda: _train(command[-1], env, session=start_new_session)))

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for its end."""
        if self.poll() is None:
            descriptor = os.pidfd_open(self.pid)
            ended = select.select([descriptor], [], [], timeout)[0]
            os.close(descriptor)
            if not ended:
                raise subprocess.TimeoutExpired("worker", timeout or 0.0)
        return self.poll()

    def send_signal(self, signum: int) -> None:
        """Send it a signal unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def __enter__(self) -> ForkedWorker:
        """Itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Wait for its end."""
        self.wait()


def _train(folder: str, env: Mapping[str, str], *, session: bool) -> None:
    """Be a process that has just loaded the libraries, then what `python -m leyden.artifacts.worker` is."""
    if session:
        os.setsid()
    os.environ.clear()
    os.environ.update(env)
    for signum, handler in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        signal.signal(signum, handler)
    sys.argv = ["worker", folder]
    # those of a worker that was forked from go away, and must not close what they write to
    sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
    HydraConfig.instance().cfg = None
    for name in ("", "leyden"):
        logging.getLogger(name).handlers.clear()
    warnings.resetwarnings()
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind)
    end_with_parent()
    sys.exit(worker.main(Path(folder)))


@pytest.fixture
def forked_workers() -> Iterator[None]:
    """Workers of runs in this test are forked."""
    with workers_forked():
        yield


@contextmanager
def workers_forked() -> Iterator[None]:
    """Workers that are started in the block are forked."""
    fake: Any = SimpleNamespace(Popen=ForkedWorker, TimeoutExpired=subprocess.TimeoutExpired)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "subprocess", fake)
        patch.setattr(subprocess_script, "subprocess", fake)
        yield


def descendants() -> dict[int, int]:
    """Processes below this one, at any depth, that have not ended: each with the one that started it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            state, parent, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    found, new = set[int](), {os.getpid()}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - found
        found |= new
    return {pid: parents[pid] for pid in found}


def is_alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
