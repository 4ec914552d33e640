"""Rows that answer one another, linked by parent ids into conversations."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from leyden.data.ids import Codes, circles_of, roots_of, row_keys
from leyden.data.integers import Integers, Places, Ragged
from leyden.data.table import SHOWN, Table, require_columns
from leyden.settings.errors import ConfigError, DataError


@dataclass(frozen=True, init=False)
class Threads:
    """The conversations of a table.

    Args:
        parents: for each row the row it follows, or None.
        conversation: for each row the number of its conversation, from 0 in the order of first appearance; rows with a
            common ancestor share one.
        warnings: what was odd but not wrong.
    """

    parents: Places
    conversation: Integers
    warnings: list[str]

    def __init__(self, parents: Iterable[int | None], conversation: Iterable[int], warnings: Sequence[str]) -> None:
        for name, value in (("parents", Places(parents)), ("conversation", Integers(conversation))):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "warnings", list(warnings))

    def chain(self, row: int) -> tuple[int, ...]:
        """Rows from the root to this row, oldest first."""
        return self.chains([row])[0]

    def chains(self, rows: Sequence[int]) -> Ragged:
        """The chain of each of these rows."""
        samples, turns = np.arange(len(rows)), np.asarray(rows, dtype=np.int64)
        lengths, steps = np.zeros(len(rows), dtype=np.int64), []
        while len(samples):
            steps.append((samples, turns))
            lengths[samples] += 1
            before = self.parents.array[turns]
            samples, turns = samples[before >= 0], before[before >= 0]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        values = np.empty(offsets[-1], dtype=np.int64)
        for distance, (of, row) in enumerate(steps, start=1):
            values[offsets[of + 1] - distance] = row
        return Ragged(values, offsets)

    def leaves(self) -> Integers:
        """Rows that are nobody's parent, in file order."""
        alone = np.ones(len(self.parents), dtype=bool)
        alone[self.parents.array[self.parents.array >= 0]] = False
        return Integers(np.flatnonzero(alone))


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
        return Threads(np.full(len(rows), -1), np.arange(len(rows)), [])
    if id_column is None:
        raise ConfigError(
            f"dataset.parent_id_column={parent_id_column!r} needs dataset.id_column, the column its values point to. "
            "Set dataset.id_column, or dataset.parent_id_column=null."
        )
    require_columns(table, {"dataset.id_column": id_column, "dataset.parent_id_column": parent_id_column})
    ids, named = row_keys(table, id_column, parent_id_column, np.asarray(rows, dtype=np.int64))
    row_of = np.full(max(ids.max(initial=-1), named.max(initial=-1)) + 1, -1, dtype=np.int64)
    row_of[ids[ids >= 0]] = np.flatnonzero(ids >= 0)
    parents = np.full(len(ids), -1, dtype=np.int64)
    parents[named >= 0] = row_of[named[named >= 0]]
    roots = roots_of(parents)
    report = _Report(table, id_column, parent_id_column, rows)
    faults = [
        *report.id_faults(ids),
        *report.own_parents(np.flatnonzero((parents >= 0) & (ids == named)).tolist()),
        *report.circles(circles_of(parents) if (parents[roots] >= 0).any() else []),
        *report.no_root(parents),
    ]
    if faults:
        raise DataError(faults)
    lost = np.flatnonzero((named >= 0) & (parents < 0)).tolist()
    return Threads(parents, pd.factorize(roots)[0], report.lost_parents(lost))


def agreeing_histories(  # noqa: PLR0913
    table: Table,
    threads: Threads,
    answers: Sequence[str | None],
    rejected: Sequence[str | None],
    columns: tuple[str, str],
    *,
    apart_from: Collection[int] = (),
) -> None:
    """Check that chosen and rejected answers differ in last turns only: earlier turns are the history of both.

    Args:
        table: the table, linked whole.
        threads: its conversations.
        answers: for each row the preferred answer.
        rejected: for each row the other answer.
        columns: names of the two columns, for the message.
        apart_from: rows that are not compared.

    Raises:
        DataError: a row that another one follows has two different answers.
    """
    inner = np.unique(threads.parents.array[threads.parents.array >= 0]).tolist()
    differing = [row for row in inner if answers[row] != rejected[row] and row not in apart_from]
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
        cells = self.table.rows([self.rows[row] for row in rows[:SHOWN]])[column]
        return ", ".join(dict.fromkeys(map(repr, cells.tolist())))

    def id_faults(self, ids: Codes) -> list[str]:
        faults = []
        where = f"{self.table.path}: dataset.id_column={self.id_column!r}"
        missing = np.flatnonzero(ids < 0).tolist()
        if missing:
            faults.append(f"{where} has no id at {self._at(missing)}. Give every row an id.")
        often = np.append(np.bincount(ids[ids >= 0]) > 1, False)  # the last is for -1
        twice = np.flatnonzero(often[ids])
        if len(twice):
            rows = twice[np.argsort(ids[twice], kind="stable")].tolist()  # codes count in order of appearance
            faults.append(
                f"{where} holds an id more than once: {self._shown(self.id_column, rows)} at {self._at(rows)}. "
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

    def no_root(self, parents: Codes) -> list[str]:
        if not len(parents) or parents.min() < 0:
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
