"""A cell that holds a list of messages: its texts and who says them, or what is wrong with it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from leyden.data.table import SHOWN, Table

SYSTEM, PROMPT, ANSWER = "system", "prompt", "answer"
STYLES = (("role", "content"), ("from", "value"))  # OpenAI, ShareGPT
ROLES = {
    "system": SYSTEM, "developer": SYSTEM, "user": PROMPT, "human": PROMPT, "assistant": ANSWER, "gpt": ANSWER,
}  # fmt: skip
TOOL_ROLES = {"tool", "function", "function_call", "function_response", "observation", "ipython"}
TOOL_KEYS = {"tool_calls", "tool_call_id", "function_call", "tools"}
LOOKED_AT = 20

FAULTS = {
    "cell": ("no list of messages", "Write [{role, content}, …] or [{from, value}, …]; in csv as JSON: json.dumps."),
    "none": ("no user message", "Remove these rows."),
    "message": ("a message without a role", "Give each message role and content, or from and value."),
    "role": ("an unknown role", "Use system, user (or human) and assistant (or gpt)."),
    "tool": ("tool calls or their results", "Only texts can be trained: write them as text, or remove these rows."),
    "content": ("a message that is no text", "Write its content as one text, or remove these rows."),
    "system": ("a system message that is not the first", "Put one system message in front of all others."),
    "systems": ("a system message, and another text in column 'system'", "Keep one of the two."),
    "first": ("an answer before the first user message", "Start with a user message, after the system message."),
    "twice": ("two answers in a row", "Join them, or put the user message between them."),
    "last": ("a list that does not end in an answer", "End both lists with the answers to compare."),
    "history": ("two lists that differ before their last answers", "Give both answers the same messages before them."),
}
NOTES = {
    "joined": "user messages that follow another one are joined to it with a blank line",
    "open": "user messages at the end have no answer and are left out",
    "whole": "rows hold no answer at all and are left out",
    "unused": "messages have parts that are not used",
    "beside": "prompts beside the lists are not in them and are not used",
}


@dataclass(frozen=True)
class Message:
    """What one side says: `speaker` is system, prompt (the user) or answer (the model)."""

    speaker: str
    text: str


@dataclass
class Findings:
    """Faults and notes about the messages of a table, by kind, with their rows; a row may stand twice in notes.

    Args:
        table: the table.
        columns: where the messages stand.
    """

    table: Table
    columns: Sequence[str]
    faults: dict[str, list[int]] = field(default_factory=dict)
    notes: dict[str, list[int]] = field(default_factory=dict)
    words: dict[str, dict[str, None]] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """File and columns, for messages."""
        return f"{self.table.path}: column {', '.join(map(repr, self.columns))}"

    def fault(self, row: int, kind: str, word: str | None = None) -> None:
        """Remember a fault, and a word of the table to show with it."""
        rows = self.faults.setdefault(kind, [])
        if row not in rows[-1:]:
            rows.append(row)
        if word is not None:
            self.words.setdefault(kind, {})[word] = None

    def note(self, row: int, kind: str, count: int = 1) -> None:
        """Remember what was done to a row, and how often."""
        if count:
            self.notes.setdefault(kind, []).extend([row] * count)

    def fault_sentences(self) -> list[str]:
        """One sentence per kind of fault."""
        return [
            f"{self.where} holds {FAULTS[kind][0]}{self._shown(kind)} in {self.table.places(rows)} ({len(rows)} of "
            f"{len(self.table)} rows). {FAULTS[kind][1]}"
            for kind, rows in self.faults.items()
        ]

    def note_sentences(self) -> list[str]:
        """One sentence per kind of note."""
        return [
            f"{self.where}: {len(rows)} {NOTES[kind]}{self._shown(kind)} ({self.table.places(rows)})."
            for kind, rows in self.notes.items()
        ]

    def _shown(self, kind: str) -> str:
        words = list(self.words.get(kind, {}))
        more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
        return f" ({', '.join(map(repr, words[:SHOWN]))}{more})" if words else ""


def read_messages(row: int, cell: Any, findings: Findings) -> list[Message] | None:
    """The messages of a cell, in order; None if it has a fault, which is added to the findings."""
    found = None if missing(cell) else _listed(cell)
    if found is None:
        findings.fault(row, "cell")
        return None
    messages = [_message(row, message, findings) for message in found]
    sound = [message for message in messages if message is not None]
    return sound if len(sound) == len(messages) else None


def hold_messages(cells: Sequence[Any]) -> bool:
    """Whether cells look like lists of messages: the first of them that are not missing do, and one is not empty."""
    there = [_listed(cell) for cell in islice((cell for cell in cells if not missing(cell)), LOOKED_AT)]
    roles = {role for role, _ in STYLES}
    return any(there) and all(
        cell is not None and all(isinstance(message, Mapping) and roles & message.keys() for message in cell)
        for cell in there
    )


def missing(cell: Any) -> bool:
    """Whether a cell of any type is missing: empty text, null, NaN."""
    if isinstance(cell, float):
        return math.isnan(cell)
    return cell is None or cell is pd.NA or cell is pd.NaT or (isinstance(cell, str) and not cell)


def _message(row: int, message: Any, findings: Findings) -> Message | None:
    styles = [style for style in STYLES if isinstance(message, Mapping) and isinstance(message.get(style[0]), str)]
    if not styles:
        findings.fault(row, "message")
        return None
    role, text = (message.get(key) for key in styles[0])
    more = [str(key) for key, value in message.items() if key not in styles[0] and not _nothing(value)]
    speaker = ROLES.get(role.strip().casefold())
    if role.strip().casefold() in TOOL_ROLES or TOOL_KEYS & {*more}:
        findings.fault(row, "tool")
    elif speaker is None:
        findings.fault(row, "role", role)
    elif not isinstance(text, str):
        findings.fault(row, "content")
    else:
        if more:
            findings.note(row, "unused")
            findings.words.setdefault("unused", {}).update(dict.fromkeys(more))
        return Message(speaker, text)
    return None


def _nothing(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict | np.ndarray) and len(value) == 0)


def _listed(cell: Any) -> list[Any] | None:
    """A cell as a list, read from JSON text if it is one; None if it is neither."""
    if isinstance(cell, str):
        try:
            value = json.loads(cell)
            if "\\u" in cell:
                json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair fails here
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, list) else None
    return list(cell) if isinstance(cell, list | np.ndarray) else None
