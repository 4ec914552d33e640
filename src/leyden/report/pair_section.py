"""The part of a report about pairs: which answer is likelier before and after, and the margins of the rewards."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup

from leyden.report.charts import chart, figure_of
from leyden.report.page import Section, fill
from leyden.report.prediction_fields import likelier
from leyden.report.prediction_table import PredictionTable

BINS = 24
CHOICES = ("chosen", "rejected", "tie")


def pair_section(predictions: PredictionTable) -> Section | None:
    """Which answers are preferred; None where no pair was scored.

    Args:
        predictions: of a run whose problem is one of pairs.
    """
    after, before = likelier(predictions), likelier(predictions, before=True)
    margins = [cell for cell in predictions.numbers("reward_margin") or [] if cell is not None]
    if after is None or not any(after):
        return None
    former = before or [None] * len(after)
    counts = [
        (one, [sum((one, other) == pair for pair in zip(former, after, strict=True)) for other in CHOICES])
        for one in CHOICES
    ]
    return Section(
        "pairs",
        "Preferences",
        fill(
            "pairs", counts=counts if before else [], choices=CHOICES,
            totals=[sum(one == cell for cell in after) for one in CHOICES],
            pairs=sum(cell is not None for cell in after),
            right=sum(margin > 0 for margin in margins), margins=len(margins),
            mean=float(np.mean(margins)) if margins else None, chart=_margins(margins) if margins else None,
        ),
        "Which of its two answers each validation pair gets the higher log-probability and the higher reward for.",
    )  # fmt: skip


def _margins(margins: list[float]) -> Markup:
    low, high = min(margins), max(margins)
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    counts, middles = np.histogram(margins, edges)[0].tolist(), ((edges[:-1] + edges[1:]) / 2).tolist()
    bars: dict[str, Any] = {
        "type": "bar", "name": "pairs", "x": middles, "y": counts,
        "marker": {"color": ["var(--series-1)" if middle > 0 else "var(--series-2)" for middle in middles],
                   "pattern": {"shape": ["" if middle > 0 else "/" for middle in middles]}},
    }  # fmt: skip
    layout = {"bargap": 0.05, "xaxis": {"title": "reward margin"}, "yaxis": {"title": "pairs"}}
    return chart(
        figure_of([bars], layout=layout),
        f"Histogram of the reward margins of {len(margins)} pairs: reward of the chosen answer less that of the other.",
        title="Reward margins",
        note="Right of 0 the chosen answer has the higher reward.",
        table=(("Middle of the bin", "Pairs"), list(zip(middles, counts, strict=True))),
    )
