"""Charts over many runs: the metric over each setting that differs, and curves over each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from leyden.report.charts import DASHES, chart, figure_of, line, smoothing_control, thinned
from leyden.report.compared_runs import PREFIX, ComparedRun
from leyden.report.page import Section, fill
from leyden.report.ranking import Comparison, as_number
from leyden.settings.wording import counted

MOST_SCATTERS = 12
MOST_CURVES = 12  # runs in a chart: more cannot be told apart
MOST_POINTS = 300  # of a curve
CURVES = ("validation/loss", "train/loss", "train/learning_rate")
LOGARITHMIC = 30  # largest value over smallest, from where on an axis counts in powers


def settings_section(compared: Comparison) -> Section | None:
    """The metric over each setting that differs, a dot for each run; None where no setting differs."""
    measured = [
        place for place, run in enumerate(compared.runs) if not math.isnan(run.metrics.get(compared.metric, math.nan))
    ]
    values = {key: [texts[place] for place in measured] for key, texts in compared.settings.items()}
    values = {key: texts for key, texts in values.items() if len(set(texts)) > 1}
    if not values:
        return None
    runs = [compared.runs[place] for place in measured]
    charts = [_scatter(key, texts, runs, compared.metric) for key, texts in list(values.items())[:MOST_SCATTERS]]
    left = list(values)[MOST_SCATTERS:]
    lead = "Each dot is a run. Where several settings differ at once, a chart shows their effects together."
    more = f" Not drawn: {', '.join(left)}." if left else ""
    return Section(
        "compare-settings",
        f"Settings against {compared.metric}",
        fill("compare-charts", charts=charts, smoothing=Markup(), note=more),
        lead,
    )


def _scatter(key: str, texts: Sequence[str | None], runs: Sequence[ComparedRun], metric: str) -> Any:
    numbers = [as_number(text) for text in texts]
    numeric = all(value is not None for value in numbers)
    x: list[Any] = list(numbers) if numeric else ["none" if text is None else text[:40] for text in texts]
    y = [run.metrics[metric] for run in runs]
    axis: dict[str, Any] = {"title": key} if numeric else {"title": key, "type": "category"}
    known = [value for value in numbers if value is not None]
    if numeric and min(known) > 0 and max(known) / min(known) >= LOGARITHMIC:
        axis["type"] = "log"
    more = {
        "mode": "markers",
        "text": [run.name for run in runs],
        "marker": {"color": "var(--series-1)", "size": 9, "opacity": 0.75},
        "hovertemplate": "%{text}<br>%{x}: %{y}<extra></extra>",
    }
    trace = line(metric, x, y, more=more)
    figure = figure_of([trace], layout={"xaxis": axis, "yaxis": {"title": metric}, "hovermode": "closest"})
    rows = [[value, score, run.name] for value, score, run in zip(x, y, runs, strict=True)]
    label = f"{metric} of {counted(len(runs), 'runs')} over {key}: a dot for each."
    return chart(figure, label, title=key, table=([key, metric, "run"], rows))


def curves_section(compared: Comparison) -> Section | None:
    """The same numbers of the best runs over each other; None where nothing was logged twice."""
    charts, names = [], dict.fromkeys([f"{PREFIX}{compared.metric}", *CURVES])
    told = ""
    for name in names:
        having = [run for run in compared.runs if run.logged[name] > 1]
        drawn = having[:MOST_CURVES]
        if not drawn:
            continue
        traces = []
        for place, run in enumerate(drawn):
            rows = run.files.series[name]
            points = thinned(list(zip(rows["samples"].tolist(), rows["value"].tolist(), strict=True)), MOST_POINTS)
            color = f"var(--series-{place % len(DASHES) + 1})"
            dash = DASHES[(place + place // len(DASHES)) % len(DASHES)]
            traces.append(line(
                run.name, [x for x, _ in points], [y for _, y in points], series=place, smooth=name == "train/loss",
                marks=name.startswith(PREFIX), more={"line": {"color": color, "dash": dash, "width": 2}},
            ))  # fmt: skip
        label = f"{name} of {counted(len(drawn), 'runs')} over the samples they have trained on."
        charts.append(chart(figure_of(traces, x="samples", y=name), label, title=name))
        if len(having) > len(drawn):
            told = f"Of {len(having)} runs those that stand first in the table are drawn, at most {MOST_CURVES}."
    if not charts:
        return None
    smoothing = smoothing_control() if any(run.logged["train/loss"] > 1 for run in compared.runs) else Markup()
    return Section("compare-curves", "Curves", fill("compare-charts", charts=charts, smoothing=smoothing, note=told))
