"""A process that does not outlive the one that started it; nothing heavy is imported here, so that it comes first."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "LEYDEN_PARENT"  # variable with the number of the process that started the first worker
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux


def end_with_parent() -> None:
    """Have the system end this process when the one that started it ends, however it does; on Linux.

    The first worker also looks whether that has happened already; the others are started by it.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)
    parent = os.environ.get(PARENT)
    if parent is not None and "LOCAL_RANK" not in os.environ and os.getppid() != int(parent):
        os._exit(1)
