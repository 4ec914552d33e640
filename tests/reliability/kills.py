"""SIGKILL at random moments of a run, and of what goes on with it."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.reliability.runs import Bench

AGAIN = 0.3  # of the runs are killed once more while they go on, and so on


@dataclass(frozen=True)
class Kills:
    """What one run went through.

    Attributes:
        scenario: of the run.
        moments: seconds after which it was killed, each time.
        reached: updates before each kill, by its newest checkpoint.
        wrong: what was not as it should be; empty if nothing.
    """

    scenario: str
    moments: tuple[float, ...]
    reached: tuple[int, ...]
    wrong: str


def kill_runs(bench: Bench, scenario: str, count: int, seed: int) -> Iterator[Kills]:
    """Kill so many runs, go on with each, and compare them with the one that was never killed."""
    draw = random.Random(f"{seed}-{scenario}")
    bench.undisturbed(scenario)
    done = 0
    while done < count:
        place = bench.folder / "kills" / f"{scenario}-{done:02d}"
        one = _killed(bench, scenario, place, draw)
        if not one.moments and not one.wrong:  # it had ended before its moment came
            shutil.rmtree(place)
            continue
        done += 1
        if not one.wrong:
            shutil.rmtree(place)
        yield one


def _killed(bench: Bench, scenario: str, place: Path, draw: random.Random) -> Kills:
    words, log = ["resume=auto", *bench.overrides(scenario, place)], place.with_suffix(".log")
    moments: list[float] = []
    reached: list[int] = []
    wrong = ""
    while not wrong and (not moments or draw.random() < AGAIN):
        whole, longest = bench.whole[scenario]
        moment = draw.uniform(0, longest * (0.7 if moments else 1.0))  # what goes on has less to do
        end = bench.begin(words, log).wait(kill_after=moment)
        if end.left:
            wrong = f"processes were left: {end.left}"
        if end.code != -signal.SIGKILL:
            if end.code:
                wrong = f"it ended with code {end.code} before it was killed"
            if not moments:  # the machine is faster now than it was
                bench.whole[scenario] = whole, end.seconds
            break
        moments.append(round(moment, 2))
        steps = [int(path.name[5:]) for path in (place / "checkpoints").glob("step-*")]
        reached.append(max(steps, default=0))
    if moments and not wrong:
        by_name = (place / "config.yaml").exists() and draw.random() < 0.5
        end = bench.begin([f"resume={place}"] if by_name else words, log).wait()
        wrong = f"code {end.code}: {log}" if end.code or end.hung else bench.differs(scenario, place)
    return Kills(scenario, tuple(moments), tuple(reached), wrong)
