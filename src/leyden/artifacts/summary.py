"""The last words of a run: where it started, where it ended, where things are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from leyden.training.run import Run


def summary(
    results: Mapping[str, Mapping[str, float] | None], folder: Path, run: Run, remarks: Sequence[str] = ()
) -> str:
    """A table of the metrics before and after, the time, what went wrong on the way, and what to do next."""
    before, final = results["before"] or {}, results["final"] or {}
    names = [name for name in final if name.startswith("validation/")]
    width = max(len(name) for name in names)
    lines = [f"{'':<{width}}  {'before':>10}  {'after':>10}"]
    for name in names:
        start = f"{before[name]:>10.4f}" if name in before else f"{'-':>10}"
        lines.append(f"{name:<{width}}  {start}  {final[name]:>10.4f}")
    skipped = run.module.skipped_updates
    lines += [
        "",
        f"{run.updates} updates in {run.history.seconds:.0f} s of training, {run.seconds.get('in all', 0):.0f} s in all"
        + (f"; {skipped} updates were not applied (see train.log)" if skipped else "")
        + ".",
        *(f"warning: {remark}" for remark in remarks),
        f"Everything is in {folder}. Next: python predict.py run={folder} dataset.path=new.csv",
    ]
    return "\n".join(lines)
