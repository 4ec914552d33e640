"""The list of faults that a seed gives, and what came of each."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tests.reliability import damage_faults, killing_faults, outside_faults
from tests.reliability.outcomes import Case, Kind, WrongOutcomeError
from tests.reliability.runs import Bench

KINDS = (*killing_faults.KINDS, *damage_faults.KINDS, *outside_faults.KINDS)


@dataclass(frozen=True)
class Fault:
    """One that was injected.

    Attributes:
        number: in the list of its seed.
        kind: of it.
        what: it was, in words.
        outcome: one of those that are allowed; empty if it was another.
        wrong: what that was.
        seconds: it took.
    """

    number: int
    kind: Kind
    what: str
    outcome: str
    wrong: str
    seconds: float


def listed(seed: int, count: int) -> list[Kind]:
    """The first so many of the list: it holds each kind as often as its share says, in an order that the seed gives."""
    draw, kinds = Random(f"{seed}-order"), []
    while len(kinds) < count:
        block = [kind for kind in KINDS for _ in range(kind.share)]
        draw.shuffle(block)
        kinds += block
    return kinds[:count]


def inject(bench: Bench, seed: int, count: int, only: int = -1) -> Iterator[Fault]:
    """Inject the faults of a seed, one after the other; of one that went wrong all files stay."""
    for number, kind in enumerate(listed(seed, count)):
        if only in (-1, number):
            yield _injected(bench, seed, number, kind)


def _injected(bench: Bench, seed: int, number: int, kind: Kind) -> Fault:
    folder = bench.folder / "faults" / f"{number:03d}"
    case = Case(bench, folder, Random(f"{seed}-{number}"))
    clock, outcome, wrong = time.monotonic(), "", ""
    try:
        outcome = kind.inject(case)
    except WrongOutcomeError as error:
        wrong = f"{error}; see {case.log}"
    except Exception:  # a check that cannot read what a run has left: that is a failure, too
        wrong = f"{traceback.format_exc().splitlines()[-1]}; see {case.log}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "check.txt").write_text(traceback.format_exc(), encoding="utf-8")
    if not wrong:
        shutil.rmtree(folder)
    return Fault(number, kind, "; ".join(case.what), outcome, wrong, time.monotonic() - clock)
