"""The rows to look at first: best, worst, and most changed since before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from leyden.report.page import words
from leyden.report.prediction_fields import change
from leyden.report.prediction_table import PredictionTable

ROWS = 3  # of each list
DIRECTIONS = {"perplexity": "min", "mse": "min", "mae": "min", "accuracy": "max"}  # metrics of ours that score rows
Direction = Literal["min", "max"]


@dataclass(frozen=True)
class Ranked:
    """Rows by one measure; places in the table.

    Attributes:
        measures: what they are ranked by; several where they give the same lists.
        columns: of the measures.
        best: the best in front.
        worst: the worst in front.
        changed: the most changed in front; empty where nothing is known of before.
    """

    measures: tuple[str, ...]
    columns: tuple[str, ...]
    best: tuple[int, ...]
    worst: tuple[int, ...]
    changed: tuple[int, ...]

    @property
    def rows(self) -> tuple[int, ...]:
        """All of them."""
        return (*self.best, *self.worst, *self.changed)


def highlights(predictions: PredictionTable, metric_direction: str | None = None) -> list[Ranked]:
    """Rows by loss, and by the first metric where it says something about each row.

    Args:
        predictions: of a run.
        metric_direction: of the first metric: `min` if less is better, `max` if more is; None: as known by its name.
    """
    found: list[Ranked] = []
    direction = metric_direction or DIRECTIONS.get(predictions.metric)
    for column, better in (("loss", "min"), (predictions.first_score, direction)):
        if column is None or better is None:
            continue
        values = predictions.numbers(column)
        if values is None or not any(value is not None for value in values):
            continue
        ranked = _ranked(column, values, change(predictions, column), better, predictions.numbers("loss"))
        if found and ranked.rows == found[-1].rows:
            one = found.pop()
            ranked = Ranked(
                one.measures + ranked.measures, one.columns + ranked.columns, one.best, one.worst, one.changed
            )
        found.append(ranked)
    return found


def _ranked(
    column: str,
    values: Sequence[float | None],
    changes: Sequence[float | None] | None,
    better: str,
    ties: Sequence[float | None] | None,
) -> Ranked:
    """The first and the last by a measure; equals by their loss, then in the order of the table."""
    sign = 1 if better == "min" else -1
    second = [0.0 if cell is None else cell for cell in ties or [None] * len(values)]
    known = [(sign * value, second[place], place) for place, value in enumerate(values) if value is not None]
    order = [place for *_, place in sorted(known)]
    half = min(ROWS, (len(order) + 1) // 2)  # of few rows none is both among the best and among the worst
    moved = [(-abs(value), place) for place, value in enumerate(changes or []) if value]
    worst = order[::-1][: min(ROWS, len(order) - half)]
    most = [place for _, place in sorted(moved)[:ROWS]]
    name = words(column.removeprefix("score_"))
    return Ranked((name,), (column,), tuple(order[:half]), tuple(worst), tuple(most))
