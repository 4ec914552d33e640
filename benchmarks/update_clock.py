"""Ends a training after some updates, and says what each of them took."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger


class Enough(Exception):
    """As many updates as were wanted are done."""


class UpdateClock(Logger):
    """A logger, since Leyden hands every update to its loggers.

    Attributes:
        updates: after how many to end.
        tokens: that went through the model, per update.
        seconds: on the clock, from one update to the next; of the first one there is none.
        cpu: of the processor, all threads, in the same time.
    """

    name, version, experiment = "clock", 0, None

    def __init__(self, updates: int) -> None:
        super().__init__()
        self.updates = updates
        self.tokens: list[int] = []
        self.seconds: list[float] = []
        self.cpu: list[float] = []
        self._last: tuple[float, float] | None = None

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # noqa: ARG002
        """Take the time of an update.

        Raises:
            Enough: it was the last one.
        """
        if "train/tokens" not in metrics:
            return
        now = time.perf_counter(), time.process_time()
        if self._last is None:
            forget_peak()
        else:
            self.seconds.append(now[0] - self._last[0])
            self.cpu.append(now[1] - self._last[1])
        self.tokens.append(int(metrics["train/tokens"]))
        self._last = now
        if len(self.tokens) == self.updates:
            raise Enough


def forget_peak() -> None:
    """Let the peak of this process's memory count anew from here."""
    Path("/proc/self/clear_refs").write_text("5")


def memory_mb(name: str) -> int:
    """A line of /proc/self/status, in MB: `VmHWM` is the peak of the resident memory, `VmRSS` what there is now."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return round(int(lines[name].split()[0]) / 1024)
