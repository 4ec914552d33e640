"""Predictions of many runs on the same rows, so that a page can set any two of them side by side."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from leyden.report.compared_runs import ComparedRun, direction
from leyden.report.page import Section, fill, json_script, number
from leyden.settings.wording import counted

ID = "compare-predictions"
SHOWN_TO = "prompt_text"  # the first column of a table of predictions that is not the user's
MOST_ROWS, LEAST_ROWS = 200, 20  # of one run in a page
MOST_CELLS = 8_000  # predictions in a page: 200 runs, 40 rows
LONGEST = 1_500  # characters of a text in a page
MOST_SCORES = 4
MOST_SETS = 40  # different sets of rows between which is counted what they share

Key = tuple[str, int]


@dataclass
class Cut:
    """Texts that were cut to fit into the page."""

    count: int = 0

    def text(self, value: Any) -> str | None:
        """A cell as text, at most so long; None for an empty one."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        text = number(value) if isinstance(value, float) else str(value)
        if len(text) > LONGEST:
            self.count += 1
            return f"{text[:LONGEST]}… ({len(text):,} characters)"
        return text


@dataclass(frozen=True)
class Predicted:
    """The rows of one run that something was predicted for.

    Attributes:
        run: whose.
        table: those rows.
        places: where each row stands in the table, by its key.
        answers: columns of what was predicted.
        scores: columns of numbers that are shown beside it.
    """

    run: ComparedRun
    table: pd.DataFrame
    places: Mapping[Key, int]
    answers: Sequence[str]
    scores: Sequence[str] = field(default=())


def predictions_section(runs: Sequence[ComparedRun], metric: str) -> Section | None:
    """Two chosen runs side by side; None unless two of them have predictions.

    Args:
        runs: of the comparison, in the order of the table.
        metric: whose scores stand beside the predictions first.
    """
    tables = [(run, run.files.predictions) for run in runs if run.files.predictions is not None]
    tables = [(run, table) for run, table in tables if SHOWN_TO in table.columns]
    column = _id_column(tables)
    read = [_read(run, table, column, metric) for run, table in tables]
    read = [one for one in read if one.places]
    if len(read) < 2:  # noqa: PLR2004
        return None
    keys, all_keys = _chosen(read)
    cut = Cut()
    value = {
        "rows": _rows(read, keys, column, cut),
        "runs": [_cells(one, keys, cut) for one in read],
        **_shared(read),
        "better": {name: direction(name.removeprefix("score_"), runs) for one in read for name in one.scores},
    }
    body = fill(
        ID, data=json_script(f"{ID}-data", value), names=[one.run.name for one in read], shown=len(keys), all=all_keys,
        cut=f"{counted(cut.count, 'texts')} of more than {LONGEST:,} characters cut." if cut.count else "",
        without=[run.name for run in runs if run not in [one.run for one in read]],
        matched=f"the column {column}" if column else "the cells of their tables",
    )  # fmt: skip
    return Section(ID, "Predictions side by side", body, assets=("differences",))


def _id_column(tables: Sequence[tuple[ComparedRun, pd.DataFrame]]) -> str | None:
    """The column that names the rows of all runs, if there is one and it names each row once."""
    names = {run.files.setting("dataset.id_column") for run, _ in tables}
    name = next(iter(names)) if len(names) == 1 else None
    good = name is not None and all(name in table.columns and table[name].is_unique for _, table in tables)
    return str(name) if good else None


def _read(run: ComparedRun, table: pd.DataFrame, column: str | None, metric: str) -> Predicted:
    first = len(table.columns) - 1 - list(table.columns)[::-1].index(SHOWN_TO)
    own, ours = list(table.columns[:first]), list(table.columns[first:])
    answers = [name for name in ours if name == "prediction" or name.startswith("prediction_")]
    numeric = [
        n for n in ours if pd.api.types.is_numeric_dtype(table[n]) and not n.startswith(("prediction", "target"))
    ]
    wanted = [f"score_{metric}", *(n for n in numeric if n.startswith("score_")), "loss", "reward_margin"]
    scores = [name for name in dict.fromkeys(wanted) if name in numeric][:MOST_SCORES]
    predicted = table[[*answers, *scores]].notna().any(axis=1)
    table = table[predicted]
    if column is not None:
        marks = [str(cell) for cell in table[column]]
    else:
        marks = [_mark(cells) for cells in zip(*(table[name] for name in own), strict=True)] if own else []
    counts: Counter[str] = Counter()
    places: dict[Key, int] = {}
    for place, mark in enumerate(marks):
        places[mark, counts[mark]] = place
        counts[mark] += 1
    return Predicted(run, table, places, answers, scores)


def _mark(cells: Sequence[Any]) -> str:
    text = json.dumps(cells, ensure_ascii=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _chosen(read: Sequence[Predicted]) -> tuple[list[Key], int]:
    """The rows of the page, those first that most runs have, evenly spread; and how many there are."""
    counts = Counter(key for one in read for key in one.places)
    room = min(MOST_ROWS, max(LEAST_ROWS, MOST_CELLS // len(read)))
    chosen: list[Key] = []
    for level in sorted(set(counts.values()), reverse=True):
        keys, left = [key for key in counts if counts[key] == level], room - len(chosen)
        if len(keys) > left:
            keys = [keys[place * len(keys) // left] for place in range(left)]
        chosen += keys
        if len(chosen) == room:
            break
    return chosen, len(counts)


def _rows(read: Sequence[Predicted], keys: Sequence[Key], column: str | None, cut: Cut) -> list[dict[str, Any]]:
    """What is the same for all runs: name, prompt and target of each row, as the first run that has it says."""
    rows = []
    for place, key in enumerate(keys, 1):
        one = next(one for one in read if key in one.places)
        row = one.table.iloc[one.places[key]]
        targets = [name for name in one.table.columns if name == "target" or name.startswith("target_")]
        rows.append(
            {
                "name": cut.text(row[column]) if column else f"Row {place}",
                "prompt": cut.text(row[SHOWN_TO]),
                "target": _joined(row, targets, cut),
            }
        )
    return rows


def _cells(one: Predicted, keys: Sequence[Key], cut: Cut) -> dict[str, Any]:
    cells: list[Any] = []
    for key in keys:
        if key not in one.places:
            cells.append(None)
            continue
        row = one.table.iloc[one.places[key]]
        cells.append([_joined(row, one.answers, cut), *(_rounded(row[name]) for name in one.scores)])
    return {"name": one.run.name, "scores": list(one.scores), "cells": cells}


def _shared(read: Sequence[Predicted]) -> dict[str, Any]:
    """How many rows any two runs have in common: runs with the same rows are counted once."""
    sets: dict[frozenset[Key], int] = {}
    of = [sets.setdefault(frozenset(one.places), len(sets)) for one in read]
    found = list(sets)
    counted = [[len(a & b) for b in found] for a in found] if len(found) <= MOST_SETS else None
    return {"set": of, "sizes": [len(one) for one in found], "shared": counted}


def _joined(row: pd.Series[Any], names: Sequence[str], cut: Cut) -> str | None:
    if len(names) == 1:
        return cut.text(row[names[0]])
    texts = [(name.partition("_")[2], cut.text(row[name])) for name in names]
    return "\n".join(f"{name}: {text}" for name, text in texts if text is not None) or None


def _rounded(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(f"{float(value):.6g}")
