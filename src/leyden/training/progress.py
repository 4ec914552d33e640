"""What the user sees while a run goes on: bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import os
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
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from leyden.settings.escapes import visible

LINES = 10  # plain lines per phase, besides the first and the last
QUIET_S = 15.0  # a plain line at least so often
TIMES = 9 + 7 + 7 + 5  # columns of a terminal for the name of a phase, time gone and left, and what is between them
NUMBERS = 71  # columns that all numbers of a training take
BAR = 6, 40  # columns of a bar, at least and at most

log = logging.getLogger(__name__)
_drawn: list[Console] = []  # where bars are being drawn


def say(line: str) -> None:
    """Print a line to standard error; where a bar is being drawn, above it, so that neither tears the other."""
    if _drawn:
        _drawn[-1].print(Text(line), soft_wrap=True)
    else:
        print(line, file=sys.stderr, flush=True)


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
    """A bar per phase with its numbers, time gone and time left, on one line however narrow the terminal is."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def start(self, name: str, total: int) -> None:
        """Draw an empty bar."""
        self.stop()
        console = Console(stderr=True)
        count = 2 * len(str(total)) + 1
        spare = console.width - TIMES - count - NUMBERS
        width = min(max(spare, BAR[0]), BAR[1])
        self._progress = Progress(
            TextColumn("{task.description:<9}", markup=False), BarColumn(width),
            MofNCompleteColumn(table_column=Column(no_wrap=True)), TimeElapsedColumn(Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)), _Numbers(console, TIMES + count + width),
            console=console,
        )  # fmt: skip
        self._progress.start()
        _drawn.append(console)
        self._task = self._progress.add_task(name, total=total, numbers={})

    def advance(self, units: int, numbers: Mapping[str, float] | None = None) -> None:
        """Fill the bar."""
        if self._progress is not None:
            self._progress.advance(self._task, units)
            if numbers:
                self._progress.update(self._task, numbers=dict(numbers))

    def stop(self) -> None:
        """Leave the bar where it is."""
        if self._progress is not None:
            self._progress.stop()
            _drawn.remove(self._progress.console)
            self._progress = None


class _Numbers(ProgressColumn):
    """As many whole numbers as fit behind what takes so many columns already."""

    def __init__(self, console: Console, taken: int) -> None:
        super().__init__(Column(no_wrap=True))
        self._console, self._taken = console, taken

    def render(self, task: Task) -> Text:
        """The numbers, first ones first."""
        room, shown = self._console.width - self._taken, ""
        for name, value in task.fields["numbers"].items():
            longer = f"{shown}{'  ' if shown else ''}{_named(name, value)}"
            if len(longer) > room:
                break
            shown = longer
        return Text(shown)


class Lines(Display):
    """A plain line every tenth of a phase, for logs and pipes."""

    def __init__(self) -> None:
        self._name = ""
        self._total = self._done = 0
        self._started = self._printed_at = 0.0
        self._printed = 0
        self._unread = False

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
        self._print(f"{self._name:<9} {self._done}/{self._total}  {gone:.0f} s, {left:.0f} s left{numbers_text}")

    def stop(self) -> None:
        """Nothing is open."""

    def _print(self, line: str) -> None:
        if self._unread:
            return
        try:
            say(line)
        except BrokenPipeError:  # a training is worth more than whoever read its lines
            self._unread = True
            log.warning("Nobody reads standard error any more. The run goes on without lines of progress.")


def make_display(kind: str, *, quiet: bool = False) -> Display:
    """The display that `trainer.progress` asks for; `auto` draws bars in a terminal only.

    Args:
        kind: auto, rich, plain or none.
        quiet: this process is not the one that speaks.
    """
    if quiet or kind == "none":
        return Silence()
    steered = sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in {"dumb", "unknown"}
    if kind == "rich" or (kind == "auto" and steered):
        return Bars()
    return Lines()


def _joined(numbers: Mapping[str, float] | None) -> str:
    return "  ".join(_named(name, value) for name, value in (numbers or {}).items())


def _named(name: str, value: float) -> str:
    return f"{visible(name)} {value:.4g}"
