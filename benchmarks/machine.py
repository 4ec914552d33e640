"""The machine: what it is, and how fast it multiplies matrices right now."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "lightning", "leyden")
SIZE = 2048
SECONDS = 2.0
RATE_OF = f"""
import sys, time, torch
left, right = (torch.randn({SIZE}, {SIZE}).to(getattr(torch, sys.argv[1])) for _ in range(2))
left @ right
rates, begun = [], time.perf_counter()
while time.perf_counter() - begun < {SECONDS}:
    clock = time.perf_counter()
    left @ right
    rates.append(2 * {SIZE}**3 / (time.perf_counter() - clock))
print(sorted(rates)[len(rates) // 2])
"""


def describe() -> dict[str, object]:
    """Processor, cores, memory, system and versions; nothing that names the machine."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": found,
    }


def matrix_rate(precision: str, environment: Mapping[str, str]) -> float:
    """Operations per second of products of square matrices, the median of a few seconds, in a process of its own."""
    command = [sys.executable, "-c", RATE_OF, precision]
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=True)
    return float(done.stdout)


def _processor() -> str:
    """Name of the processor, with the extensions that matter for matrix products."""
    file = Path("/proc/cpuinfo")
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flags and flag in flags[1].split()]
    return f"{name[1] if name else platform.processor() or 'unknown'} ({', '.join(known) or 'no AVX2'})"


def _memory_gib() -> float | None:
    file = Path("/proc/meminfo")
    found = re.search(r"^MemTotal:\s+(\d+) kB", file.read_text(), re.MULTILINE) if file.exists() else None
    return round(int(found[1]) / 2**20, 1) if found else None
