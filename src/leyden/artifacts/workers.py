"""The processes of a job that trains with several: started here, told of signals, and gone when this one is."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress

from leyden.artifacts.folder import RunFolder
from leyden.settings.errors import PROGRAM_FAULT, USER_FAULT, TrainingError
from leyden.training.interrupts import EXIT, SIGNALS, Interrupts, Stopped

GOES_ON, REQUESTED_SEED = "LEYDEN_GOES_ON", "LEYDEN_REQUESTED_SEED"  # variables that the workers read
GLANCE = 0.2  # seconds between two looks for a signal
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux


def run_workers(folder: RunFolder, requested_seed: int, interrupts: Interrupts, *, goes_on: bool) -> None:
    """Train in processes that are no Hydra apps, so that single runs and sweeps start them alike.

    They are a session of their own, so that a Ctrl-C reaches them once, through here.

    Raises:
        Stopped: a signal has ended them, after a checkpoint.
        TrainingError: they have failed.
    """
    environment = {**os.environ, REQUESTED_SEED: str(requested_seed), GOES_ON: "1" if goes_on else ""}
    command = [sys.executable, "-m", "leyden.artifacts.worker", str(folder.path)]
    interrupts.wait()
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        told = False
        while process.poll() is None:
            if interrupts.received is not None and not told:
                process.send_signal(interrupts.received)
                told = True
            with suppress(subprocess.TimeoutExpired):
                process.wait(GLANCE)
    if process.returncode in {EXIT + signum for signum in SIGNALS}:
        raise Stopped(process.returncode - EXIT)
    if process.returncode:
        error = TrainingError(f"The worker processes ended with code {process.returncode}; their words stand above.")
        error.code = USER_FAULT if process.returncode == USER_FAULT else PROGRAM_FAULT
        raise error
    interrupts.wait(on=False)


def end_with_parent() -> None:
    """Have the system end this process when the one that started it ends, however it does; on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)
