"""The part of a report about classes: confusion, calibration, and precision and recall of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from leyden.report.charts import chart, figure_of, line
from leyden.report.class_figures import Calibration, calibration, class_figures, confusion
from leyden.report.page import Section, fill, number
from leyden.report.prediction_table import PREDICTION, PROBABILITY, TARGET, PredictionTable

MOST_CLASSES = 20  # of a confusion matrix that can be read; of more the most frequent mistakes are listed
MISTAKES = 15
EVEN = 0.5


@dataclass(frozen=True)
class Judged:
    """The rows that have a target, or the cells of several labels.

    Attributes:
        names: of the K classes or label columns.
        true: [R, K], which row has which.
        given: [R, K], which was predicted.
        said: probabilities, to be held against what came true.
        came_true: of each of them.
        exclusive: every row has one class and is given one.
    """

    names: Sequence[str]
    true: NDArray[np.bool_]
    given: NDArray[np.bool_]
    said: Sequence[float]
    came_true: Sequence[bool]
    exclusive: bool

    @property
    def accuracy(self) -> float:
        """Share of right classes; of several labels the share of right cells."""
        if self.exclusive:
            return float((self.true & self.given).any(axis=1).mean())
        return float((self.true == self.given).mean())


def class_section(predictions: PredictionTable) -> Section | None:
    """Figures of the classes; None where no row has both a target and a prediction.

    Args:
        predictions: of a run whose problem is a classification.
    """
    judged = judged_rows if predictions.kind == "classes" else judged_labels
    now, before = judged(predictions), judged(predictions, before=True)
    if now is None:
        return None
    figures = class_figures(now.true, now.given, now.names)
    former = (
        None if before is None or before.names != now.names else class_figures(before.true, before.given, before.names)
    )
    curve = calibration(now.said, now.came_true)
    rows = [
        (name, *cells) for name, *cells in zip(
            now.names, figures.precision, figures.recall, figures.f1,
            former.f1 if former is not None else [None] * len(now.names), figures.support, strict=True,
        )
    ]  # fmt: skip
    return Section(
        "classes",
        "Classes",
        fill(
            "classes", labels=predictions.kind == "labels", rows=rows, compared=former is not None,
            means=[("Mean of the classes", *figures.means()), ("Mean, by rows", *figures.means(weighted=True))],
            accuracy=now.accuracy, accuracy_before=None if before is None else before.accuracy,
            error=curve.error, unjudged=len(predictions) - len(now.true), judged=len(now.true),
            matrix=_matrix(now) if predictions.kind == "classes" else None,
            reliability=_reliability(predictions, curve, before, calibrated(before)), said=_said(predictions),
        ),
        "Which class the model takes each validation row for, and how far its probabilities can be trusted.",
    )  # fmt: skip


def calibrated(judged: Judged | None) -> Calibration | None:
    """The calibration of these rows, where there are any."""
    return None if judged is None else calibration(judged.said, judged.came_true)


def judged_rows(predictions: PredictionTable, *, before: bool = False) -> Judged | None:
    """Rows of one class each. One question with yes or no: its probability of yes; several classes: of the likeliest.

    Args:
        predictions: of several classes, or of yes and no.
        before: those before training.
    """
    targets, found = predictions.texts("target", before=before), predictions.texts("prediction", before=before)
    chances = [predictions.numbers(PROBABILITY + name, before=before) for name in predictions.outputs]
    if targets is None or found is None or any(column is None for column in chances):
        return None
    known = [
        row for row, pair in enumerate(zip(targets, found, strict=True))
        if None not in pair and all(column is not None and column[row] is not None for column in chances)
    ]  # fmt: skip
    if not known:
        return None
    true, given = [str(targets[row]) for row in known], [str(found[row]) for row in known]
    table = np.array([[column[row] for column in chances if column is not None] for row in known], dtype=np.float64)
    outputs = predictions.outputs
    if len(outputs) == 1:  # the other name stands among the targets only
        others = sorted({*true, *given} - {*outputs}) or [f"not {outputs[0]}"]
        names = [*others, *outputs]
        said, came_true = table[:, 0].tolist(), [name == outputs[0] for name in true]
    else:
        names = [*outputs, *sorted({*true, *given} - {*outputs})]
        said, came_true = table.max(axis=1).tolist(), [one == other for one, other in zip(true, given, strict=True)]
    return Judged(names, _indicators(true, names), _indicators(given, names), said, came_true, exclusive=True)


def judged_labels(predictions: PredictionTable, *, before: bool = False) -> Judged | None:
    """Rows with several labels: every label is a question of its own.

    Args:
        predictions: of several labels.
        before: those before training.
    """
    names = predictions.outputs
    columns = [
        [predictions.numbers(start + name, before=before) for name in names]
        for start in (TARGET, PREDICTION, PROBABILITY)
    ]
    if any(column is None for group in columns for column in group):
        return None
    true, given, said = (np.array(group, dtype=np.float64).T for group in columns)
    known = ~(np.isnan(true) | np.isnan(given) | np.isnan(said)).any(axis=1)
    if not known.any():
        return None
    yes = true[known] > EVEN
    return Judged(names, yes, given[known] > EVEN, said[known].ravel().tolist(), yes.ravel().tolist(), exclusive=False)


def _indicators(cells: Sequence[str], names: Sequence[str]) -> NDArray[np.bool_]:
    return np.array([[cell == name for name in names] for cell in cells], dtype=bool).reshape(len(cells), len(names))


def _matrix(judged: Judged) -> dict[str, Any]:
    """The confusion matrix for the template, or of many classes the most frequent mistakes."""
    names = list(judged.names)
    true = [names[place] for place in judged.true.argmax(axis=1)]
    given = [names[place] for place in judged.given.argmax(axis=1)]
    counts = confusion(true, given, names)
    if len(names) <= MOST_CLASSES:
        largest = np.maximum(counts.sum(axis=1, keepdims=True), 1)
        rows = [
            (name, [(int(cell), round(100 * float(cell / most)), place == column) for column, cell in enumerate(line_)])
            for place, (name, line_, most) in enumerate(zip(names, counts, largest[:, 0], strict=True))
        ]
        return {"names": names, "rows": rows, "mistakes": []}
    off = counts - np.diag(np.diag(counts))
    order = np.argsort(off, axis=None, kind="stable")[::-1][:MISTAKES]
    places = [np.unravel_index(one, off.shape) for one in order]
    mistakes = [(names[one], names[other], int(off[one, other])) for one, other in places if off[one, other]]
    return {"names": [], "rows": [], "mistakes": mistakes}


def _said(predictions: PredictionTable) -> str:
    if predictions.kind == "labels":
        return "the probability of a yes, of all labels together"
    if len(predictions.outputs) == 1:
        return f"the probability of “{predictions.outputs[0]}”"
    return "the probability of the likeliest class"


def _reliability(
    predictions: PredictionTable, now: Calibration, before: Judged | None, former: Calibration | None
) -> Markup:
    traces: list[dict[str, Any]] = [
        line("perfect", [0, 1], [0, 1], series=5),
        line("after training", now.confidence.tolist(), now.share.tolist(), marks=True),
    ]
    if before is not None and former is not None:
        traces.append(line("before training", former.confidence.tolist(), former.share.tolist(), series=1, marks=True))
    columns = ("Probability", "Share that came true", "Rows")
    rows = list(zip(now.confidence.tolist(), now.share.tolist(), now.counts.tolist(), strict=True))
    axes = {
        "xaxis": {"title": "probability", "range": [0, 1]},
        "yaxis": {"title": "share that came true", "range": [0, 1.02]},
        "hovermode": "closest",
    }
    return chart(
        figure_of(traces, layout=axes),
        f"Reliability: {_said(predictions)} in ten bins against the share that came true; "
        f"the expected calibration error is {number(now.error)}.",
        title="Reliability",
        note="On the diagonal, what is said with 70 % comes true in 70 of 100 cases. Below it the model is too sure.",
        table=(columns, rows),
    )
