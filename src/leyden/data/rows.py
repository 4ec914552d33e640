"""Tables become parts: which rows train and validate, their texts by role, their labels, and the samples they form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from leyden.data import cells
from leyden.data.cells import ANSWER, WEIGHT, Role, gathered
from leyden.data.conversations import Threads
from leyden.data.labels import Labels, check_labels, read_labels, read_weights
from leyden.data.personalization import personalized
from leyden.data.splits import sample, split, stratified_split
from leyden.data.table import Table, absent_columns, read_table, require_columns
from leyden.settings.data_groups import Dataset
from leyden.settings.errors import DataError
from leyden.settings.escapes import decode_escapes
from leyden.settings.locations import table_path

Targets = Literal["text", "classes", "numbers"]
Rows = list[int]
OPTIONAL = ("dataset.system_column", "dataset.parent_id_column", "dataset.id_column", WEIGHT)


@dataclass(frozen=True)
class Source:
    """A table with its texts by role, and how its rows hang together.

    Attributes:
        table: the file.
        texts: for each role one text per row of the table; a role without a column is absent.
        missing: for each role the rows whose cell is empty; for labels those that lack one.
        threads: who answers whom.
        warnings: what was odd but not wrong.
        labels: of problems with labels, which have no role "answer"; None for the others, and without the columns.
        weights: float32 [rows], share of each row in the loss; None: all count alike.
    """

    table: Table
    texts: dict[Role, list[str]]
    missing: dict[Role, list[int]]
    threads: Threads
    warnings: list[str] = field(default_factory=list)
    labels: Labels | None = None
    weights: NDArray[np.float32] | None = None


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


def read_parts(dataset: Dataset, targets: Targets = "text", num_classes: int | None = None) -> tuple[Part, Part]:
    """Read, check, split and thin out the tables (rules N1 to N12 and N24 to N35).

    Args:
        dataset: names tables and columns.
        targets: what the answer columns hold.
        num_classes: of classes, as in `Labels`; None: from the training table.

    Returns:
        The training part and the validation part. What holds for both stands in the warnings of the first.

    Raises:
        ConfigError: `num_classes` does not fit the labels.
        DataError: every fault of the tables, with file, column, rows and cure.
    """
    chained = dataset.parent_id_column is not None
    train, validation = _read_sources(dataset, targets, num_classes)
    notes: list[str] = []
    if train is not validation:
        train_rows, validation_rows = list(range(len(train.table))), list(range(len(validation.table)))
    else:
        train_rows, validation_rows, notes = _split(train, dataset)
    parts = []
    for name, source, rows in (("train", train, train_rows), ("validation", validation, validation_rows)):
        kept = rows
        if dataset.data_sample < 1 and name in dataset.data_sample_choice:
            kept = sample(source.threads.conversation, rows, dataset.data_sample, dataset.split_seed, chained)
        part = _part(source, kept, whole=dataset.limit_chained_samples)
        parts.append(replace(part, left_out=len(rows) - len(kept)))
    train.warnings.extend([*notes, *_check_parts(parts[0], parts[1])])
    return parts[0], parts[1]


def _split(source: Source, dataset: Dataset) -> tuple[Rows, Rows, list[str]]:
    """Rows that train and rows that validate, classes in their shares where each row has one."""
    conversations, labels = source.threads.conversation, source.labels
    try:
        if labels is None or labels.class_names is None or len(set(conversations)) < len(conversations):
            return *split(conversations, dataset.validation_size, dataset.split_seed), []
        classes = labels.values[:, 0].astype(int).tolist()
        train, validation, notes = stratified_split(
            classes, labels.class_names, dataset.validation_size, dataset.split_seed
        )
    except DataError as error:
        raise DataError([f"{source.table.path}: {fault}" for fault in error.faults]) from error
    return train, validation, [f"{source.table.path}: {note}" for note in notes]


def _check_parts(train: Part, validation: Part) -> list[str]:
    """Warnings about labels of the two parts; what cannot teach or score at all is a fault."""
    faults, warnings = [], []
    for name, part in (("training", train), ("validation", validation)):
        weights = part.source.weights
        if weights is not None and not weights[list(part.rows)].any():
            faults.append(
                f"{part.source.table.path}: dataset.weight_column is 0 in all {len(part.rows)} {name} rows, so none of "
                "them counts. Raise some weights, or set dataset.weight_column=null."
            )
    with gathered(faults):
        taught, shown = train.source.labels, validation.source.labels
        if taught is not None and shown is not None:
            warnings = check_labels(taught.of(train.rows), shown.of(validation.rows), train.source.table.path)
    if faults:
        raise DataError(faults)
    return warnings


def _read_sources(dataset: Dataset, targets: Targets, num_classes: int | None) -> tuple[Source, Source]:
    """The tables to train on and to validate on; one and the same when it will be split."""
    faults: list[str] = []
    train = validation = None
    with gathered(faults):
        train = read_source(
            dataset, dataset.train_dataframe, "dataset.train_dataframe", targets=targets, num_classes=num_classes
        )
        if len(train.table) == 1:
            raise DataError(f"{train.table.path}: dataset.train_dataframe has one row. Give a table with at least two.")
    if dataset.validation_strategy == "custom":
        labels = train.labels if train else None
        with gathered(faults):
            validation = read_source(
                dataset, str(dataset.validation_dataframe), "dataset.validation_dataframe", optional=OPTIONAL,
                targets=targets, num_classes=labels.num_classes if labels else None,
                class_names=labels.class_names if labels else None,
            )  # fmt: skip
    else:
        validation = train
    if faults or train is None or validation is None:
        raise DataError(faults)
    return train, validation


def read_source(  # noqa: PLR0913
    dataset: Dataset,
    name: str,
    setting: str,
    *,
    optional: Sequence[str] = (),
    answers: bool = True,
    targets: Targets = "text",
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
) -> Source:
    """Read one table and check its cells.

    Args:
        dataset: names the columns.
        name: path of the table, or `embedded:NAME`.
        setting: the setting that names it, for messages.
        optional: settings whose column may be absent, with a warning.
        answers: every row must have its answer or labels; false: they are used where they are (for prediction).
        targets: what the answer columns hold.
        num_classes: as in `Labels`; None: from the table.
        class_names: of the table that was trained on; None: this is that table.

    Raises:
        ConfigError: `num_classes` does not fit the labels.
        DataError: every fault of the table at once.
    """
    table = read_table(table_path(name), setting)
    faults: list[str] = []
    wanted = {key: value for key, value in cells.columns_of(dataset).items() if value}
    lacking = absent_columns(table, wanted)
    with gathered(faults):
        require_columns(table, {key: value for key, value in wanted.items() if key not in optional})
    warnings = [*table.notes, *(cells.without(table, key, column) for key, column in lacking if key in optional)]
    present = {key: value for key, value in wanted.items() if key not in dict(lacking)}
    spoken = {key: value for key, value in present.items() if targets == "text" or key != ANSWER}
    texts, missing = cells.texts_by_role(table, spoken, decode_escapes(dataset.prompt_column_separator), faults)
    faults += cells.missing_answers(table, present, missing) if answers else []
    labels = weights = threads = None
    if targets != "text" and ANSWER in present:
        with gathered(faults):
            labels = read_labels(table, dataset.answer_columns, targets, num_classes, class_names, complete=answers)
            missing["answer"] = np.flatnonzero(np.isnan(labels.values).any(axis=1)).tolist()
    if WEIGHT in present:
        with gathered(faults):
            weights = read_weights(table, str(dataset.weight_column))
    with gathered(faults):
        threads = cells.linked_rows(table, present, texts, missing)
    if targets != "text" and answers and not faults:
        faults += cells.empty_prompts(table, texts["prompt"], missing["prompt"])
    if faults or threads is None:
        raise DataError(faults)
    warnings += [*threads.warnings, *(labels.warnings if labels else ())]
    warnings += cells.equal_pairs(table, texts, threads) if answers else []
    return _named(Source(table, texts, missing, threads, warnings, labels, weights), dataset)


def _named(source: Source, dataset: Dataset) -> Source:
    """Personalize, the last step of reading (rule N32): it changes no row, no split and no sample."""
    if not dataset.personalize:
        return source
    texts, counts = personalized(source.texts, dataset.chatbot_name, dataset.chatbot_author)
    note = f"{source.table.path}: dataset.personalize {counts}."
    return replace(source, texts=texts, warnings=[*source.warnings, note])


def whole_part(source: Source) -> Part:
    """Every row of a table as a sample with its ancestors, in file order: what prediction needs."""
    return _part(source, range(len(source.table)), whole=False)


def _part(source: Source, rows: Sequence[int], *, whole: bool) -> Part:
    kept = set(rows)
    ends = [row for row in source.threads.leaves() if row in kept] if whole else list(rows)
    return Part(source, tuple(rows), tuple(source.threads.chain(row) for row in ends))
