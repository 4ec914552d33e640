"""Charts: figures as plotly's script reads them, with what people need who do not see or run it.

Colours are written `var(--series-1)`: names of `page.css`, which are resolved when the chart is drawn, and again when
the page turns dark or light.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from leyden.report.page import fill, script_text

Figure = Mapping[str, Any]
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")  # so that colour is not all that differs
MOST_ROWS = 100  # of a table below a chart


def line(  # noqa: PLR0913
    name: str,
    x: Sequence[Any],
    y: Sequence[Any],
    *,
    series: int = 0,
    smooth: bool = False,
    marks: bool = False,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One curve, in the colour and dashes of its series.

    Args:
        name: as the chart's controls call it.
        x: of its points.
        y: of its points; None or NaN is a gap.
        series: which of the six series of a chart it is, from 0.
        smooth: whether the smoothing control is about it.
        marks: show the points themselves: for a few.
        more: attributes of the trace, as plotly knows them.
    """
    color = f"var(--series-{series % len(DASHES) + 1})"
    dash = DASHES[series % len(DASHES)]
    return {
        "type": "scatter", "mode": "lines+markers" if marks else "lines", "name": name, "x": list(x), "y": list(y),
        "line": {"color": color, "dash": dash, "width": 2}, "marker": {"color": color, "size": 7},
        "meta": {"series": series % len(DASHES) + 1, "smooth": smooth}, **(more or {}),
    }  # fmt: skip


def figure_of(
    traces: Sequence[Mapping[str, Any]], *, x: str = "", y: str = "", layout: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A figure with titles at its axes.

    Args:
        traces: of plotly; see `line`.
        x: title of the x axis.
        y: title of the y axis.
        layout: more of it, as plotly knows it; its axes replace those made of the titles.
    """
    return {"data": list(traces), "layout": {"xaxis": {"title": x}, "yaxis": {"title": y}, **(layout or {})}}


def chart(
    figure: Figure,
    label: str,
    *,
    title: str = "",
    note: str = "",
    table: tuple[Sequence[str], Sequence[Sequence[Any]]] | None = None,
) -> Markup:
    """A chart with its heading, a control for each series, and its numbers in a table behind a fold.

    Args:
        figure: `data` and `layout`, as plotly's script takes them; see `figure_of`.
        label: what a screen reader says of it: what is drawn over what, and what can be seen.
        title: above it.
        note: a sentence below it: what it means.
        table: names and rows of the table; None: made of the x and y of the traces.
    """
    columns, rows = table if table is not None else rows_of(figure)
    named = [(place, one) for place, one in enumerate(figure["data"]) if one.get("name")]
    return fill(
        "chart", label=label, title=title, note=note, columns=columns, rows=thinned(rows), all_rows=len(rows),
        controls=[(place, one["name"], one.get("meta", {}).get("series", 1)) for place, one in named]
        if len(named) > 1
        else [],
        figure=script_text(figure),
    )  # fmt: skip


def smoothing_control() -> Markup:
    """The control for all curves of a page that can be smoothed; one is enough."""
    return fill("smoothing")


def rows_of(figure: Figure) -> tuple[list[str], list[list[Any]]]:
    """The numbers of a figure as a table: a row for each x, a column for each trace that has x and y."""
    traces = [one for one in figure["data"] if one.get("x") is not None and one.get("y") is not None]
    if not traces:
        return [], []
    axis = figure.get("layout", {}).get("xaxis", {}).get("title") or "x"
    cells: dict[Any, list[Any]] = {}
    for place, one in enumerate(traces):
        for x, y in zip(one["x"], one["y"], strict=True):
            cells.setdefault(x, [None] * len(traces))[place] = y
    axis = axis.get("text", "x") if isinstance(axis, Mapping) else axis
    ordered = sorted(cells.items()) if all(isinstance(x, int | float) for x in cells) else list(cells.items())
    names = [one.get("name") or f"series {place}" for place, one in enumerate(traces, 1)]
    return [str(axis), *names], [[x, *values] for x, values in ordered]


def thinned(rows: Sequence[Sequence[Any]], most: int = MOST_ROWS) -> list[Sequence[Any]]:
    """At most so many rows, evenly spread, with the first and the last."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(place * (len(rows) - 1) / (most - 1))] for place in range(most)]
