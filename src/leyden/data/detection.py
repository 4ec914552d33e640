"""What kind of table this is, by the names and cells of its columns; says what it found, and never guesses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from leyden.data.message_cells import hold_messages
from leyden.data.messages import PAIRS, TURNS, expand_messages, expand_preferences
from leyden.data.table import SHOWN, Table
from leyden.settings.errors import DataError

Form = Literal["messages", "preferences", "columns"]
Purpose = Literal["answers", "pairs", "labels"]
Columns = Mapping[str, str | list[str] | None]  # key of the dataset settings to one column or several

SYSTEMS = ("system", "system_prompt")
PROMPTS = ("instruction", "question", "prompt", "query", "input")
BESIDE = ("input", "context")  # more of the prompt, beside an instruction or a question
ANSWERS = ("output", "response", "answer", "completion")
CHOSEN = ("chosen", "chosen_response")
REJECTED = ("rejected", "rejected_response", "rejected_answer")
TEXTS = ("text", "sentence")
LABELS = ("label", "labels", "class", "category")
CURE = (
    "Name the columns: dataset=table with dataset.prompt_column and dataset.answer_column (pairs: "
    "dataset.rejected_answer_column too), or dataset=messages with dataset.messages_column."
)


@dataclass(frozen=True)
class Detected:
    """What a table is.

    Attributes:
        form: `messages` and `preferences` are lists of messages that `arrange` turns into rows; `columns` is ready.
        columns: keys of the dataset settings (`prompt_column`, …; for messages `messages_column`) and their columns.
        how: one sentence for the log.
    """

    form: Form
    columns: dict[str, str | list[str]]
    how: str


def detect(table: Table, purpose: Purpose | None = None) -> Detected:
    """Find out which column is what, by name in any letter case and, for messages, by what the cells hold.

    In this order, the first that fits: chosen and rejected answers; messages, or a prompt beside an answer; a text
    with a label; a text alone. Columns of a system text, and of an id with a parent id, are taken along.

    Args:
        table: any.
        purpose: what the problem needs: `answers` leaves rejected answers unused, `pairs` wants them, `labels` wants a
            label; None: whatever there is.

    Raises:
        DataError: nothing fits, or two readings do; lists the columns and the settings to set.
    """
    names = _Names(table)
    found: list[Detected] = []
    if purpose in (None, "pairs"):
        found = _preferences(names)
    if not found and purpose in (None, "answers"):
        found = [*_messages(names), *_answers(names)] or _answers(names, CHOSEN)
    if not found and purpose in (None, "labels"):
        found = _labels(names)
    if not found and purpose in (None, "answers"):
        found = _texts(names)
    if len(found) != 1:
        wanted = f" for a problem with {purpose}" if purpose else ""
        has = f"it has {', '.join(map(repr, table.frame.columns))}"
        if found:
            ways = "; or ".join(_words(detected.columns) for detected in found)
            raise DataError(f"{table.path} can be read in {len(found)} ways{wanted}: {ways}; {has}. {CURE}")
        raise DataError(f"{table.path} has no columns that tell what they are{wanted}; {has}. {CURE}")
    return found[0]


def arrange(
    table: Table, form: Form, columns: Columns, *, complete: bool = True
) -> tuple[Table, dict[str, str | list[str] | None], list[str]]:
    """Bring a table into the form that the rest of the program reads: one row per turn, texts in columns.

    Args:
        table: any.
        form: as in `Detected`.
        columns: as in `Detected`; keys that are not about this form are handed back unchanged.
        complete: as in `expand_messages`.

    Returns:
        The table, the columns that it has now, and notes.

    Raises:
        DataError: cells that hold no messages, with their rows.
    """
    if form == "columns":
        return table, dict(columns), []
    if form == "messages":
        names = _several(columns, "messages_column")
        table, notes = expand_messages(table, names, complete=complete)
        made: Sequence[str] = TURNS
    else:
        prompt = _several(columns, "prompt_column")
        if len(prompt) > 1:
            raise DataError(f"{table.path}: dataset.prompt_column={prompt} beside lists of messages. Name one column.")
        better, worse = (_several(columns, key)[0] for key in ("answer_column", "rejected_answer_column"))
        table, notes = expand_preferences(table, better, worse, prompt[0] if prompt else None)
        made = PAIRS
    keys = {"rejected": "rejected_answer_column"}
    now: dict[str, str | list[str] | None] = {keys.get(name, f"{name}_column"): name for name in made}
    rest = {key: value for key, value in columns.items() if key not in now and key != "messages_column"}
    return table, {**rest, **now, "prompt_column": ["prompt"]}, notes


def _several(columns: Columns, key: str) -> list[str]:
    value = columns.get(key)
    return [value] if isinstance(value, str) else list(value or [])


class _Names:
    """The columns of a table, found by their names in any letter case."""

    def __init__(self, table: Table) -> None:
        self.columns = list(table.frame.columns)
        self.messages = [name for name in self.columns if hold_messages(table.values(name))]
        self.by_name: dict[str, list[str]] = {}
        for name in self.columns:
            self.by_name.setdefault(name.strip().casefold(), []).append(name)

    def of(self, wanted: Sequence[str]) -> list[str]:
        """Columns with one of these names."""
        return [name for known in wanted for name in self.by_name.get(known, [])]

    def found(self, form: Form, what: str, columns: Mapping[str, str | list[str]]) -> Detected:
        """With a sentence on which columns are used and which are not."""
        taken = {name for key in columns for name in _several(columns, key)}
        if form != "columns":
            taken.add("system")  # the text of rows whose messages have none
        left = [name for name in self.columns if name not in taken]
        more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
        unused = f"; not used: {', '.join(map(repr, left[:SHOWN]))}{more}" if left else ""
        return Detected(form, dict(columns), f"read as {what}: {_words(columns)}{unused}.")

    def spoken(self, what: str, columns: Mapping[str, str | list[str]]) -> Detected:
        """The same for columns of texts, with those of system text and chain."""
        used = dict(columns)
        systems, ids, parents = self.of(SYSTEMS), self.of(["id"]), self.of(["parent_id"])
        if len(systems) == 1:
            used["system_column"] = systems[0]
        if len(ids) == 1 and len(parents) == 1:
            used |= {"id_column": ids[0], "parent_id_column": parents[0]}
        return self.found("columns", what, used)


def _words(columns: Columns) -> str:
    shown = {key: value if isinstance(value, str) else f"[{', '.join(value or [])}]" for key, value in columns.items()}
    return ", ".join(f"{key}={value}" for key, value in shown.items())


def _preferences(names: _Names) -> list[Detected]:
    found = []
    chosen = names.of(CHOSEN) or names.of(ANSWERS)
    for better, worse in [(better, worse) for better in chosen for worse in names.of(REJECTED)]:
        columns: dict[str, str | list[str]] = {"answer_column": better, "rejected_answer_column": worse}
        if {better, worse} <= {*names.messages}:
            prompt = names.of(["prompt"])[:1]
            found.append(names.found("preferences", "pairs of message lists", {"prompt_column": prompt, **columns}))
        else:
            prompts = _prompts(names)
            found += [names.spoken("pairs of answers", {"prompt_column": prompt, **columns}) for prompt in prompts]
    return found


def _prompts(names: _Names) -> list[list[str]]:
    """Ways to read the prompt: each a list of columns."""
    beside = names.of(BESIDE)
    main = [name for name in names.of(PROMPTS) if name not in beside] or names.of(["input"])
    return [[name, *(other for other in beside if other != name)] for name in main]


def _messages(names: _Names) -> list[Detected]:
    halves = [*names.of(["prompt"]), *names.of(["completion"])]
    apart = {*names.of(CHOSEN), *names.of(REJECTED), *names.of(["prompt"])}
    if len(halves) == 2 and set(halves) <= {*names.messages}:  # noqa: PLR2004
        apart |= {*halves}
        found = [names.found("messages", "prompt and completion messages", {"messages_column": halves})]
    else:
        found = []
    return found + [
        names.found("messages", "conversations", {"messages_column": name})
        for name in names.messages
        if name not in apart
    ]


def _answers(names: _Names, answers: Sequence[str] = ANSWERS) -> list[Detected]:
    return [
        names.spoken("prompts and answers", {"prompt_column": prompt, "answer_column": answer})
        for prompt in _prompts(names)
        for answer in names.of(answers)
        if not {*prompt, answer} & {*names.messages}
    ]


def _labels(names: _Names) -> list[Detected]:
    return [
        names.found("columns", "a text and its label", {"prompt_column": [text], "answer_column": label})
        for text in names.of(TEXTS)
        for label in names.of(LABELS)
    ]


def _texts(names: _Names) -> list[Detected]:
    """A text alone; beside a column that could be its prompt or answer it would be a guess."""
    if names.of([*PROMPTS, *BESIDE, *ANSWERS, *CHOSEN, *REJECTED]):
        return []
    return [
        names.found("columns", "plain texts", {"prompt_column": [], "answer_column": name}) for name in names.of(TEXTS)
    ]
