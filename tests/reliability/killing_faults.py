"""Faults that end a process: at a chosen change of a file, in the middle of a write, twice, by a signal."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

from tests.reliability.children import End
from tests.reliability.outcomes import RESUMED, SAME, SIGNALLED, UNHARMED, Case, Kind, WrongOutcomeError
from tests.reliability.runs import SCENARIOS, Bench
from tests.reliability.touches import at_touch, fail, group, kill, kill_in_writing, recorder, watch

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES)
_touches: dict[str, list[str]] = {}


def touches(bench: Bench, scenario: str) -> list[str]:
    """What an undisturbed run with empty caches does to its folder and to the cache, in order."""
    if scenario not in _touches:
        place, into = bench.folder / "recorded" / scenario, bench.folder / f"{scenario}-touches.txt"
        words, cache = bench.overrides(scenario, place), place.with_name(f"{scenario}-cache")
        hook = partial(_watch, [place.parent], recorder_of=into)
        end = bench.begin(words, place.with_suffix(".log"), hook, {"LEYDEN_CACHE": str(cache)}).wait()
        assert end.code == 0, end.said
        _touches[scenario] = into.read_text(encoding="utf-8").splitlines()
    return _touches[scenario]


def drawn(draw: Random, lines: list[str], wanted: Callable[[str], bool] = bool) -> int:
    """Number of a touch: every kind of touch is as likely, however often it comes."""
    groups: dict[str, list[int]] = {}
    for number, line in enumerate(lines):
        if wanted(line):
            groups.setdefault(group(line), []).append(number)
    return draw.choice(groups[draw.choice(sorted(groups))])


def killed_at_a_touch(case: Case) -> str:
    scenario = case.draw.choice(sorted(SCENARIOS))
    killed = _killed(case, scenario, kill)
    case.finish(scenario)
    return SAME if killed else UNHARMED


def killed_in_a_write(case: Case) -> str:
    scenario = case.draw.choice(sorted(SCENARIOS))
    act = kill_in_writing(case.place.parent, case.draw.choice([0, 1, 17, 100, 4000]))
    killed = _killed(case, scenario, act, "write")  # not if no file grew so much from there on
    case.finish(scenario)
    return SAME if killed else UNHARMED


def killed_again(case: Case) -> str:
    """Killed, then killed once or twice while it goes on."""
    scenario = case.draw.choice(sorted(SCENARIOS))
    killed = _killed(case, scenario, kill)
    for _ in range(case.draw.choice([1, 2])):
        number = case.draw.randrange(120)
        case.what.append(f"again at touch {number} of the resume")
        end = case.run(scenario, "resume=auto", hook=partial(_watch, [case.place.parent], number, kill))
        case.orderly(end, 0, -signal.SIGKILL)
        killed = killed or end.code != 0
    case.finish(scenario)
    return SAME if killed else UNHARMED


def told_to_end(case: Case) -> str:
    """SIGTERM or SIGINT at a change of a file."""
    scenario = case.draw.choice(sorted(SCENARIOS))
    signum = case.draw.choice([signal.SIGTERM, signal.SIGINT])
    number = drawn(case.draw, touches(case.bench, scenario), lambda line: "-cache/" not in line)
    case.what.append(f"{signum.name} at {touches(case.bench, scenario)[number]}")
    hook = partial(_watch, [case.place.parent], number, lambda _: os.kill(os.getpid(), signum))
    end = _cold(case, scenario, hook)
    struck = case.struck(end)
    case.orderly(end, 128 + signum if struck else 0)
    case.finish(scenario)
    return SIGNALLED if struck else UNHARMED


def call_fails(case: Case) -> str:
    """One call on a file fails, as on a disk that is full, broken or read-only."""
    scenario = case.draw.choice(sorted(SCENARIOS))
    lines, number = touches(case.bench, scenario), case.draw.choice(ERRORS)
    at = drawn(case.draw, lines, lambda line: line.split()[0] in ("write", "mkdir", "rename", "flush", "remove"))
    case.what.append(f"{errno.errorcode[number]} at {lines[at]}")
    end = _cold(case, scenario, partial(_watch, [case.place.parent], at, fail(number)))
    case.orderly(end, 0, 2)
    struck = case.struck(end)
    half = [path.name for path in case.place.glob("checkpoints/.*")]
    if half and "remove" not in lines[at]:
        raise WrongOutcomeError(f"left behind: {half}")
    case.finish(scenario)
    return RESUMED if end.code else SAME if struck else UNHARMED


def _killed(case: Case, scenario: str, act: Callable[[str], None], event: str = "") -> bool:
    """Begin the run and kill it; whether that came before its end."""
    lines = touches(case.bench, scenario)
    number = drawn(case.draw, lines, lambda line: line.startswith(event))
    case.what.append(f"at {lines[number]}")
    end = _cold(case, scenario, partial(_watch, [case.place.parent], number, act))
    case.orderly(end, -signal.SIGKILL, -signal.SIGXFSZ, 0)
    return end.code != 0


def _cold(case: Case, scenario: str, hook: Callable[[], object]) -> End:
    """The run with an empty cache, beside its folder."""
    case.cold = True
    return case.run(scenario, hook=hook)


def _watch(
    roots: list[Path], number: int = 0, act: Callable[[str], None] = kill, *, recorder_of: Path | None = None
) -> None:
    watch(roots, recorder(recorder_of) if recorder_of else at_touch(number, act))


KINDS = (
    Kind("SIGKILL before a chosen change of a file", 53, killed_at_a_touch),
    Kind("killed in the middle of a write", 20, killed_in_a_write),
    Kind("SIGKILL, and SIGKILL again while it goes on", 14, killed_again),
    Kind("SIGTERM or Ctrl-C at a chosen change of a file", 10, told_to_end),
    Kind("a call on a file fails (full, over quota, broken, read-only, forbidden)", 20, call_fails),
)
