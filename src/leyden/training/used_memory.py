"""Memory that this process uses: of the device where it is a GPU, resident where it is a CPU; in GiB."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

import torch


def peak_memory_gib() -> float:
    """Most memory so far: of the device where it is a GPU, resident in this process where it is a CPU.

    Linux counts it per program (VmHWM); `ru_maxrss` would start from the peak of the process that started this one.
    """
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    if (found := _status("VmHWM")) is not None:
        return found
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def resident_gib() -> float:
    """Memory now, of the same kind as `peak_memory_gib`; where the system does not say, the peak."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.memory_allocated() / 2**30
    found = _status("VmRSS")
    return peak_memory_gib() if found is None else found


def _status(name: str) -> float | None:
    """What Linux says of this process's memory under a name, in GiB."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    found = re.search(rf"^{name}:\s+(\d+) kB$", status.read_text(encoding="utf-8"), re.MULTILINE)
    return None if found is None else int(found[1]) / 2**20
