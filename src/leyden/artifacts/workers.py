"""The processes of a job that trains with several: started here, told of signals, and gone when this one is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from leyden.artifacts.folder import RunFolder
from leyden.artifacts.parent import PARENT
from leyden.artifacts.reporting import ended_without_a_word
from leyden.settings.errors import PROGRAM_FAULT, USER_FAULT, TrainingError
from leyden.settings.stops import EXIT, SIGNALS
from leyden.training.interrupts import Interrupts, Stopped

GOES_ON, REQUESTED_SEED = "LEYDEN_GOES_ON", "LEYDEN_REQUESTED_SEED"  # variables that the workers read
GLANCE = 0.2  # seconds between two looks for a signal


def run_workers(folder: RunFolder, requested_seed: int, interrupts: Interrupts, *, goes_on: bool) -> None:
    """Train in processes that are no Hydra apps, so that single runs and sweeps start them alike.

    They are a session of their own, so that a Ctrl-C reaches them once, through here.

    Raises:
        Stopped: a signal has ended them, after a checkpoint.
        TrainingError: they have failed.
    """
    environment = {
        **os.environ, REQUESTED_SEED: str(requested_seed), GOES_ON: "1" if goes_on else "", PARENT: str(os.getpid()),
    }  # fmt: skip
    command = [sys.executable, "-m", "leyden.artifacts.worker", str(folder.path)]
    interrupts.wait()
    with ended_without_a_word(folder.path):
        _wait_for(command, environment, interrupts)
    interrupts.wait(on=False)


def _wait_for(command: Sequence[str], environment: Mapping[str, str], interrupts: Interrupts) -> None:
    """Run the processes, hand signals on to them, and raise how they have ended."""
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        told = False
        while process.poll() is None:
            if interrupts.received is not None and not told:
                process.send_signal(interrupts.received)
                told = True
            with suppress(subprocess.TimeoutExpired):
                process.wait(GLANCE)
    for signum in SIGNALS:  # by itself, after a checkpoint, or by the system before it could listen
        if process.returncode in (EXIT + signum, -signum):
            raise Stopped(signum)
    if process.returncode:
        error = TrainingError(f"The worker processes ended with code {process.returncode}; their words stand above.")
        error.code = USER_FAULT if process.returncode == USER_FAULT else PROGRAM_FAULT
        raise error
