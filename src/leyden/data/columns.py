"""What a table has in its columns: roles, kinds of cells, missing ones, different ones, examples."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leyden.data.cells import columns_of
from leyden.data.messages import PAIRS, TURNS
from leyden.data.sources import Targets
from leyden.data.table import Table
from leyden.settings.data_groups import Dataset

EXAMPLES, LETTERS = 3, 160
LOOKED_AT = 100_000  # rows of which different cells are counted
NAMES = {
    "dataset.rejected_answer_column": "rejected", "dataset.rejected_prompt_column": "rejected prompt",
    "dataset.parent_id_column": "parent id",
}  # fmt: skip
KINDS = {str: "text", bool: "true or false", int: "whole number", float: "number", list: "list", dict: "object"}


def describe_columns(table: Table, dataset: Dataset, targets: Targets) -> list[dict[str, Any]]:
    """Describe each column of a table, in its order.

    Args:
        table: as it is read: lists of messages are turns by now.
        dataset: names the columns.
        targets: what the answer columns hold.

    Returns:
        For each column `name`, `role` (None: it is not read), `kind`, `distinct` values among the first
        `looked_at` rows, `missing` cells (of columns that hold not texts alone among these rows, too), and up to three
        `examples`.
    """
    roles = _roles(dataset, targets)
    return [
        {"name": str(name), "role": ", ".join(roles.get(str(name), [])) or None, **_cells(table, str(name))}
        for name in table.frame.columns
    ]


def _roles(dataset: Dataset, targets: Targets) -> dict[str, list[str]]:
    """What each column is read as."""
    if dataset.format in ("messages", "preferences"):
        made = TURNS if dataset.format == "messages" else PAIRS
        roles = {name: [name.replace("_", " ")] for name in made}
        return roles | ({dataset.weight_column: ["weight"]} if dataset.weight_column else {})
    found: dict[str, list[str]] = {}
    for key, columns in columns_of(dataset).items():
        role = NAMES.get(key, key.removeprefix("dataset.").removesuffix("_column"))
        if role == "answer":
            role = {"text": "answer", "classes": "label", "numbers": "target"}[targets]
        for name in [columns] if isinstance(columns, str) else columns or []:
            found.setdefault(name, []).append(role)
    return found


def _cells(table: Table, name: str) -> dict[str, Any]:
    texts = table.arrow(name)
    if texts is None:
        return _objects(table.frame[name].iloc[:LOOKED_AT].tolist())
    empty = pc.fill_null(pc.equal(pc.binary_length(texts), 0), True)
    head = texts.slice(0, LOOKED_AT)
    known = pc.if_else(empty.slice(0, LOOKED_AT), None, head)
    first = (text for chunk in head.chunks for text in _batched(chunk) if text)
    return {
        "kind": "text",
        "missing": int(pc.sum(empty).as_py() or 0),
        "distinct": int(pc.count_distinct(known, mode="only_valid").as_py()),
        "looked_at": len(head),
        "examples": _examples(first),
    }


def _batched(chunk: pa.Array) -> Iterable[str | None]:
    for start in range(0, len(chunk), 100):
        yield from chunk.slice(start, 100).to_pylist()


def _objects(values: list[Any]) -> dict[str, Any]:
    """Of cells that are Python values; those after the first many are not looked at, and `looked_at` says so."""
    present = [value for value in values if not _is_missing(value)]
    kinds = Counter(next((name for kind, name in KINDS.items() if isinstance(value, kind)), type(value).__name__)
                    for value in map(_plain, present))  # fmt: skip
    return {
        "kind": " or ".join(kind for kind, _ in kinds.most_common(EXAMPLES)) or "empty",
        "missing": len(values) - len(present),
        "distinct": len({_written(value) for value in present}),
        "looked_at": len(values),
        "examples": _examples(map(_written, present)),
    }


def _is_missing(value: Any) -> bool:
    return value is None or value is np.nan or (isinstance(value, str) and not value) or _is_nan(value)


def _is_nan(value: Any) -> bool:
    try:
        return bool(value != value)  # noqa: PLR0124  NaN and NaT alone differ from themselves
    except (TypeError, ValueError):  # arrays and what pandas has for a missing value
        return type(value).__name__ == "NAType"


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value


def _written(value: Any) -> str:
    value = _plain(value)
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else str(value)


def _examples(texts: Iterable[str]) -> list[str]:
    """The first texts that differ."""
    found: dict[str, None] = {}
    for text in texts:
        found.setdefault(shortened(text))
        if len(found) == EXAMPLES:
            break
    return list(found)


def shortened(text: str) -> str:
    """The beginning of a long text, and how much of it is left out."""
    return text if len(text) <= LETTERS else f"{text[:LETTERS]}… (and {len(text) - LETTERS:,} more characters)"
