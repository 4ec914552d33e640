"""The cells that a page has of the predictions: which columns there are, in what form, and what is shown where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from leyden.report.page import heading
from leyden.report.prediction_table import PREDICTION, PROBABILITY, PROMPT_TEXT, TARGET, PredictionTable, joined

NOT_TARGETS = ("loss", "prediction", "target")

Cells = Sequence[str | float | None]
Form = Literal["text", "number"]


@dataclass
class Fields:
    """Columns of cells that a script reads, and what becomes of them in table and details.

    Attributes:
        fields: title, form and cells of each; everything else names them by their place.
        columns: of the table.
        facts: short ones about the rows to look at first.
        comparisons: of two texts of a row: the fields to go from and to.
        values: title, and the fields of a number now and before.
        notes: further texts of a row.
        others: the user's columns that have no part in the conversation.
        conversation: fields of system text, prompt, answer, and of what the model was shown.
    """

    fields: list[dict[str, Any]] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    facts: list[int] = field(default_factory=list)
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    values: list[dict[str, Any]] = field(default_factory=list)
    notes: list[int] = field(default_factory=list)
    others: list[int] = field(default_factory=list)
    conversation: dict[str, int | None] = field(default_factory=dict)

    def add(
        self, title: str, form: Form, cells: Cells | None, *, shown: bool = False, fact: bool = False
    ) -> int | None:
        """Take in a column; None, and nothing, where there is none.

        Args:
            title: for people.
            form: of its cells.
            cells: one for each row.
            shown: as a column of the table.
            fact: as a short fact about the rows to look at first.
        """
        if cells is None or all(cell is None for cell in cells):
            return None
        self.fields.append({"title": title, "form": form, "cells": list(cells)})
        if fact:
            self.facts.append(len(self.fields) - 1)
        if shown:
            self.columns.append(len(self.fields) - 1)
        return len(self.fields) - 1

    def compare(self, start: int | None, end: int | None, *, since_before: bool = False) -> None:
        """Show the differences of two columns of texts, where both are there.

        Args:
            start: the field to go from.
            end: the field to go to.
            since_before: the first is the same as the second before training.
        """
        if start is not None and end is not None:
            self.comparisons.append({"from": start, "to": end, "since_before": since_before})


def fields_of(predictions: PredictionTable) -> Fields:
    """Everything that a page has of predictions, nothing cut yet.

    Args:
        predictions: of a run.
    """
    fields = Fields()
    prompt = fields.add("Prompt", "text", predictions.prompts, shown=True)
    target = _add_targets(predictions, fields)
    former = fields.add("Prediction before training", "text", predictions.texts("prediction", before=True))
    prediction = _add_predictions(predictions, fields)
    if predictions.kind in ("text", "pairs"):
        fields.compare(target, prediction)
        fields.compare(former, prediction, since_before=True)
    elif former is not None:
        fields.notes.append(former)
    _add_numbers(predictions, fields)
    if predictions.kind == "pairs":
        _add_pairs(predictions, fields, target)
    system = predictions.role("system")
    fields.conversation = {
        "system": fields.add("System", "text", predictions.texts(system[0])) if system else None,
        "prompt": prompt if predictions.role("prompt") else None,
        "answer": target if predictions.kind in ("text", "pairs") else None,
        "shown": fields.add("As the model was shown it", "text", predictions.texts(PROMPT_TEXT)),
    }
    _add_notes(predictions, fields)
    return fields


def _add_targets(predictions: PredictionTable, fields: Fields) -> int | None:
    if predictions.kind == "numbers":
        for name in predictions.outputs:
            title, cells = _title("Target", name, predictions), predictions.numbers(TARGET + name)
            fields.add(title, "number", cells, shown=True, fact=True)
        return None
    if predictions.kind == "labels":
        return fields.add("Target", "text", chosen_labels(predictions, TARGET), shown=True, fact=True)
    title, fact = "Chosen" if predictions.kind == "pairs" else "Target", predictions.kind == "classes"
    return fields.add(title, "text", predictions.texts("target"), shown=True, fact=fact)


def _add_predictions(predictions: PredictionTable, fields: Fields) -> int | None:
    if predictions.kind == "numbers":
        for name in predictions.outputs:
            title, column = _title("Prediction", name, predictions), PREDICTION + name
            now = fields.add(title, "number", predictions.numbers(column), shown=True, fact=True)
            _value(fields, title, now, fields.add(title, "number", predictions.numbers(column, before=True)))
        return None
    if predictions.kind == "labels":
        return fields.add("Prediction", "text", chosen_labels(predictions, PREDICTION), shown=True, fact=True)
    cells, fact = predictions.texts("prediction"), predictions.kind == "classes"
    return fields.add("Prediction", "text", cells, shown=True, fact=fact)


def _add_pairs(predictions: PredictionTable, fields: Fields, chosen: int | None) -> None:
    """The answer that was worse, and which of the two the model holds for likelier."""
    column = predictions.role("rejected_answer")
    rejected = fields.add("Rejected", "text", predictions.texts(column[0]), shown=True) if column else None
    fields.compare(chosen, rejected)
    for title, before in (("Likelier before", True), ("Likelier after", False)):
        fields.add(title, "text", likelier(predictions, before=before), shown=True, fact=True)


def likelier(predictions: PredictionTable, *, before: bool = False) -> list[str | None] | None:
    """Which answer of each pair has the higher log-probability: `chosen`, `rejected` or `tie`."""
    chosen = predictions.numbers("chosen_logp", before=before)
    rejected = predictions.numbers("rejected_logp", before=before)
    if chosen is None or rejected is None:
        return None
    return [
        None if one is None or other is None else "tie" if one == other else "chosen" if one > other else "rejected"
        for one, other in zip(chosen, rejected, strict=True)
    ]


def chosen_labels(predictions: PredictionTable, start: str) -> list[str | None] | None:
    """The labels of each row with a yes, as one text; `none` where every one is a no."""
    columns = [predictions.numbers(start + name) for name in predictions.outputs]
    known = [(name, column) for name, column in zip(predictions.outputs, columns, strict=True) if column is not None]
    if not known:
        return None
    rows: list[str | None] = []
    for row in range(len(predictions)):
        cells = [(name, column[row]) for name, column in known]
        missing = all(cell is None for _, cell in cells)
        rows.append(None if missing else joined([name for name, cell in cells if cell], ", ") or "none")
    return rows


def change(predictions: PredictionTable, name: str) -> list[float | None] | None:
    """How far the numbers of a column went since before training."""
    now, before = predictions.numbers(name), predictions.numbers(name, before=True)
    if now is None or before is None:
        return None
    return [None if one is None or old is None else one - old for one, old in zip(now, before, strict=True)]


def _add_numbers(predictions: PredictionTable, fields: Fields) -> None:
    """The problem's numbers, now and before; loss, scores and margin in the table too."""
    inside = {f"{start}{name}" for start in (TARGET, PREDICTION) for name in predictions.outputs}
    front = [*(["reward_margin"] if predictions.kind == "pairs" else []), *predictions.scores, "loss"]
    rest = [name for name in predictions.added if name not in front and name not in inside]
    for name in [*front, *rest]:
        title = heading(name.removeprefix("score_")) if name in predictions.scores else title_of(name)
        now = fields.add(title, "number", predictions.numbers(name), shown=name in front)
        former = fields.add(f"{title} before", "number", predictions.numbers(name, before=True), shown=name == "loss")
        _value(fields, title, now, former)
    fields.add("Change of loss", "number", change(predictions, "loss"), shown=True)


def title_of(name: str) -> str:
    """A column's name for people: `chosen_logp` is `Chosen log-probability`."""
    return name if name.startswith(PROBABILITY) else heading(name.replace("_logp", "_log-probability"))


def _add_notes(predictions: PredictionTable, fields: Fields) -> None:
    """Texts that metrics have added, such as a judge's explanation, and the user's other columns."""
    for name in predictions.added:
        if name in (PROMPT_TEXT, *NOT_TARGETS) or predictions.numbers(name) is not None:
            continue
        for before in (False, True):
            title = title_of(name) + (" (before training)" if before else "")
            place = fields.add(title, "text", predictions.texts(name, before=before))
            if place is not None:
                fields.notes.append(place)
    roles = ("prompt", "system", "rejected_answer", *(("answer",) if predictions.kind in ("text", "pairs") else ()))
    used = {name for role in roles for name in predictions.role(role)}
    for name in predictions.own:
        if name not in used and (place := fields.add(name, "text", predictions.texts(name))) is not None:
            fields.others.append(place)


def _value(fields: Fields, title: str, now: int | None, before: int | None) -> None:
    if now is not None or before is not None:
        fields.values.append({"title": title, "now": now, "before": before})


def _title(word: str, name: str, predictions: PredictionTable) -> str:
    return word if len(predictions.outputs) == 1 else f"{word} {name}"
