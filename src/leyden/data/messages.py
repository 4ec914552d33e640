"""Columns of messages become rows of turns, which chain as any conversation does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from leyden.data.message_cells import ANSWER, PROMPT, SYSTEM, Findings, Message, hold_messages, missing, read_messages
from leyden.data.table import Note, Table, require_columns
from leyden.settings.errors import DataError

REJECTED, ID, PARENT = "rejected", "id", "parent_id"
TURNS = (SYSTEM, PROMPT, ANSWER, ID, PARENT)  # columns of what expand_messages returns
PAIRS = (SYSTEM, PROMPT, ANSWER, REJECTED, ID, PARENT)  # of expand_preferences
BETWEEN = "\n\n"  # user messages that follow one another


@dataclass(frozen=True)
class Turn:
    """A user message and its answer; `number` counts the turns of a row from 0."""

    row: int
    number: int
    system: str
    prompt: str
    answer: str
    rejected: str

    @property
    def id(self) -> str:
        """Unique in its table."""
        return f"{self.row + 1}-{self.number + 1}"

    @property
    def parent_id(self) -> str:
        """The id of the turn before; of a first turn the empty text."""
        return f"{self.row + 1}-{self.number}" if self.number else ""


def expand_messages(table: Table, column: str | Sequence[str], *, complete: bool = True) -> tuple[Table, list[str]]:
    """One row per turn, with columns `system`, `prompt`, `answer`, `id` and `parent_id`.

    A cell is a list of `{role, content}` or `{from, value}`, or the JSON text of one. A system message stands first or
    nowhere; then user and assistant take turns. The other columns are repeated; one whose name is needed is renamed,
    but a column `system` is the system text of the rows whose messages have none.

    Args:
        table: any.
        column: where the messages stand; of several, such as prompt and completion, the lists are joined in order.
        complete: user messages at the end without an answer are left out; false: they are turns with an empty answer,
            for prediction.

    Returns:
        The rows, whose places are those of the rows they come from, and notes on what was joined, renamed or left out.

    Raises:
        DataError: the column is absent, or every kind of fault in its cells with the rows.
    """
    columns = [column] if isinstance(column, str) else list(column)
    require_columns(table, {"dataset.messages_column": columns})
    findings, systems = Findings(table, columns), _systems(table, columns)
    turns: list[Turn] = []
    for row, cells in enumerate(_rows(table, columns)):
        lists = [read_messages(row, cell, findings) for cell in cells]
        if None not in lists:
            messages = [message for found in lists for message in found or []]
            turns += _turns(row, messages, systems[row], findings, complete=complete)
    return _expanded(findings, turns, TURNS)


def expand_preferences(
    table: Table, chosen: str = "chosen", rejected: str = "rejected", prompt: str | None = None
) -> tuple[Table, list[str]]:
    """Two lists of messages that differ in their last answer become rows with `prompt`, `answer` and `rejected`.

    As `expand_messages`; the row of a last turn holds both answers, the rows before it, which are the history of both,
    hold their one answer twice.

    Args:
        table: any.
        chosen: column of the messages that end in the better answer.
        rejected: column of those that end in the worse one.
        prompt: column of the messages before, or of the user's text; used where the two lists hold no user message.

    Returns:
        The rows and notes.

    Raises:
        DataError: a column is absent, or every kind of fault in its cells with the rows.
    """
    wanted = {"dataset.answer_column": chosen, "dataset.rejected_answer_column": rejected}
    require_columns(table, {**wanted, "dataset.prompt_column": prompt})
    columns = [chosen, rejected, *([prompt] if prompt else [])]
    findings, systems = Findings(table, columns), _systems(table, columns)
    lists = prompt is not None and hold_messages(table.values(prompt))
    turns: list[Turn] = []
    for row, (*two, beside) in enumerate(_rows(table, columns if prompt else [*columns, chosen])):
        asked = _asked(row, beside, findings, lists=lists) if prompt else []
        better, worse = (read_messages(row, cell, findings) for cell in two)
        if asked is None or better is None or worse is None:
            continue
        begun = asked == better[: len(asked)] if lists else PROMPT in {message.speaker for message in better}
        if begun and not all(message in better for message in asked):
            findings.note(row, "beside")
        history = [] if begun else asked
        turns += _pair(row, history + better, history + worse, systems[row], findings)
    return _expanded(findings, turns, PAIRS)


def _rows(table: Table, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(table.values(name) for name in columns), strict=True))


def _systems(table: Table, columns: Sequence[str]) -> list[str]:
    """System text beside the messages of each row."""
    if SYSTEM not in table.frame.columns or SYSTEM in columns:
        return [""] * len(table)
    return [text or "" for text in table.texts(SYSTEM)]


def _turns(row: int, messages: Sequence[Message], beside: str, findings: Findings, *, complete: bool) -> list[Turn]:
    """Check the order of the messages of a row, and cut them into turns."""
    system, rest = beside, messages
    if messages and messages[0].speaker == SYSTEM:
        system, rest = messages[0].text, messages[1:]
        if beside not in ("", system):
            findings.fault(row, "systems")
    if not rest:
        findings.fault(row, "none")
    turns: list[Turn] = []
    said: list[str] = []
    for message in rest:
        if message.speaker == PROMPT:
            said.append(message.text)
        elif message.speaker == ANSWER and said:
            findings.note(row, "joined", len(said) - 1)
            turns.append(Turn(row, len(turns), system, BETWEEN.join(said), message.text, message.text))
            said = []
        else:
            findings.fault(row, "system" if message.speaker == SYSTEM else "twice" if turns else "first")
            return []
    if said and complete:
        findings.note(row, "open" if turns else "whole", len(said) if turns else 1)
    elif said:
        findings.note(row, "joined", len(said) - 1)
        turns.append(Turn(row, len(turns), system, BETWEEN.join(said), "", ""))
    return turns


def _asked(row: int, cell: Any, findings: Findings, *, lists: bool) -> list[Message] | None:
    """The messages of a prompt column, which holds lists of them or the text of one."""
    if missing(cell):
        return []
    return [Message(PROMPT, cell)] if isinstance(cell, str) and not lists else read_messages(row, cell, findings)


def _pair(row: int, better: list[Message], worse: list[Message], beside: str, findings: Findings) -> list[Turn]:
    """The turns of two lists that differ in their last answer."""
    if not better or not worse or {better[-1].speaker, worse[-1].speaker} != {ANSWER}:
        findings.fault(row, "last")
    elif better[:-1] != worse[:-1]:
        findings.fault(row, "history")
    else:
        turns = _turns(row, better, beside, findings, complete=True)
        return [*turns[:-1], *(replace(turn, rejected=worse[-1].text) for turn in turns[-1:])]
    return []


def _expanded(findings: Findings, turns: Sequence[Turn], columns: Sequence[str]) -> tuple[Table, list[str]]:
    """The turns as rows beside the other columns of the table, and the notes."""
    table = findings.table
    if findings.faults:
        raise DataError(findings.fault_sentences())
    if not turns:
        raise DataError(f"{findings.where} holds no answer. Give conversations with at least one.")
    rows = [turn.row for turn in turns]
    made = {name: pd.Series([getattr(turn, name) or None for turn in turns], dtype=object) for name in columns}
    used = {*findings.columns, SYSTEM}
    names = _renamed([name for name in table.frame.columns if name not in used], columns)
    others = table.frame[list(names)].iloc[rows].reset_index(drop=True).rename(columns=names)
    notes = [
        Note(f"{findings.where}: {len(set(rows))} conversations of {len(rows)} turns."),
        *findings.note_sentences(),
        *(f"{table.path}: column {a!r} is called {b!r} here." for a, b in names.items() if a != b),
    ]
    frame = pd.concat([pd.DataFrame(made), others], axis=1)
    lines, origin = [table.lines[row] for row in rows], [table.origin[row] for row in rows]
    return replace(table, frame=frame, lines=lines, origin=origin), notes


def _renamed(names: Sequence[str], taken: Sequence[str]) -> dict[str, str]:
    """New names for columns, so that no name stands twice."""
    used = {*names, *taken}
    renamed = {}
    for name in names:
        new = name
        while new in taken or (new != name and new in used):
            new = f"row_{new}"
        used.add(new)
        renamed[name] = new
    return renamed
