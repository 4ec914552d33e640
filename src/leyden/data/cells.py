"""Cells become texts by role and rows are linked, with what is missing, empty or the same twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from leyden.data.conversations import Threads, agreeing_histories, thread_rows
from leyden.data.integers import Integers
from leyden.data.table import Table
from leyden.data.texts import Texts, all_empty, joined
from leyden.settings.data_groups import Dataset
from leyden.settings.errors import DataError

Role = str  # system, prompt, answer, rejected_prompt, rejected
Columns = Mapping[str, str | list[str]]  # setting to one column or several
ANSWER, WEIGHT = "dataset.answer_column", "dataset.weight_column"
ROLES = {
    "system_column": "system",
    "answer_column": "answer",
    "rejected_answer_column": "rejected",
    "rejected_prompt_column": "rejected_prompt",
}
COMPLETE = {"answer_column": "answer", "rejected_answer_column": "rejected"}  # no cell of these may be missing


@contextmanager
def gathered(faults: list[str]) -> Iterator[None]:
    """Keep the faults of a step, so that those of the next steps are reported with them."""
    try:
        yield
    except DataError as error:
        faults += error.faults


def columns_of(dataset: Dataset) -> dict[str, str | list[str] | None]:
    """Every setting that names columns of a table."""
    return {
        "dataset.system_column": dataset.system_column,
        "dataset.prompt_column": list(dataset.prompt_columns),
        ANSWER: list(dataset.answer_columns),
        "dataset.rejected_prompt_column": dataset.rejected_prompt_column,
        "dataset.rejected_answer_column": dataset.rejected_answer_column,
        "dataset.parent_id_column": dataset.parent_id_column,
        "dataset.id_column": dataset.id_column,
        WEIGHT: dataset.weight_column,
    }


def without(table: Table, setting: str, column: str) -> str:
    """The warning about an absent column that a table may lack."""
    how = "every row weighs 1" if setting == WEIGHT else "it goes without"
    return f"{table.path} has no column {column!r} ({setting}); {how}."


def one_column(columns: Columns, key: str) -> str | None:
    """The column that `dataset.KEY` names; None if it names none. A list of one is a column."""
    value = columns.get(f"dataset.{key}")
    if isinstance(value, list) and len(value) == 1:
        return value[0]
    return value if isinstance(value, str) else None


def texts_by_role(
    table: Table, columns: Columns, separator: str, faults: list[str]
) -> tuple[dict[Role, Texts[str]], dict[Role, Integers]]:
    """Texts by role; a missing cell is the empty text (N4), and is listed.

    Args:
        table: the table.
        columns: settings with columns that the table has.
        separator: what joins several prompt columns.
        faults: cells that are no text are added here.

    Returns:
        For each role one text per row, and for each role the rows whose cell is missing.
    """
    cells: dict[Role, Texts[str | None]] = {}
    for key, role in ROLES.items():
        if column := one_column(columns, key):
            with gathered(faults):
                cells[role] = table.texts(column)
    prompts: list[Texts[str | None]] = []
    for column in columns.get("dataset.prompt_column", []):
        with gathered(faults):
            prompts.append(table.texts(column))
    texts = {role: column.filled() for role, column in cells.items()}
    texts["prompt"] = joined(prompts, separator) if prompts else Texts.of([""] * len(table))
    missing = {role: Integers(column.empty()) for role, column in cells.items()}
    missing["prompt"] = Integers(all_empty(prompts) if prompts else ())
    return texts, missing


def linked_rows(
    table: Table, columns: Columns, texts: Mapping[Role, Sequence[str]], missing: Mapping[Role, Sequence[int]]
) -> Threads:
    """The conversations of a table; rule N29 is checked where both answers are there, a missing one being reported.

    Raises:
        DataError: ids or parents are wrong, or the answers of an earlier turn differ.
    """
    parent = one_column(columns, "parent_id_column") if "dataset.id_column" in columns else None
    threads = thread_rows(table, one_column(columns, "id_column"), parent)
    if "answer" in texts and "rejected" in texts:
        one_sided = {*missing["answer"], *missing["rejected"]}
        names = (str(one_column(columns, "answer_column")), str(one_column(columns, "rejected_answer_column")))
        agreeing_histories(table, threads, texts["answer"], texts["rejected"], names, apart_from=one_sided)
    return threads


def missing_answers(table: Table, columns: Columns, missing: Mapping[Role, Sequence[int]]) -> list[str]:
    """One fault for each column whose every cell is needed and some are missing."""
    return [
        empty_cells(table, str(one_column(columns, key)), f"dataset.{key}", rows)
        for key, role in COMPLETE.items()
        if (rows := missing.get(role))
    ]


def empty_cells(table: Table, column: str, setting: str, rows: Sequence[int]) -> str:
    """The fault of a column with missing cells."""
    return (
        f"{table.path}: column {column!r} ({setting}) is empty in {table.places(rows)} "
        f"({len(rows)} of {len(table)} rows). Fill these cells or remove the rows."
    )


def empty_prompts(table: Table, prompts: Sequence[str], missing: Sequence[int]) -> list[str]:
    """A fault if no prompt has any text: a head would have nothing to read."""
    empty = set(missing)
    if any(text.strip() and row not in empty for row, text in enumerate(prompts)):
        return []
    return [
        f"{table.path}: the prompts of all {len(table)} rows are empty, and labels are told from prompts. Set "
        "dataset.prompt_column to columns with text."
    ]


def equal_pairs(table: Table, texts: Mapping[Role, Sequence[str]], threads: Threads) -> list[str]:
    """A warning about last turns whose better answer is the worse one too: their losses teach nothing."""
    if not {"answer", "rejected"} <= texts.keys():
        return []
    prompts, answers = Texts.of(texts["prompt"]), Texts.of(texts["answer"])
    others = Texts.of(texts.get("rejected_prompt", prompts))
    same = prompts.equal(others) & answers.equal(Texts.of(texts["rejected"]))
    same[answers.empty()] = False
    leaves = np.asarray(threads.leaves(), dtype=np.int64)
    rows = leaves[same[leaves]]
    if not len(rows):
        return []
    return [
        f"{table.path}: {len(rows)} of {len(leaves)} pairs have the same text as better and as worse answer "
        f"({table.places(Integers(rows))}); there is nothing to prefer in them."
    ]
