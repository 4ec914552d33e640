"""The last words of a run: where it started, where it ended, where things are."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from leyden.settings.wording import counted
from leyden.training.outcome import Run

MANY = 1e6  # from here on digits say less than the exponent
PLAIN = re.compile(r"[\w./:*?@%+-]+", re.ASCII)  # what neither a shell's quotes nor Hydra's need to keep together


def summary(
    results: Mapping[str, Mapping[str, float] | None], folder: Path, run: Run, remarks: Sequence[str] = ()
) -> str:
    """A table of the metrics before and after, the time, what went wrong on the way, and what to do next."""
    before, final = results["before"] or {}, results["final"] or {}
    names = [name for name in final if name.startswith("validation/")]
    width = max(len(name) for name in names)
    lines = [f"{'':<{width}}  {'before':>10}  {'after':>10}"]
    for name in names:
        start = number(before[name]) if name in before else "-"
        lines.append(f"{name:<{width}}  {start:>10}  {number(final[name]):>10}")
    skipped, empty = run.module.skipped_updates, run.module.empty_updates
    first = f"validation/{run.history.metric.name}"
    if math.isnan(final.get(first, math.nan)) and math.isnan(before.get(first, math.nan)):
        lines.append(f"{first} has no value on these rows, so it says nothing about the training (see train.log).")
    lines += [
        "",
        f"{counted(run.updates, 'updates')} in {run.history.seconds:.0f} s of training, "
        f"{run.seconds.get('in all', 0):.0f} s in all"
        + (f"; {counted(skipped, 'updates')} not applied (see train.log)" if skipped else "")
        + (f"; {counted(empty, 'updates')} left out, as all their rows have weight 0" if empty else "")
        + ".",
        *(f"warning: {remark}" for remark in remarks),
        f"Everything is in {folder}. Next: python predict.py {argument('run', str(folder))} dataset.path=new.csv",
    ]
    return "\n".join(lines)


def number(value: float) -> str:
    """Four decimals; of large numbers four digits and an exponent."""
    return f"{value:.4f}" if abs(value) < MANY or not math.isfinite(value) else f"{value:.4g}"


def argument(key: str, value: str) -> str:
    """`key=value` as it is typed: quoted for Hydra where its grammar needs it, and then for the shell."""
    if not PLAIN.fullmatch(value):
        escaped = re.sub(r"(\\*)(?='|$)", r"\1\1", value).replace("'", r"\'")
        value = f"'{escaped}'"
    return shlex.quote(f"{key}={value}")
