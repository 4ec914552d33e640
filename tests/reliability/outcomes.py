"""What may come of a fault, and how that is told from what a run left and said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.reliability.children import Child, End
from tests.reliability.runs import Bench, Hook

SAME = "goes on, bit-equal"
PASSED_OVER = "named and passed over; goes on, bit-equal"
REMADE = "named and made again, bit-equal"
RESUMED = "ends with a message and code 2; resumed, bit-equal"
REFUSED = "refused with a message and code 2, nothing written"
SIGNALLED = "ends with 130 or 143, after the update where one is at hand; resumed, bit-equal"
UNHARMED = "its moment did not come; ends as it would have, bit-equal"
TRAINED = "trained, what was left out is counted"


class WrongOutcomeError(Exception):
    """A fault that had another outcome than those that are allowed."""


@dataclass
class Case:
    """One fault of the list, with what is needed to inject it.

    Attributes:
        bench: the undisturbed runs.
        folder: of everything that belongs to it.
        draw: of everything that is drawn for this fault.
        what: the fault in words, as far as it is known.
        cold: it has a cache of its own, which is empty at first.
    """

    bench: Bench
    folder: Path
    draw: Random
    what: list[str] = field(default_factory=list)
    cold: bool = False

    def __post_init__(self) -> None:
        """The run is in a folder of its own; beside it are its cache and what it prints."""
        self.place = self.folder / "run"

    @property
    def cache(self) -> Path:
        """The cache of its runs."""
        return self.folder / "cache" if self.cold else self.bench.folder / "cache"

    @property
    def log(self) -> Path:
        """What all runs of this fault print."""
        return self.folder / "run.log"

    def begin(self, words: list[str], hook: Hook | None = None) -> Child:
        """Start `train.py` with a command line."""
        return self.bench.begin(words, self.log, hook, {"LEYDEN_CACHE": str(self.cache)})

    def run(self, scenario: str, *more: str, hook: Hook | None = None) -> End:
        """Start the run, and wait for its end."""
        return self.begin(self.bench.overrides(scenario, self.place, *more), hook).wait()

    def go_on(self, hook: Hook | None = None) -> End:
        """Go on with it."""
        return self.begin([f"resume={self.place}"], hook).wait()

    def finish(self, scenario: str, *more: str) -> None:
        """Go on with it if it can be, else start anew; it has to be the undisturbed run."""
        self.done(self.run(scenario, "resume=auto", *more), scenario)

    def done(self, end: End, scenario: str) -> None:
        """It has to have ended as the undisturbed run."""
        self.orderly(end, 0)
        if wrong := self.bench.differs(scenario, self.place):
            raise WrongOutcomeError(wrong)

    def orderly(self, end: End, *codes: int) -> None:
        """It has to have ended with one of these codes, without a traceback, and with all its processes."""
        if end.hung:
            raise WrongOutcomeError("it hung")
        if end.left:
            raise WrongOutcomeError(f"{len(end.left)} processes were left")
        if end.code not in codes:
            raise WrongOutcomeError(f"it ended with code {end.code}, not {' or '.join(map(str, codes))}")
        if "Traceback" in end.said:
            raise WrongOutcomeError("it printed a traceback")

    def struck(self, end: End) -> bool:
        """Whether the fault was there before this end: what injects one at a moment says so."""
        return "[fault at " in end.said

    def said(self, end: End, *words: str) -> None:
        """It has to have said all of this."""
        missing = [word for word in words if word not in end.said]
        if missing:
            raise WrongOutcomeError(f"it did not say {missing}")


Inject = Callable[[Case], str]


@dataclass(frozen=True)
class Kind:
    """Faults of one kind.

    Attributes:
        name: as the table says it.
        share: how many of 200.
        inject: does it, and returns what came of it; raises WrongOutcomeError for what may not.
        bad_input: it is an input that is tried rather than a fault of the machine.
    """

    name: str
    share: int
    inject: Inject
    bad_input: bool = False


def any_of(draw: Random, names: Sequence[str]) -> str:
    """One of them."""
    return draw.choice(list(names))
