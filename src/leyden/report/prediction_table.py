"""The table of predictions by what its columns mean: whose they are, what is text, what is compared with what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import pandas as pd

from leyden.report.measured import is_of_earlier
from leyden.report.run_files import RunFiles
from leyden.settings.escapes import decode_escapes

Kind = Literal["text", "pairs", "classes", "labels", "numbers"]
PROMPT_TEXT = "prompt_text"  # the first column that is not the user's
PROBABILITY, TARGET, PREDICTION = "probability_", "target_", "prediction_"
TURNS = {"system": "system", "prompt": "prompt", "answer": "answer", "rejected_answer": "rejected", "id": "id",
         "parent_id": "parent_id"}  # fmt: skip  # columns of messages that were read as turns


@dataclass(frozen=True)
class PredictionTable:
    """Predictions of a run, and of the same rows before training.

    Attributes:
        table: the user's own columns, then `prompt_text` and those of the problem.
        before: columns of the problem before training, of the same rows; None where there are none.
        dataset: settings of the run that name its columns.
        metric: name of the first metric; the empty text where it is not known.
        file: that the table was read from.
        step: the update after which an evaluation found this; None: it is of the model that is kept.
        former: it is of the model that an earlier part of the run came to.
        unmatched: rows of a `before.parquet` that are not as many as these, so not the same; None where they match.
    """

    table: pd.DataFrame
    before: pd.DataFrame | None
    dataset: Mapping[str, Any]
    metric: str = ""
    file: str = "predictions.parquet"
    step: int | None = None
    former: bool = False
    unmatched: int | None = None

    @classmethod
    def of(cls, run: RunFiles) -> PredictionTable | None:
        """The predictions of a run, or while it goes on those of its last evaluation; None before there are any."""
        table, before, file, step = run.predictions, run.before, "predictions.parquet", None
        if run.evaluation is not None:
            table, file, step = run.evaluation, "evaluation.parquet", int(run.evaluation.attrs.get("step", 0))
        if table is None:
            return None
        unmatched = len(before) if before is not None and step != 0 and len(before) != len(table) else None
        if step == 0 or unmatched is not None:
            before = None
        metric = next(iter(run.setting("metric") or {}), "")
        former = step is None and is_of_earlier(run)
        return cls(table, before, run.setting("dataset") or {}, metric, file, step, former, unmatched)

    def __len__(self) -> int:
        """Rows."""
        return len(self.table)

    @property
    def own(self) -> list[str]:
        """Columns that the user's table had."""
        names = list(self.table.columns)
        return names[: names.index(PROMPT_TEXT)] if PROMPT_TEXT in names else []

    @property
    def added(self) -> list[str]:
        """Columns that the run has added."""
        return list(self.table.columns)[len(self.own) :]

    @cached_property
    def kind(self) -> Kind:
        """What stands in targets and predictions."""
        added = self.added
        if "chosen_logp" in added:
            return "pairs"
        if any(name.startswith(PROBABILITY) for name in added):
            return "classes" if "prediction" in added else "labels"
        if "prediction" not in added and any(name.startswith(PREDICTION) for name in added):
            return "numbers"
        return "text"

    @property
    def outputs(self) -> list[str]:
        """Names of the classes with a probability, of the label columns, or of the targets that are numbers."""
        start = {"classes": PROBABILITY, "labels": PROBABILITY, "numbers": PREDICTION}.get(self.kind)
        return [] if start is None else [name.removeprefix(start) for name in self.added if name.startswith(start)]

    @property
    def scores(self) -> list[str]:
        """Columns with a number per row that a metric gives, that of the first metric in front."""
        found = [name for name in self.added if name.startswith("score_") and is_numeric(self.table[name])]
        return sorted(found, key=lambda name: name != f"score_{self.metric}")

    @property
    def first_score(self) -> str | None:
        """The column of the first metric, where it says something about each row."""
        name = f"score_{self.metric}"
        return name if name in self.scores else None

    def numbers(self, name: str, *, before: bool = False) -> list[float | None] | None:
        """A column of numbers; None where there is none of that name."""
        frame = self.before if before else self.table
        if frame is None or name not in frame or not is_numeric(frame[name]):
            return None
        return [number_of(cell) for cell in frame[name].tolist()]

    def texts(self, name: str, *, before: bool = False) -> list[str | None] | None:
        """A column as text; None where there is none of that name."""
        frame = self.before if before else self.table
        return None if frame is None or name not in frame else [text_of(cell) for cell in frame[name].tolist()]

    def role(self, role: str) -> list[str]:
        """The user's columns with a role of the settings: `prompt`, `system`, `answer`, `id` and so on."""
        named = self.dataset.get(f"{role}_column")
        if self.dataset.get("format") in ("messages", "preferences"):
            named = TURNS.get(role, named)
        names = [named] if isinstance(named, str) else list(named or [])
        return [place for name in names if (place := self._own_name(name))]

    @cached_property
    def prompts(self) -> list[str | None]:
        """What the user said in each row: its prompt columns, joined; else all that the model was shown."""
        columns = [self.texts(name) or [] for name in self.role("prompt")]
        if not columns:
            return self.texts(PROMPT_TEXT) or [None] * len(self)
        separator = decode_escapes(str(self.dataset.get("prompt_column_separator", "\n\n")))
        return [joined([cell for cell in cells if cell is not None], separator) for cells in zip(*columns, strict=True)]

    @cached_property
    def earlier(self) -> list[list[int]]:
        """For each row the rows of its conversation before it, the first in front; places in the table."""
        ids, parents = self.role("id"), self.role("parent_id")
        if not ids or not parents:
            return [[] for _ in range(len(self))]
        places: dict[str, int] = {}
        for place, name in enumerate(self.texts(ids[0]) or []):
            if name is not None:
                places.setdefault(name, place)
        parent = [None if name is None else places.get(name) for name in self.texts(parents[0]) or []]
        return [_chain(place, parent) for place in range(len(self))]

    def _own_name(self, name: str) -> str | None:
        """How a column of the user's is called here: one that is called like one of ours has `table_` in front."""
        longest = max(map(len, self.own), default=0)
        while name not in self.own and len(name) < longest:
            name = f"table_{name}"
        return name if name in self.own else None


def is_numeric(column: pd.Series) -> bool:
    """Whether a column holds numbers, and no truth values."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def number_of(cell: Any) -> float | None:
    """A cell as a number; None where it is missing or not finite."""
    if cell is None or cell is pd.NA:
        return None
    value = float(cell)
    return value if math.isfinite(value) else None


def text_of(cell: Any) -> str | None:
    """A cell as text; None where it is missing. Whole numbers have no point: a gap makes numbers of a column floats."""
    if isinstance(cell, str):
        return cell
    if cell is None or cell is pd.NA or cell is pd.NaT or (isinstance(cell, float) and math.isnan(cell)):
        return None
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def joined(texts: Sequence[str], separator: str) -> str | None:
    """Texts as one; None where there is none."""
    return separator.join(texts) if texts else None


def _chain(place: int, parent: Sequence[int | None]) -> list[int]:
    found: list[int] = []
    above = parent[place]
    while above is not None and above != place and above not in found:
        found.append(above)
        above = parent[above]
    return found[::-1]
