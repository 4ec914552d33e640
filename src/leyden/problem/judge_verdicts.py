"""What a judge says of rows, and what that is on average."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one row.

    Attributes:
        score: within the scale of the template; None if there is none, which is not 0.
        explanation: the whole reply; empty if there was none.
        category: of the row, with the template `two_turn` and a table that has a column `category`.
        failure: why there is no score; None if there is one.
    """

    score: float | None
    explanation: str
    category: str | None
    failure: str | None


def averages(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """The mean score of all rows that have one, as `gpt`, and of each category, as `gpt/CATEGORY`.

    NaN where no row has a score.
    """
    groups: Mapping[str, list[float]] = defaultdict(list)
    for verdict in verdicts:
        names = ["gpt"] if verdict.category is None else ["gpt", f"gpt/{verdict.category}"]
        for name in names:
            groups[name].extend([] if verdict.score is None else [verdict.score])
    means = {name: math.fsum(scores) / len(scores) if scores else math.nan for name, scores in sorted(groups.items())}
    return means or {"gpt": math.nan}
