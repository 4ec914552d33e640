"""Tables become parts: which rows train and validate, their texts by role, and the samples they form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from leyden.data.conversations import Threads, agreeing_histories, thread_rows
from leyden.data.splits import sample, split
from leyden.data.table import Table, absent_columns, read_table, require_columns
from leyden.settings.data_groups import Dataset
from leyden.settings.errors import DataError
from leyden.settings.escapes import decode_escapes
from leyden.settings.locations import table_path

Role = str  # system, prompt, answer, rejected_prompt, rejected
ROLES = {
    "system_column": "system",
    "answer_column": "answer",
    "rejected_answer_column": "rejected",
    "rejected_prompt_column": "rejected_prompt",
}
OPTIONAL = ("dataset.system_column", "dataset.parent_id_column", "dataset.id_column")


@dataclass(frozen=True)
class Source:
    """A table with its texts by role, and how its rows hang together.

    Attributes:
        table: the file.
        texts: for each role one text per row of the table; a role without a column is absent.
        missing: for each role the rows whose cell is empty.
        threads: who answers whom.
        warnings: what was odd but not wrong.
    """

    table: Table
    texts: dict[Role, list[str]]
    missing: dict[Role, list[int]]
    threads: Threads
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """The rows of one purpose, and the samples they form.

    Attributes:
        source: the table that the rows stand in.
        rows: rows of the table, in file order.
        samples: for each sample its rows, from the root of its conversation to the row it stands for.
        left_out: rows that `dataset.data_sample` did not draw.
    """

    source: Source
    rows: tuple[int, ...]
    samples: tuple[tuple[int, ...], ...]
    left_out: int = 0

    def __len__(self) -> int:
        """Samples."""
        return len(self.samples)


def read_parts(dataset: Dataset) -> tuple[Part, Part]:
    """Read, check, split and thin out the tables (rules N1 to N12 and N31 to N35).

    Returns:
        The training part and the validation part.

    Raises:
        DataError: every fault of the tables, with file, column, rows and cure.
    """
    chained = dataset.parent_id_column is not None
    train, validation = _read_sources(dataset)
    if train is not validation:
        train_rows, validation_rows = list(range(len(train.table))), list(range(len(validation.table)))
    else:
        train_rows, validation_rows = _split(train, dataset)
    parts = []
    for name, source, rows in (("train", train, train_rows), ("validation", validation, validation_rows)):
        kept = rows
        if dataset.data_sample < 1 and name in dataset.data_sample_choice:
            kept = sample(source.threads.conversation, rows, dataset.data_sample, dataset.split_seed, chained)
        part = _part(source, kept, whole=dataset.limit_chained_samples)
        parts.append(replace(part, left_out=len(rows) - len(kept)))
    return parts[0], parts[1]


def _split(source: Source, dataset: Dataset) -> tuple[list[int], list[int]]:
    try:
        return split(source.threads.conversation, dataset.validation_size, dataset.split_seed)
    except DataError as error:
        raise DataError([f"{source.table.path}: {fault}" for fault in error.faults]) from error


def _read_sources(dataset: Dataset) -> tuple[Source, Source]:
    """The tables to train on and to validate on; one and the same when it will be split."""
    faults: list[str] = []
    train = validation = None
    with _gathered(faults):
        train = read_source(dataset, dataset.train_dataframe, "dataset.train_dataframe")
        if len(train.table) == 1:
            raise DataError(f"{train.table.path}: dataset.train_dataframe has one row. Give a table with at least two.")
    if dataset.validation_strategy == "custom":
        with _gathered(faults):
            name = str(dataset.validation_dataframe)
            validation = read_source(dataset, name, "dataset.validation_dataframe", optional=OPTIONAL)
    else:
        validation = train
    if faults or train is None or validation is None:
        raise DataError(faults)
    return train, validation


def read_source(
    dataset: Dataset,
    name: str,
    setting: str,
    *,
    optional: Sequence[str] = (),
    answers: bool = True,
) -> Source:
    """Read one table and check its cells.

    Args:
        dataset: names the columns.
        name: path of the table, or `embedded:NAME`.
        setting: the setting that names it, for messages.
        optional: settings whose column may be absent, with a warning.
        answers: every row must have its answer; false: answers are used where they are (for prediction).

    Raises:
        DataError: every fault of the table at once.
    """
    table = read_table(table_path(name), setting)
    faults: list[str] = []
    wanted = {key: value for key, value in _columns(dataset).items() if value}
    lacking = absent_columns(table, wanted)
    with _gathered(faults):
        require_columns(table, {key: value for key, value in wanted.items() if key not in optional})
    warnings = [
        f"{table.path} has no column {column!r} ({key}); it goes without." for key, column in lacking if key in optional
    ]
    gone = {key for key, _ in lacking}
    present = {key: value for key, value in wanted.items() if key not in gone}
    texts, missing = _texts(table, present, decode_escapes(dataset.prompt_column_separator), faults)
    if answers:
        faults += _missing_faults(table, present, missing)
    threads = None
    with _gathered(faults):
        parent = _one(present, "parent_id_column") if "dataset.id_column" in present else None
        threads = thread_rows(table, _one(present, "id_column"), parent)
        _check_histories(table, threads, texts, missing, dataset)
    if faults or threads is None:
        raise DataError(faults)
    return Source(table, texts, missing, threads, [*warnings, *threads.warnings])


def whole_part(source: Source) -> Part:
    """Every row of a table as a sample with its ancestors, in file order: what prediction needs."""
    return _part(source, range(len(source.table)), whole=False)


def _part(source: Source, rows: Sequence[int], *, whole: bool) -> Part:
    kept = set(rows)
    ends = [row for row in source.threads.leaves() if row in kept] if whole else list(rows)
    return Part(source, tuple(rows), tuple(source.threads.chain(row) for row in ends))


def _columns(dataset: Dataset) -> dict[str, str | list[str] | None]:
    return {
        "dataset.system_column": dataset.system_column,
        "dataset.prompt_column": list(dataset.prompt_columns),
        "dataset.answer_column": dataset.answer_column,
        "dataset.rejected_prompt_column": dataset.rejected_prompt_column,
        "dataset.rejected_answer_column": dataset.rejected_answer_column,
        "dataset.parent_id_column": dataset.parent_id_column,
        "dataset.id_column": dataset.id_column,
    }


def _one(columns: dict[str, str | list[str]], key: str) -> str | None:
    value = columns.get(f"dataset.{key}")
    return value if isinstance(value, str) else None


@contextmanager
def _gathered(faults: list[str]) -> Iterator[None]:
    """Keep the faults of a step, so that those of the next steps are reported with them."""
    try:
        yield
    except DataError as error:
        faults += error.faults


def _texts(
    table: Table, columns: dict[str, str | list[str]], separator: str, faults: list[str]
) -> tuple[dict[Role, list[str]], dict[Role, list[int]]]:
    """Texts by role; a missing cell is the empty text (N4), and is listed. Cells that are no text become faults."""
    cells: dict[Role, list[str | None]] = {}
    for key, role in ROLES.items():
        if column := _one(columns, key):
            with _gathered(faults):
                cells[role] = table.texts(column)
    prompts: list[list[str | None]] = []
    for column in columns.get("dataset.prompt_column", []):
        with _gathered(faults):
            prompts.append(table.texts(column))
    rows = list(zip(*prompts, strict=True)) or [()] * len(table)
    texts = {role: [text or "" for text in column] for role, column in cells.items()}
    texts["prompt"] = [separator.join(text or "" for text in row) for row in rows]
    missing = {role: [row for row, text in enumerate(column) if not text] for role, column in cells.items()}
    missing["prompt"] = [number for number, row in enumerate(rows) if not any(row)] if prompts else []
    return texts, missing


def _check_histories(
    table: Table,
    threads: Threads,
    texts: dict[Role, list[str]],
    missing: dict[Role, list[int]],
    dataset: Dataset,
) -> None:
    """Rule N29, where both answers are there; a missing one is a fault of its own."""
    if "answer" not in texts or "rejected" not in texts:
        return
    rejected = list(texts["rejected"])
    for row in {*missing["answer"], *missing["rejected"]}:
        rejected[row] = texts["answer"][row]
    agreeing_histories(
        table, threads, texts["answer"], rejected, (dataset.answer_column, str(dataset.rejected_answer_column))
    )


def _missing_faults(table: Table, columns: dict[str, str | list[str]], missing: dict[Role, list[int]]) -> list[str]:
    faults = []
    for key, role in (("answer_column", "answer"), ("rejected_answer_column", "rejected")):
        if rows := missing.get(role):
            faults.append(
                f"{table.path}: column {_one(columns, key)!r} (dataset.{key}) is empty in {table.places(rows)} "
                f"({len(rows)} of {len(table)} rows). Fill these cells or remove the rows."
            )
    return faults
