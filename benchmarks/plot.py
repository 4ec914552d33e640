"""Lines over logarithmic axes, as SVG: on such axes whatever grows linearly rises by 45 degrees."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 420, 300  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 46, 44  # of its margins
COLUMNS = 2
APART = 24  # pixels between two numbers below an axis
ENOUGH = 3  # numbers beside an axis
COLOURS = ("#1f6feb", "#d1495b", "#2b9348", "#8e6c00")
STYLE = (
    "text{font:11px sans-serif;fill:#222}.title{font-size:13px;font-weight:bold}.grid{stroke:#ddd}"
    ".frame{fill:none;stroke:#888}"
)


@dataclass(frozen=True)
class Series:
    """A line through points; one of which a number is not above 0 has no place on the axes, and is not drawn."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False

    @property
    def drawn(self) -> list[tuple[float, float]]:
        """The points that have a place."""
        return [(x, y) for x, y in self.points if x > 0 and y > 0]


@dataclass(frozen=True)
class Panel:
    """A diagram: what stands on its axes, and its lines."""

    title: str
    across: str
    up: str
    series: Sequence[Series]


@dataclass(frozen=True)
class Axis:
    """Numbers to pixels, by their logarithm.

    Attributes:
        least: shown number.
        most: shown number.
        start: pixel of the least.
        end: pixel of the most.
    """

    least: float
    most: float
    start: float
    end: float

    def pixel(self, number: float) -> float:
        """Where a number stands."""
        share = math.log(number / self.least) / math.log(self.most / self.least)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """What is written beside the axis: powers of ten, and numbers between them where that would be too few."""
        powers = range(math.floor(math.log10(self.least)), math.ceil(math.log10(self.most)) + 1)
        found: list[float] = []
        for factors in ((1,), (1, 2, 5), range(1, 10)):
            every = [factor * 10.0**power for power in powers for factor in factors]
            found = [number for number in every if self.least <= number <= self.most]
            if len(found) >= ENOUGH:
                break
        return found


def draw(panels: Sequence[Panel]) -> str:
    """An SVG file with all panels, two in a row."""
    rows = math.ceil(len(panels) / COLUMNS)
    size = f'width="{COLUMNS * WIDTH}" height="{rows * HEIGHT}" viewBox="0 0 {COLUMNS * WIDTH} {rows * HEIGHT}"'
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', f"<style>{STYLE}</style>",
             '<rect width="100%" height="100%" fill="white"/>']  # fmt: skip
    for number, panel in enumerate(panels):
        place = f"{number % COLUMNS * WIDTH},{number // COLUMNS * HEIGHT}"
        lines += [f'<g transform="translate({place})">', *_panel(panel), "</g>"]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _panel(panel: Panel) -> Iterator[str]:
    points = [point for series in panel.series for point in series.drawn]
    if not points:
        yield f'<text class="title" x="{LEFT}" y="16">{escape(panel.title)}: nothing above 0</text>'
        return
    across = _axis([x for x, _ in points], LEFT, WIDTH - RIGHT)
    up = _axis([y for _, y in points], HEIGHT - BOTTOM, TOP)
    yield f'<text class="title" x="{LEFT}" y="16">{escape(panel.title)}</text>'
    written = -math.inf
    for tick in sorted({x for x, _ in points}):
        x = across.pixel(tick)
        if x - written < APART:
            continue
        written = x
        yield f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        yield f'<text x="{x}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{_written(tick)}</text>'
    for tick in up.ticks():
        y = up.pixel(tick)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
        yield f'<text x="{LEFT - 5}" y="{y + 4}" text-anchor="end">{_written(tick)}</text>'
    yield (
        f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"/>'
    )
    middle = (HEIGHT - BOTTOM + TOP) / 2
    yield f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(panel.across)}</text>'
    turned = f'transform="rotate(-90 14 {middle})"'
    yield f'<text x="14" y="{middle}" text-anchor="middle" {turned}>{escape(panel.up)}</text>'
    room = (WIDTH - LEFT) / max(COLUMNS, len(panel.series))  # of a name above the diagram
    for number, series in enumerate(panel.series):
        yield from _series(series, COLOURS[number % len(COLOURS)], across, up, round(LEFT + room * number))


def _series(series: Series, colour: str, across: Axis, up: Axis, legend: float) -> Iterator[str]:
    places = [(across.pixel(x), up.pixel(y)) for x, y in series.drawn]
    dashes = ' stroke-dasharray="5 4"' if series.dashed else ""
    way = " ".join(f"{x},{y}" for x, y in places)
    yield f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'
    if not series.dashed:
        yield from (f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in places)
    yield f'<line x1="{legend}" x2="{legend + 18}" y1="31" y2="31" stroke="{colour}" stroke-width="2"{dashes}/>'
    yield f'<text x="{legend + 22}" y="35">{escape(series.name)}</text>'


def _axis(numbers: Sequence[float], start: float, end: float) -> Axis:
    """Room for all numbers, and a little more."""
    return Axis(min(numbers) / 1.15, max(numbers) * 1.15, start, end)


def _written(number: float) -> str:
    """A number as it stands beside an axis."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if number >= size and number % size == 0:
            return f"{number / size:g}{unit}"
    return f"{number:g}"
