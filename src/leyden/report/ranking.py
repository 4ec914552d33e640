"""Runs in the order of a metric, and what differs between them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leyden.report.compared_runs import PREFIX, ComparedRun, Found, differing, direction
from leyden.settings.errors import ConfigError


@dataclass(frozen=True)
class Comparison:
    """Runs, and what they are compared by.

    Attributes:
        runs: best first; those without a value of the metric last.
        left_out: folders that are no runs, with the reason.
        metric: the one that orders them.
        better: min, max, or None where nobody says.
        settings: those that differ, a text for each run.
        metrics: names of all metrics, that one first.
    """

    runs: Sequence[ComparedRun]
    left_out: Sequence[tuple[Path, str]]
    metric: str
    better: str | None
    settings: dict[str, list[str | None]]
    metrics: Sequence[str]

    @property
    def problems(self) -> list[str]:
        """The problem types of the runs, each once."""
        return list(dict.fromkeys(run.problem for run in self.runs if run.problem))


def compare(found: Found, metric: str | None = None) -> Comparison:
    """Order runs by a metric, and find out what differs.

    Args:
        found: of `find_runs`.
        metric: its name, with or without `validation/`; None: what most of the runs were watched by.

    Raises:
        ConfigError: there is no run, or none of them has that metric.
    """
    if not found.runs:
        named = "; ".join(f"{path}: {reason}" for path, reason in found.left_out)
        raise ConfigError(f"There is no run to compare ({named}). Name run folders: outputs/NAME, or outputs/*.")
    names = list(dict.fromkeys(name for run in found.runs for name in run.metrics))
    chosen = (metric or "").removeprefix(PREFIX)
    if chosen and chosen not in names:
        raise ConfigError(f"metric={metric}: no run has it. There are: {', '.join(names) or 'none'}.")
    if not chosen:
        watched = Counter(run.monitored for run in found.runs if run.monitored)
        chosen = watched.most_common(1)[0][0] if watched else next(iter(names), "loss")
    better = direction(chosen, found.runs)
    sign = -1 if better == "max" else 1

    def key(run: ComparedRun) -> tuple[bool, float]:
        value = run.metrics.get(chosen, math.nan)
        return math.isnan(value), 0.0 if math.isnan(value) else sign * value

    runs = sorted(found.runs, key=key)
    metrics = [chosen, *(name for name in names if name != chosen)]
    return Comparison(runs, found.left_out, chosen, better, differing(runs), metrics)


def as_number(text: str | None) -> float | None:
    """The number that a setting is; None if it is none."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
