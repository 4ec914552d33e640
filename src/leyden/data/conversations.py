"""Rows that answer one another, linked by parent ids into conversations."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from leyden.data.table import SHOWN, Table, require_columns
from leyden.settings.errors import ConfigError, DataError

NO_PARENT = {"", "none", "nan", "null", "inf", "+inf", "-inf"}
# leading zeros are no number here: 007 and 7 may be two ids
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE]\+?[0-9]{1,2})?")


@dataclass(frozen=True)
class Threads:
    """The conversations of a table.

    Args:
        parents: for each row the row it follows, or None.
        conversation: for each row the number of its conversation, from 0 in the order of first appearance; rows with a
            common ancestor share one.
        warnings: what was odd but not wrong.
    """

    parents: list[int | None]
    conversation: list[int]
    warnings: list[str]

    def chain(self, row: int) -> tuple[int, ...]:
        """Rows from the root to this row, oldest first."""
        rows = [row]
        while (parent := self.parents[rows[-1]]) is not None:
            rows.append(parent)
        return tuple(reversed(rows))

    def leaves(self) -> list[int]:
        """Rows that are nobody's parent, in file order."""
        inner = set(self.parents)
        return [row for row in range(len(self.parents)) if row not in inner]


def thread_rows(
    table: Table, id_column: str | None, parent_id_column: str | None, rows: Sequence[int] | None = None
) -> Threads:
    """Link the rows of a table by id and parent id.

    Numbers compare by value (1 = 1.0) and texts as they stand. A csv file holds texts only, so there the ids count as
    numbers if every one of them reads as a whole number (`1`, `1.0`, `1e+16`; not `007`): pandas writes parents as
    `1.0` as soon as one is missing. No parent: an empty cell, null, NaN, infinity, or the word `None`, `nan`, `null` or
    `inf` in any letter case. A parent that is no id makes its row a root, with a warning.

    Args:
        table: the table.
        id_column: column of the ids; unused without a parent column.
        parent_id_column: column of the parent ids; None: each row is a conversation of its own.
        rows: rows of the table to link, all by default. The result counts in places of this list.

    Raises:
        ConfigError: a parent column without an id column.
        DataError: a column is absent, an id is missing or stands twice, a row is its own parent, parents run in a
            circle, or no row is a root; all faults together.
    """
    rows = range(len(table)) if rows is None else rows
    if parent_id_column is None:
        return Threads([None] * len(rows), list(range(len(rows))), [])
    if id_column is None:
        raise ConfigError(
            f"dataset.parent_id_column={parent_id_column!r} needs dataset.id_column, the column its values point to. "
            "Set dataset.id_column, or dataset.parent_id_column=null."
        )
    require_columns(table, {"dataset.id_column": id_column, "dataset.parent_id_column": parent_id_column})
    ids, named = _keys(table, id_column, parent_id_column, rows)
    row_of = {key: row for row, key in enumerate(ids)}  # Python takes 1, 1.0 and numpy's own for one key
    parents = [None if key is None else row_of.get(key) for key in named]
    own = [row for row, parent in enumerate(parents) if parent is not None and ids[row] == named[row]]
    conversation, circles = _roots(parents)
    report = _Report(table, id_column, parent_id_column, rows)
    faults = [
        *report.id_faults(ids),
        *report.own_parents(own),
        *report.circles([circle for circle in circles if len(circle) > 1]),
        *report.no_root(parents),
    ]
    if faults:
        raise DataError(faults)
    lost = [row for row, key in enumerate(named) if key is not None and parents[row] is None]
    return Threads(parents, conversation, report.lost_parents(lost))


def agreeing_histories(
    table: Table,
    threads: Threads,
    answers: Sequence[str | None],
    rejected: Sequence[str | None],
    columns: tuple[str, str],
) -> None:
    """Check that chosen and rejected answers differ in last turns only: earlier turns are the history of both.

    Args:
        table: the table, linked whole.
        threads: its conversations.
        answers: for each row the preferred answer.
        rejected: for each row the other answer.
        columns: names of the two columns, for the message.

    Raises:
        DataError: a row that another one follows has two different answers.
    """
    inner = sorted({parent for parent in threads.parents if parent is not None})
    differing = [row for row in inner if answers[row] != rejected[row]]
    if differing:
        answer, other = columns
        raise DataError(
            f"{table.path}: dataset.answer_column={answer!r} and dataset.rejected_answer_column={other!r} differ in a "
            f"row that another row follows ({len(differing)} in all: {table.places(differing)}). Only the last turn of "
            f"a conversation may hold two answers; in earlier turns copy {answer!r} into {other!r}."
        )


@dataclass(frozen=True)
class _Report:
    """Words for what is wrong or odd; rows are places in `rows`."""

    table: Table
    id_column: str
    parent_id_column: str
    rows: Sequence[int]

    def _at(self, rows: Sequence[int]) -> str:
        return self.table.places([self.rows[row] for row in rows])

    def _shown(self, column: str, rows: Sequence[int]) -> str:
        cells = self.table.frame[column].iloc[[self.rows[row] for row in rows[:SHOWN]]]
        return ", ".join(dict.fromkeys(map(repr, cells.tolist())))

    def id_faults(self, ids: Sequence[Hashable]) -> list[str]:
        faults = []
        where = f"{self.table.path}: dataset.id_column={self.id_column!r}"
        missing = [row for row, key in enumerate(ids) if key is None]
        if missing:
            faults.append(f"{where} has no id at {self._at(missing)}. Give every row an id.")
        places: dict[Hashable, list[int]] = {}
        for row, key in enumerate(ids):
            places.setdefault(key, []).append(row)
        twice = [row for key, found in places.items() if key is not None and len(found) > 1 for row in found]
        if twice:
            faults.append(
                f"{where} holds an id more than once: {self._shown(self.id_column, twice)} at {self._at(twice)}. "
                "Give each row its own id."
            )
        return faults

    def own_parents(self, rows: Sequence[int]) -> list[str]:
        if not rows:
            return []
        return [
            f"{self.table.path}: dataset.parent_id_column={self.parent_id_column!r} makes a row its own parent: "
            f"{self._shown(self.id_column, rows)} at {self._at(rows)}. Leave the parent of a first turn empty."
        ]

    def circles(self, circles: Sequence[Sequence[int]]) -> list[str]:
        if not circles:
            return []
        more = f", and {len(circles) - 1} more such circles" if len(circles) > 1 else ""
        return [
            f"{self.table.path}: dataset.parent_id_column={self.parent_id_column!r} runs in a circle of "
            f"{len(circles[0])} rows: {self._shown(self.id_column, circles[0])} at {self._at(circles[0])}{more}. "
            "Leave the parent of the first turn empty."
        ]

    def no_root(self, parents: Sequence[int | None]) -> list[str]:
        if not parents or None in parents:
            return []
        return [
            f"{self.table.path}: dataset.parent_id_column={self.parent_id_column!r} gives every row a parent, so no "
            "conversation has a start. Leave the parent of first turns empty, or set dataset.parent_id_column=null."
        ]

    def lost_parents(self, rows: Sequence[int]) -> list[str]:
        if not rows:
            return []
        named, ids = self._shown(self.parent_id_column, rows), self._shown(self.id_column, range(len(self.rows)))
        return [
            f"{self.table.path}: column {self.parent_id_column!r} names ids that column {self.id_column!r} (which "
            f"begins {ids}) lacks: {named} ({self._at(rows)}; {len(rows)} in all). These rows start conversations."
        ]


def _keys(
    table: Table, id_column: str, parent_id_column: str, rows: Sequence[int]
) -> tuple[list[Hashable], list[Hashable]]:
    id_cells, parent_cells = table.cells(id_column), table.cells(parent_id_column)
    ids = [id_cells[row] for row in rows]
    named = [None if _no_parent(parent_cells[row]) else parent_cells[row] for row in rows]
    places: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(table.source(row), []).append(place)
    for source, found in places.items():  # ids count within their own table
        csv = table.files[table.origin[rows[found[0]]]].kind == "csv"
        whole = csv and all(_number(ids[place]) is not None for place in found)
        for place in found:
            for keys in (ids, named):
                key, number = keys[place], _number(keys[place]) if whole else None
                keys[place] = None if key is None else (source, key if number is None else number)
    return ids, named


def _number(cell: str | None) -> int | None:
    if cell is None or not NUMBER.fullmatch(cell):
        return None
    value = Decimal(cell)
    return int(value) if value == int(value) else None


def _no_parent(cell: object) -> bool:
    return cell.strip().casefold() in NO_PARENT if isinstance(cell, str) else cell in (None, math.inf, -math.inf)


def _roots(parents: Sequence[int | None]) -> tuple[list[int], list[list[int]]]:
    """Conversation number of each row, and the circles found; without recursion, each row walked once."""
    root: dict[int, int] = {}
    circles = []
    for start in range(len(parents)):
        path: dict[int, int] = {}
        row = start
        while row not in root and row not in path:
            path[row] = len(path)
            parent = parents[row]
            row = row if parent is None else parent
        if row in path and parents[row] is not None:
            circles.append(list(path)[path[row] :])
        root.update(dict.fromkeys(path, root.get(row, row)))
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root[row], len(numbers)) for row in range(len(parents))], circles
