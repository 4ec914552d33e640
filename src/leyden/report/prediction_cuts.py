"""How much of the predictions goes into a page: long cells are cut, and of very many rows some are left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from leyden.report.prediction_fields import Fields

PAGE_BYTES = 8_000_000  # of all cells together; a page of 5,000 rows stays under 15 MB with it
LIMITS = (20_000, 10_000, 5_000, 2_000, 1_000, 500, 250, 120)  # characters of a cell; the largest that fits is taken
NUMBER_BYTES = 10
DIGITS = 6
ESCAPED = "<>&"  # six bytes each in a script


def page_data(
    fields: Fields, earlier: Sequence[Sequence[int]], wanted: Sequence[int] = (), room: int = PAGE_BYTES
) -> dict[str, Any]:
    """What the script of the page reads: all rows where there is room, long cells cut with their length told.

    Args:
        fields: of the predictions.
        earlier: for each row the rows of its conversation before it.
        wanted: rows that stay in any case, those before them in their conversation too.
        room: bytes of all cells.
    """
    rows = len(earlier)
    sizes, lengths = _measured(fields, rows)
    limit = next((one for one in LIMITS if _bytes(sizes, lengths, one).sum() <= room), LIMITS[-1])
    kept = _kept(_bytes(sizes, lengths, limit).sum(axis=1), earlier, wanted, room)
    place = {row: number for number, row in enumerate(kept)}
    return {
        "rows": [row + 1 for row in kept],
        "total": rows,
        "limit": limit,
        "fields": [_cut(one, kept, limit) for one in fields.fields],
        "earlier": [[place.get(row) for row in earlier[place_]] for place_ in kept] if any(earlier) else [],
        "columns": fields.columns,
        "comparisons": fields.comparisons,
        "values": fields.values,
        "notes": fields.notes,
        "others": fields.others,
        "conversation": fields.conversation,
    }


def _measured(fields: Fields, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Bytes in the page and characters of each cell, [rows, fields]."""
    sizes = np.full((rows, len(fields.fields)), NUMBER_BYTES, dtype=np.float64)
    lengths = np.ones((rows, len(fields.fields)))
    for column, one in enumerate(fields.fields):
        if one["form"] == "text":
            sizes[:, column] = [4 if cell is None else _size(cell) for cell in one["cells"]]
            lengths[:, column] = [max(1, len(cell or "")) for cell in one["cells"]]
    return sizes, lengths


def _size(text: str) -> int:
    written = json.dumps(text, ensure_ascii=False).encode("utf-8", "replace")
    return len(written) + 5 * sum(map(text.count, ESCAPED))


def _bytes(sizes: np.ndarray, lengths: np.ndarray, limit: int) -> np.ndarray:
    return sizes * np.minimum(1, limit / lengths)


def _kept(sizes: np.ndarray, earlier: Sequence[Sequence[int]], wanted: Sequence[int], room: int) -> list[int]:
    """Rows that fit, in their order: the wanted ones, then from the first on."""
    if sizes.sum() <= room:
        return list(range(len(sizes)))
    kept: dict[int, None] = dict.fromkeys(one for row in wanted for one in (*earlier[row], row))
    used = sum(sizes[row] for row in kept)
    for row, size in enumerate(sizes):
        if row not in kept and (used := used + size) > room:
            break
        kept[row] = None
    return sorted(kept)


def _cut(one: dict[str, Any], kept: Sequence[int], limit: int) -> dict[str, Any]:
    cells = [one["cells"][row] for row in kept]
    if one["form"] == "number":
        return {**one, "cells": [None if cell is None else float(f"{cell:.{DIGITS}g}") for cell in cells], "cut": {}}
    lengths = {str(row): len(cell) for row, cell in enumerate(cells) if cell is not None and len(cell) > limit}
    return {**one, "cells": [None if cell is None else cell[:limit] for cell in cells], "cut": lengths}
