"""The part of a report about single predictions: rows to look at first, and the table of all rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from leyden.report.highlights import Ranked, highlights
from leyden.report.page import Section, fill, json_script
from leyden.report.prediction_cuts import page_data
from leyden.report.prediction_fields import Fields, fields_of
from leyden.report.prediction_table import PredictionTable
from leyden.report.run_files import RunFiles

CARD_CHARACTERS = 600  # of each text of a row to look at first


def section(run: RunFiles) -> Section | None:
    """Best, worst and most changed rows, and the table of all; None before there are predictions.

    Args:
        run: files of the run.
    """
    predictions = PredictionTable.of(run)
    if predictions is None or not len(predictions):
        return None
    directions = (run.progress or {}).get("metrics", {})
    direction = run.setting(f"metric.{predictions.metric}.direction") or directions.get(predictions.metric)
    fields, ranked = fields_of(predictions), highlights(predictions, direction)
    wanted = [row for one in ranked for row in one.rows]
    data = page_data(fields, predictions.earlier, wanted)
    return Section(
        "predictions",
        "Validation predictions",
        fill(
            "predictions", lists=[_lists(one, predictions, fields) for one in ranked], kind=predictions.kind,
            rows=len(predictions), shown=len(data["rows"]), limit=data["limit"], source=predictions.file,
            cut=sum(len(one["cut"]) for one in data["fields"]),
            data=json_script("predictions-data", {**data, "file": predictions.file}),
        ),
        _lead(predictions),
        assets=("differences",),
    )  # fmt: skip


def _lead(predictions: PredictionTable) -> str:
    rows = f"the {len(predictions):,} validation rows"
    if predictions.step == 0:
        return f"What the model made of {rows} before training."
    when = "" if predictions.step is None else f", as the evaluation after update {predictions.step:,} found it"
    when = ", as it was when the run was gone on with" if predictions.former else when
    lead = f"What the model makes of {rows}{when}."
    if predictions.unmatched is not None:
        return (
            f"{lead} before.parquet has {predictions.unmatched:,} rows, so they are compared with none before training."
        )
    if predictions.before is None:
        return f"{lead} There is no evaluation before training to compare them with."
    return f"{lead} “Before” is the model before its training."


def _lists(ranked: Ranked, predictions: PredictionTable, fields: Fields) -> dict[str, Any]:
    """One measure's best, worst and most changed rows for the template."""
    column = ranked.columns[0]
    now, before = predictions.numbers(column), predictions.numbers(column, before=True)
    lists = (
        ("Best", ranked.best, False),
        ("Worst", ranked.worst, False),
        ("Most changed since before training", ranked.changed, True),
    )
    cards = [
        (title, [_card(row, fields, since_before=since) | _measured(row, now, before) for row in rows])
        for title, rows, since in lists
        if rows
    ]
    return {"measure": " and ".join(ranked.measures), "lists": cards}


def _measured(row: int, now: Sequence[float | None] | None, before: Sequence[float | None] | None) -> dict[str, Any]:
    return {"row": row, "number": row + 1, "now": now[row] if now else None, "before": before[row] if before else None}


def _card(row: int, fields: Fields, *, since_before: bool) -> dict[str, Any]:
    """The texts of a row, each with the one it is compared with, and short facts about it.

    Args:
        row: of the table.
        fields: of the predictions.
        since_before: compare the prediction with the one before training, which is shown too then.
    """
    starts = {
        one["to"]: one["from"]
        for one in fields.comparisons
        if fields.fields[one["to"]]["title"] == "Prediction" and (since_before or not one["since_before"])
    }
    texts = [
        {"place": place, "title": fields.fields[place]["title"], "text": cell[:CARD_CHARACTERS],
         "left": max(0, len(cell) - CARD_CHARACTERS), "start": starts.get(place)}
        for place in sorted({*fields.columns, *starts.values()} - {*fields.facts})
        if isinstance(cell := fields.fields[place]["cells"][row], str)
    ]  # fmt: skip
    facts = [(fields.fields[place]["title"], fields.fields[place]["cells"][row]) for place in fields.facts]
    return {"texts": texts, "facts": facts}
