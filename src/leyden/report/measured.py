"""What a run has measured, and how it is with it, from whichever of its files says it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from leyden.report.run_files import RunFiles

ENDED = ("done", "failed", "stopped")
RUNNING, KILLED = "running", "killed"
GOING_ON = (RUNNING, "saved")  # what a run says until its end
BETTER = {"loss": "min", "preference_accuracy": "max", "reward_margin": "max"}  # those that no setting chooses
SMALL = 1e-9  # a change of less, as a share, is none


@dataclass(frozen=True)
class Measured:
    """A metric over the run.

    Attributes:
        name: of the metric.
        before: training; None: it was not measured.
        best: of all evaluations.
        final: the last.
        at: the update of the best evaluation.
        verdict: "better", "worse", "equal", or empty where there is nothing to compare, or no better and worse.
    """

    name: str
    before: float | None
    best: float | None
    final: float | None
    at: int | None
    verdict: str

    @property
    def change(self) -> float | None:
        """From before training to the last evaluation; None where one of them is missing or not finite."""
        if self.before is None or self.final is None or not math.isfinite(self.final - self.before):
            return None
        return self.final - self.before


def status_of(run: RunFiles) -> str:
    """How it is with a run: running, stopped, failed, done, killed, looked at; empty where no file says so.

    A run that says it goes on while nobody holds its lock was killed, or its machine went down.
    """
    found = (run.progress or {}).get("status") or (run.manifest or {}).get("status")
    if found is None and (run.setting("mode") == "inspect" or run.setting("dry_run") is True):
        return "looked at"
    if found is None and run.goes_on:
        return RUNNING
    return KILLED if found in GOING_ON and run.goes_on is False else str(found or "")


def without_a_word(run: RunFiles) -> str:
    """What is known of the end of a run that was killed."""
    when = moment(said_of(run, "written"))
    return (
        f"No process writes into its folder any more, and its last word{f' ({when})' if when else ''} was that it goes "
        "on: it was killed, or its machine went down."
    )


def moment(time: Any) -> str:
    """A time of a file, for people: `2026-11-27 18:04:05 UTC`; empty for none."""
    return str(time).replace("T", " ").partition("+")[0].partition(".")[0] + " UTC" if time else ""


def is_of_earlier(run: RunFiles) -> bool:
    """Whether what the run has written of its end is that of an earlier part: its manifest says that it goes on."""
    return (run.manifest or {}).get("status") == RUNNING


def ending(run: RunFiles) -> Mapping[str, Any]:
    """What the manifest says of how the run came to its end; empty while it goes on, or if that is of an earlier part.

    A run that is gone on with keeps the manifest that it had, until its model is there.
    """
    manifest = run.manifest or {}
    return manifest if manifest.get("status") in ("saved", status_of(run)) and status_of(run) in ENDED else {}


def metrics_of(run: RunFiles) -> Iterator[Measured]:
    """Each validation metric before training, at its best evaluation and in the end, the chosen one first.

    While the run goes on they come from its log; what `final` says is then the last evaluation so far.
    """
    directions = {**BETTER, **(said_of(run, "metrics") or {})}
    found = {name.removeprefix("validation/"): rows for name, rows in run.series.items() if name.startswith("valid")}
    results = (run.results or {}) if status_of(run) in ENDED and not is_of_earlier(run) else {}
    best, end = ((results.get(name) or {}).get("step") for name in ("best", "final"))
    first = next(iter(said_of(run, "metrics") or run.setting("metric") or {}), "loss")
    for name in sorted(found, key=lambda one: (one != first, one != "loss")):
        rows, better = found[name], directions.get(name)
        values = {int(step): float(value) for step, value in zip(rows["step"], rows["value"], strict=True)}
        before = values.get(0)
        last = max(values)
        final = values.get(end, values[last]) if end is not None else values[last] if last else None
        at = best if best in values else _best(values, better)
        yield Measured(
            name, before, values.get(at) if at is not None else None, final, at, verdict(before, final, better)
        )


def verdict(before: float | None, after: float | None, better: str | None) -> str:
    """Whether a metric is "better", "worse" or "equal" after than before; empty where that cannot be said."""
    if before is None or after is None or better is None or not (math.isfinite(before) and math.isfinite(after)):
        return ""
    if math.isclose(before, after, rel_tol=SMALL, abs_tol=SMALL):
        return "equal"
    return "better" if (after < before) == (better == "min") else "worse"


def _best(values: Mapping[int, float], better: str | None) -> int | None:
    finite = {step: value for step, value in values.items() if math.isfinite(value)}
    if better is None or not finite:
        return None
    return min(finite, key=lambda step: finite[step] if better == "min" else -finite[step])


def said_of(run: RunFiles, name: str) -> Any:
    """A fact that both files may have; where they disagree on how it ended, the manifest is of an earlier part.

    One that says that the run goes on always is, and is not asked.
    """
    sources = [run.progress or {}, {} if is_of_earlier(run) else run.manifest or {}]
    if sources[0].get("status") == sources[1].get("status") and status_of(run) in ENDED:
        sources.reverse()
    return next((one[name] for one in sources if one.get(name) is not None), None)
