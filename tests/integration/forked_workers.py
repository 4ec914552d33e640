"""Processes that are forked from this one: they do what a command starts, without the seconds of loading."""

from __future__ import annotations

import ctypes
import logging
import os
import runpy
import select
import signal
import subprocess
import sys
import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.strategies.launchers import subprocess_script
from tests.reliability.children import work_of
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

from leyden.artifacts import worker, workers
from leyden.artifacts.parent import end_with_parent
from leyden.training.launch import meeting

NEW_NETWORK = 0x40000000  # CLONE_NEWNET of Linux


class ForkedPython:
    """What `subprocess.Popen` is asked for where it starts Python on something of ours.

    Args:
        args: `python -m torch.distributed.run …`, `python train.py …`, `python -m tests.reliability …`, `python -m
            leyden.artifacts.worker FOLDER`; for a further worker Lightning has another command that ends with the
            folder.
        env: the variables of the process; None: those of this one.
        stdout: None, as of `Popen`: it prints where this process does.
        stderr: as `stdout`.
        capture_output: keep what it prints for `communicate`.
        start_new_session: as of `Popen`.
        cwd: its working directory; None: that of this process.
        namespace: of the network that it is in; None: that of this process.
    """

    def __init__(  # noqa: PLR0913
        self,
        args: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdout: None = None,
        stderr: None = None,
        capture_output: bool = False,
        start_new_session: bool = False,
        cwd: str | Path | None = None,
        namespace: str | None = None,
    ) -> None:
        assert stdout is stderr is None
        self.returncode: int | None = None
        self._printed = [TemporaryFile("w+") for _ in range(2 * capture_output)]  # noqa: SIM115
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid:
            return

        def work() -> None:
            if start_new_session:
                os.setsid()
            if namespace is not None:
                _enter(namespace)
            if cwd is not None:
                os.chdir(cwd)
            for number, file in enumerate(self._printed, 1):
                os.dup2(file.fileno(), number)
            _fresh(dict(os.environ if env is None else env))
            _run(list(args[1:]))

        os._exit(work_of(work))

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

    def communicate(self, timeout: float) -> list[str]:
        """What it has printed, after its end; it is killed where that does not come."""
        try:
            self.wait(timeout)
        finally:
            self.send_signal(signal.SIGKILL)
            self.wait()
        said = [file.read() for file in self._printed if not file.seek(0)]
        for file in self._printed:
            file.close()
        return said

    def send_signal(self, signum: int) -> None:
        """Send it a signal unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def __enter__(self) -> ForkedPython:
        """Itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Wait for its end."""
        self.wait()


def run_forked(args: Sequence[str], *, timeout: float, **more: Any) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` with its output captured."""
    process = ForkedPython(args, capture_output=True, **more)
    said = process.communicate(timeout)
    return subprocess.CompletedProcess(args, process.returncode or 0, *said)


def _enter(namespace: str) -> None:
    """Be in a network namespace, as by `ip netns exec`."""
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, NEW_NETWORK):
        raise OSError(ctypes.get_errno(), f"setns {namespace}")
    os.close(descriptor)


def _fresh(env: Mapping[str, str]) -> None:
    """Be a process that has just loaded the libraries."""
    os.environ.clear()
    os.environ.update(env)
    for signum, handler in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        signal.signal(signum, handler)
    # those of the process that this was forked from go away, and must not close what they write to
    sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
    HydraConfig.instance().cfg = None
    meeting.cache_clear()
    for name in ("", "leyden"):
        logging.getLogger(name).handlers.clear()
    warnings.resetwarnings()
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind)


def _run(words: list[str]) -> None:
    """Do what Python does with these words."""
    if words[0] == "-u":
        words = words[1:]
    if "torch.distributed.run" in words:
        subprocess_handler.Popen = ForkedPython  # type: ignore[misc, assignment]
        sys.argv = words[1:]
        torchrun.main(words[2:])
    elif words[:2] == ["-m", "tests.reliability"]:
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__")
    elif words[0].endswith("train.py"):
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
    else:
        sys.argv = ["worker", words[-1]]
        end_with_parent()
        sys.exit(worker.main(Path(words[-1])))


@pytest.fixture
def forked_workers() -> Iterator[None]:
    """Workers of runs in this test are forked."""
    with workers_forked():
        yield


@contextmanager
def workers_forked() -> Iterator[None]:
    """Workers that are started in the block are forked."""
    fake: Any = SimpleNamespace(Popen=ForkedPython, TimeoutExpired=subprocess.TimeoutExpired)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "subprocess", fake)
        patch.setattr(subprocess_script, "subprocess", fake)
        yield


def descendants(bystanders: Container[int] = ()) -> dict[int, int]:
    """Processes below this one, at any depth, that have not ended: each with the one that started it.

    Args:
        bystanders: those that were there before, such as a compiler that waits for the next of its tests.
    """
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
    return {pid: parents[pid] for pid in found if pid not in bystanders}


def is_alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
