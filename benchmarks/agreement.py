"""Arms that are compared must have done the same work: their losses agree, update by update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

from benchmarks.cases import Kind
from benchmarks.result import Result

TOLERANCE: Mapping[str, Mapping[Kind, float]] = {
    "float32": {"tokens": 1e-4, "classes": 1e-4, "pairs": 1e-3},
    "bfloat16": {"tokens": 3e-2, "classes": 3e-2, "pairs": 3e-2},
}
"""Largest difference of two losses of one update, as a share of the larger one.

A loss of pairs is made of differences between sums over all tokens of an answer, so it has the rounding of the sums,
which are hundreds of times as large.
"""


class Disagreement(Exception):
    """Two arms did not do the same work."""


def check_agreement(results: Sequence[Result], precision: str, kind: Kind) -> float:
    """The largest relative difference between the losses of one update, over all arms and rounds.

    Args:
        results: of one case.
        precision: of the case.
        kind: of its samples.

    Raises:
        Disagreement: it is above the tolerance; with the two arms, the update, and both losses.
    """
    first, *others = results
    allowed, worst = TOLERANCE[precision][kind], 0.0
    for other in others:
        for update, (left, right) in enumerate(
            zip_longest(first.losses, other.losses, fillvalue=float("inf")), start=1
        ):
            gap = abs(left - right) / max(abs(left), abs(right), 1e-12)
            if not gap <= allowed:
                raise Disagreement(
                    f"Update {update}: {first.arm} has a loss of {left:.7g}, {other.arm} of {right:.7g}; in {precision}"
                    f" they may differ by {allowed:g} of it. No times are compared of unequal work."
                )
            worst = max(worst, gap)
    return worst
