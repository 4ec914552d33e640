"""Arms that are compared must have done the same work: their losses agree, update by update."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from benchmarks.result import Result

TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
"""Largest difference of two losses of one update, as a share of the larger one."""


class Disagreement(Exception):
    """Two arms did not do the same work."""


def check_agreement(results: Sequence[Result], precision: str) -> float:
    """The largest relative difference between the losses of one update, over all arms and rounds.

    Args:
        results: of one case.
        precision: of the case.

    Raises:
        Disagreement: it is above the tolerance; with the two arms, the update, and both losses.
    """
    first, *others = results
    worst = 0.0
    for other in others:
        for update, (left, right) in enumerate(zip_longest(first.losses, other.losses, fillvalue=float("inf")), start=1):
            gap = abs(left - right) / max(abs(left), abs(right), 1e-12)
            if not gap <= TOLERANCE[precision]:
                raise Disagreement(
                    f"Update {update}: {first.arm} has a loss of {left:.7g}, {other.arm} of {right:.7g}; in {precision} "
                    f"they may differ by {TOLERANCE[precision]:g} of it. No times are compared of unequal work."
                )
            worst = max(worst, gap)
    return worst
