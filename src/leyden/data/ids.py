"""Ids and parent ids of rows as numbers, and where their chains lead."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leyden.data.table import Table

NO_PARENT = {"", "none", "nan", "null", "inf", "+inf", "-inf"}
# leading zeros are no number here: 007 and 7 may be two ids
Codes = NDArray[np.int64]
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE]\+?[0-9]{1,2})?")


def row_keys(table: Table, id_column: str, parent_id_column: str, rows: NDArray[np.int64]) -> tuple[Codes, Codes]:
    """Ids and parent ids as numbers, equal where the ids are, in the order of first appearance; -1 for none."""
    origin = np.asarray(table.origin)[rows]
    source = np.asarray([file.source for file in table.files])[origin]
    from_csv = np.asarray([file.kind == "csv" for file in table.files])[origin]
    ids, named = (table.keys(column).take(rows) for column in (id_column, parent_id_column))
    for number in np.unique(source).tolist():  # ids count within their own table
        here = source == number
        if from_csv[here].all() and all(_number(cell) is not None for cell in ids[here]):
            ids, named = (_numbers(cells, here) for cells in (ids, named))
    nobody = np.fromiter(map(_no_parent, named), bool, len(named))
    codes = pd.factorize(pd.concat([ids, named], ignore_index=True))[0]
    there = (codes >= 0) & ~np.append(np.zeros(len(ids), dtype=bool), nobody)
    of_source = codes * (source.max(initial=0) + 1) + np.tile(source, 2)
    found = np.full(len(codes), -1, dtype=np.int64)
    found[there] = pd.factorize(of_source[there])[0]
    return found[: len(ids)], found[len(ids) :]


def _number(cell: Any) -> int | None:
    if not isinstance(cell, str) or not NUMBER.fullmatch(cell):
        return None
    value = Decimal(cell)
    return int(value) if value == int(value) else None


def _numbers(cells: pd.Series, here: NDArray[np.bool_]) -> pd.Series:
    """The cells marked `here` as whole numbers in their shortest form, where they are such."""
    found = cells.astype(object)
    found[here] = [cell if (number := _number(cell)) is None else str(number) for cell in found[here]]
    return found


def _no_parent(cell: Any) -> bool:
    if isinstance(cell, str):
        return cell.strip().casefold() in NO_PARENT
    return cell is None or cell is pd.NA or cell in (math.inf, -math.inf)


def roots_of(parents: Codes) -> Codes:
    """The first row of each row's conversation; a row of a circle, where it runs in one."""
    roots = np.where(parents < 0, np.arange(len(parents)), parents)
    for _ in range(len(parents).bit_length()):  # twice as far with each step
        roots = roots[roots]
    return roots


def circles_of(parents: Codes) -> list[list[int]]:
    """The circles of more than one row, each row walked once."""
    seen: set[int] = set()
    circles = []
    for start in range(len(parents)):
        path: dict[int, int] = {}
        row = start
        while row >= 0 and row not in seen and row not in path:
            path[row] = len(path)
            row = int(parents[row])
        if row in path and len(path) - path[row] > 1:
            circles.append(list(path)[path[row] :])
        seen.update(path)
    return circles
