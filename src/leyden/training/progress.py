"""What the user sees while a run goes on: bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINES = 10  # plain lines per phase, besides the first and the last
QUIET_S = 15.0  # a plain line at least so often


class Display(ABC):
    """One phase at a time: `with display.phase("train", 100): display.advance(1, {"loss": 0.5})`."""

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[None]:
        """Open a phase of so many units; it closes at the end of the block, whatever happens."""
        self.start(name, total)
        try:
            yield
        finally:
            self.stop()

    @abstractmethod
    def start(self, name: str, total: int) -> None:
        """Open a phase."""

    @abstractmethod
    def advance(self, units: int, numbers: Mapping[str, float] | None = None) -> None:
        """Some units are done; numbers are shown beside them."""

    @abstractmethod
    def stop(self) -> None:
        """Close the phase, if one is open."""


class Silence(Display):
    """Shows nothing."""

    def start(self, name: str, total: int) -> None:
        """Show nothing."""

    def advance(self, units: int, numbers: Mapping[str, float] | None = None) -> None:
        """Show nothing."""

    def stop(self) -> None:
        """Show nothing."""


class Bars(Display):
    """A bar per phase with its numbers, time gone and time left."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def start(self, name: str, total: int) -> None:
        """Draw an empty bar."""
        self.stop()
        self._progress = Progress(
            TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), TextColumn("{task.fields[numbers]}"), console=Console(stderr=True),
        )  # fmt: skip
        self._progress.start()
        self._task = self._progress.add_task(name, total=total, numbers="")

    def advance(self, units: int, numbers: Mapping[str, float] | None = None) -> None:
        """Fill the bar."""
        if self._progress is not None:
            self._progress.advance(self._task, units)
            if numbers:
                self._progress.update(self._task, numbers=_joined(numbers))

    def stop(self) -> None:
        """Leave the bar where it is."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class Lines(Display):
    """A plain line every tenth of a phase, for logs and pipes."""

    def __init__(self) -> None:
        self._name = ""
        self._total = self._done = 0
        self._started = self._printed_at = 0.0
        self._printed = 0

    def start(self, name: str, total: int) -> None:
        """Remember when it began."""
        self._name, self._total, self._done, self._printed = name, total, 0, 0
        self._started = self._printed_at = time.monotonic()

    def advance(self, units: int, numbers: Mapping[str, float] | None = None) -> None:
        """Print a line when a tenth or a quarter of a minute is over, and at the end."""
        self._done += units
        now = time.monotonic()
        tenth = self._done * LINES // max(1, self._total)
        if not (tenth > self._printed or now - self._printed_at > QUIET_S or self._done >= self._total):
            return
        self._printed, self._printed_at = tenth, now
        gone = now - self._started
        left = gone / max(1, self._done) * max(0, self._total - self._done)
        numbers_text = f"  {_joined(numbers)}" if numbers else ""
        print(
            f"{self._name:<9} {self._done}/{self._total}  {gone:.0f} s, {left:.0f} s left{numbers_text}",
            file=sys.stderr, flush=True,
        )  # fmt: skip

    def stop(self) -> None:
        """Nothing is open."""


def make_display(kind: str, *, quiet: bool = False) -> Display:
    """The display that `trainer.progress` asks for; `auto` draws bars in a terminal only.

    Args:
        kind: auto, rich, plain or none.
        quiet: this process is not the one that speaks.
    """
    if quiet or kind == "none":
        return Silence()
    if kind == "rich" or (kind == "auto" and sys.stderr.isatty()):
        return Bars()
    return Lines()


def _joined(numbers: Mapping[str, float] | None) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in (numbers or {}).items())
