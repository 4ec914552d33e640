"""The part of a report about predicted numbers: predictions against targets, and what is left between them."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup

from leyden.report.charts import chart, figure_of
from leyden.report.number_figures import NumberFigures, number_figures
from leyden.report.page import Section, fill
from leyden.report.prediction_table import PREDICTION, TARGET, PredictionTable

POINTS = 1_000  # of a scatter; of more, evenly spread ones
TARGETS = 6  # with charts; the figures stand for all
BINS = 24

Pairs = tuple[list[float], list[float]]


def number_section(predictions: PredictionTable) -> Section | None:
    """Figures of each target; None where no row has both a target and a prediction.

    Args:
        predictions: of a run whose problem is a regression.
    """
    rows: list[tuple[str, NumberFigures, NumberFigures | None]] = []
    charts: list[Markup] = []
    for name in predictions.outputs:
        now, before = known_pairs(predictions, name), known_pairs(predictions, name, before=True)
        if not now[0]:
            continue
        rows.append((name, number_figures(*now), number_figures(*before) if before[0] else None))
        if len(rows) <= TARGETS:
            charts += [_scatter(name, *now), _residuals(name, now, before)]
    if not rows:
        return None
    return Section(
        "numbers",
        "Numbers",
        fill("numbers", rows=rows, charts=charts, compared=any(former for *_, former in rows), drawn=TARGETS),
        "How far the predicted numbers are from their targets.",
    )


def known_pairs(predictions: PredictionTable, name: str, *, before: bool = False) -> Pairs:
    """Targets and predictions of the rows that have both."""
    targets = predictions.numbers(TARGET + name, before=before)
    found = predictions.numbers(PREDICTION + name, before=before)
    known = [
        (one, other)
        for one, other in zip(targets or [], found or [], strict=bool(targets and found))
        if one is not None and other is not None
    ]
    return [one for one, _ in known], [other for _, other in known]


def _scatter(name: str, targets: list[float], found: list[float]) -> Markup:
    places = np.unique(np.linspace(0, len(targets) - 1, min(POINTS, len(targets))).round().astype(int)).tolist()
    x, y = [targets[place] for place in places], [found[place] for place in places]
    ends = [min([*x, *y]), max([*x, *y])]
    traces: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "name": "prediction = target", "x": ends, "y": ends, "hoverinfo": "skip",
         "line": {"color": "var(--series-6)", "dash": "dot", "width": 2}, "meta": {"series": 6}},
        {"type": "scatter", "mode": "markers", "name": "rows", "x": x, "y": y,
         "marker": {"color": "var(--series-1)", "size": 7, "opacity": 0.6}, "meta": {"series": 1}},
    ]  # fmt: skip
    note = f"{len(places):,} of {len(targets):,} rows, evenly spread." if len(places) < len(targets) else ""
    return chart(
        figure_of(
            traces, x="target", y="prediction", layout={"hovermode": "closest"} | _titles("target", "prediction")
        ),
        f"Scatter of the predictions of {name} over their targets, with the line on which both are equal.",
        title=f"{name}: target and prediction",
        note=note,
        table=(("Target", "Prediction"), list(zip(x, y, strict=True))),
    )


def _residuals(name: str, now: Pairs, before: Pairs) -> Markup:
    groups = [("after training", now, 0), *([("before training", before, 1)] if before[0] else [])]
    errors = [np.subtract(found, targets) for _, (targets, found), _ in groups]
    low, high = float(min(map(np.min, errors))), float(max(map(np.max, errors)))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    middles = ((edges[:-1] + edges[1:]) / 2).tolist()
    counts = [np.histogram(one, edges)[0].tolist() for one in errors]
    traces: list[dict[str, Any]] = [
        {"type": "bar", "name": title, "x": middles, "y": heights, "meta": {"series": series + 1},
         "marker": {"color": f"var(--series-{series + 1})", "pattern": {"shape": "/" if series else ""}},
         "opacity": 0.75}
        for (title, _, series), heights in zip(groups, counts, strict=True)
    ]  # fmt: skip
    return chart(
        figure_of(traces, layout={"barmode": "overlay", "bargap": 0.05} | _titles("prediction - target", "rows")),
        f"Histogram of the residuals of {name}: prediction less target.",
        title=f"{name}: residuals",
        table=(("Middle of the bin", *(title for title, *_ in groups)), list(zip(middles, *counts, strict=True))),
    )


def _titles(x: str, y: str) -> dict[str, Any]:
    return {"xaxis": {"title": x}, "yaxis": {"title": y}}
