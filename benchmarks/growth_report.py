"""What was measured of growth, as Markdown tables and as diagrams."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.plot import Panel, Series

START, END = "<!-- growth: start -->", "<!-- growth: end -->"
Number = Mapping[str, Any]
WAYS = {"rows": "more rows", "length": "a longer row"}


def exponent(points: Sequence[tuple[float, float]]) -> float | None:
    """The power with which the second number grows with the first: slope of the logarithms, by least squares.

    Points that are not above 0 have no logarithm and are left out; None if the others agree in the first number.
    """
    logs = [(math.log(x), math.log(y)) for x, y in points if x > 0 and y > 0]
    if len({x for x, _ in logs}) < 2:  # noqa: PLR2004
        return None
    middle = tuple(sum(one) / len(logs) for one in zip(*logs, strict=True))
    spread = sum((x - middle[0]) ** 2 for x, _ in logs)
    return float(sum((x - middle[0]) * (y - middle[1]) for x, y in logs) / spread)


def tables(found: Mapping[str, Any]) -> str:
    """All parts that were measured, as Markdown."""
    makers = {"updates": _updates, "vocabulary": _vocabulary, "rows": _rows}
    blocks = [block for part, make in makers.items() if part in found for block in make(found[part])]
    return "\n\n".join(blocks) + "\n" if blocks else ""


def panels(found: Mapping[str, Any]) -> list[Panel]:
    """Diagrams of all parts that were measured."""
    drawn = []
    if "updates" in found:
        numbers = found["updates"]["numbers"]
        lines = [Series(f"by {way}", _points(_of(numbers, grows), "tokens", "cpu")) for grows, way in WAYS.items()]
        memory = [Series(f"by {way}", _points(_of(numbers, grows), "tokens", "peak_mb")) for grows, way in WAYS.items()]
        drawn += [
            Panel("An update", "tokens per update", "processor seconds", [*lines, *_linear(lines[0])]),
            Panel("Memory of an update", "tokens per update", "peak MB", memory),
        ]
    if "vocabulary" in found:
        points = _of(found["vocabulary"]["numbers"], "vocabulary")
        logits = [(one["vocabulary"], logits_mb(one)) for one in points]
        lines = [
            Series("peak", _points(points, "vocabulary", "peak_mb")),
            Series("all logits once", logits, dashed=True),
        ]
        drawn.append(
            Panel(f"Memory and vocabulary, {points[0]['length']} tokens", "tokens of the vocabulary", "MB", lines)
        )
    if "rows" in found:
        numbers = found["rows"]["numbers"]
        starts = {"first start": 1, "second start": 2}
        lines = [Series(name, _points(_of(numbers, one, "start"), "rows", "cpu")) for name, one in starts.items()]
        memory = [Series(name, _points(_of(numbers, one, "start"), "rows", "peak_mb")) for name, one in starts.items()]
        drawn += [
            Panel("Up to the first update", "rows of the table", "processor seconds", lines),
            Panel("Memory up to the first update", "rows of the table", "peak MB", memory),
        ]
    return drawn


def logits_mb(point: Number) -> float:
    """Size of the logits of all tokens of an update, float32, if they were held at once."""
    return float(point["vocabulary"] * point["tokens"] * 4 / 2**20)


def _of(numbers: Sequence[Number], value: object, key: str = "grows") -> list[Number]:
    return [number for number in numbers if number[key] == value]


def _points(numbers: Sequence[Number], across: str, up: str) -> list[tuple[float, float]]:
    return [(number[across], number[up]) for number in numbers]


def _linear(series: Series) -> list[Series]:
    """What a line would be that grows as its first point says; none where there is no such point."""
    points = [(x, y) for x, y in series.points if x > 0 and y > 0]
    if not points:
        return []
    (first, height), last = points[0], points[-1][0]
    return [Series("linear", [(first, height), (last, height * last / first)], dashed=True)]


def _updates(part: Number) -> list[str]:
    numbers = part["numbers"]
    rows = [
        f"| {one['tokens']:,} | {WAYS[one['grows']]}: {one['rows']} x {one['length']} | {one['cpu']:.1f} | "
        f"{one['seconds']:.1f} | {1000 * one['cpu'] / one['tokens']:.1f} | {one['peak_mb']:,} |"
        for one in numbers
    ]
    powers = {grows: exponent(_points(_of(numbers, grows), "tokens", "cpu")) for grows in WAYS}
    known = {grows: "that is not known" if power is None else f"{power:.2f}" for grows, power in powers.items()}
    return [
        f"One update, {_how(part)}: processor seconds grow with the tokens to the power {known['rows']} by more "
        f"rows, and {known['length']} by longer ones, whose attention is quadratic.",
        "| tokens | by | processor s | s by the clock | ms per token | peak MB |\n|---|---|---|---|---|---|\n"
        + "\n".join(rows),
    ]


def _vocabulary(part: Number) -> list[str]:
    rows = [
        f"| {one['vocabulary']:,} | {one['tokens']:,} | {one['peak_mb']:,} | {logits_mb(one):,.0f} |"
        for one in part["numbers"]
    ]
    return [
        f"Two random layers with larger vocabularies, every token a target, {_how(part)}:",
        "| vocabulary | tokens | peak MB | one copy of all logits, MB |\n|---|---|---|---|\n" + "\n".join(rows),
    ]


def _rows(part: Number) -> list[str]:
    rows = [
        f"| {one['rows']:,} | {one['file_mb']:,} | {'first' if one['start'] == 1 else 'second'} | {one['cpu']:,.1f} | "
        f"{one['seconds']:,.1f} | {one['peak_mb']:,} | {one['cache_mb']:,} |"
        for one in part["numbers"]
    ]
    return [
        f"From the command to the end of the first update, `backbone=tiny`, {_how(part)}; processor seconds without "
        "those of importing the libraries:",
        "| rows | csv, MB | start | processor s | s by the clock | peak MB | cache, MB |\n"
        "|---|---|---|---|---|---|---|\n" + "\n".join(rows),
    ]


def _how(part: Number) -> str:
    threads = part["threads"]
    return f"{part['measured']}, {threads} thread{'s' if threads > 1 else ''}, {part['machine']['processor']}"
