"""Tables become parts: which rows train and validate, their texts by role, their labels, and the samples they form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from leyden.data.cells import WEIGHT, gathered
from leyden.data.integers import Integers, Ragged
from leyden.data.labels import check_labels
from leyden.data.mixing import mixed
from leyden.data.sources import Source, Targets, read_source
from leyden.data.splits import sample, split, stratified_split
from leyden.settings.data_groups import Dataset
from leyden.settings.errors import DataError

Rows = Sequence[int]
OPTIONAL = ("dataset.system_column", "dataset.parent_id_column", "dataset.id_column", WEIGHT)


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
    rows: Integers
    samples: Ragged
    left_out: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", Integers(self.rows))
        object.__setattr__(self, "samples", Ragged.of(self.samples))

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
    chained = dataset.parent_id_column is not None or dataset.format in ("messages", "preferences")
    train, validation = _read_sources(dataset, targets, num_classes)
    notes: list[str] = []
    train_rows: Rows
    validation_rows: Rows
    if train is not validation:
        train_rows, validation_rows = range(len(train.table)), range(len(validation.table))
    else:
        train_rows, validation_rows, notes = _split(train, dataset)
    if dataset.train_ratios is not None:
        train_rows, shares = mixed(
            train.table, dataset.train_tables, dataset.train_ratios, train_rows, train.threads.conversation,
            seed=dataset.split_seed,
        )  # fmt: skip
        notes += shares
    parts = []
    for name, source, rows in (("train", train, train_rows), ("validation", validation, validation_rows)):
        kept = rows
        if dataset.data_sample < 1 and name in dataset.data_sample_choice:
            kept = sample(source.threads.conversation, rows, dataset.data_sample, dataset.split_seed, chained)
        part = _part(source, kept, whole=dataset.limit_chained_samples)
        parts.append(replace(part, left_out=len(rows) - len(kept)))
    train.warnings.extend([*notes, *_check_parts(parts[0], parts[1])])
    return parts[0], parts[1]


def with_validation(train: Part, validation: Part, dataset: Dataset, targets: Targets = "text") -> Part:
    """The training part with the rows of the validation part behind its own (setting R26).

    Two tables are read again as one; ids count for each of them apart, so no conversation runs across.

    Args:
        train: from `read_parts`.
        validation: from `read_parts`, thinned out or not.
        dataset: that both were read with.
        targets: what the answer columns hold.

    Raises:
        ConfigError, DataError: the two tables cannot be read as one.
    """
    source, added = train.source, validation.rows
    if validation.source is not source:
        labels, names = source.labels, [*dataset.train_tables, str(dataset.validation_dataframe)]
        source = read_source(
            dataset, names, "dataset.train_dataframe", targets=targets,
            num_classes=labels.num_classes if labels else None, class_names=labels.class_names if labels else None,
        )  # fmt: skip
        added = Integers(len(train.source.table) + added.array)
        source.warnings[:] = train.source.warnings
    source.warnings.append(
        f"dataset.train_validation_data=true: the {len(added)} validation rows are trained on too, so scores on them "
        "measure memory."
    )
    part = _part(source, train.rows + added, whole=dataset.limit_chained_samples)
    return replace(part, left_out=train.left_out)


def _split(source: Source, dataset: Dataset) -> tuple[Rows, Rows, list[str]]:
    """Rows that train and rows that validate, classes in their shares where each row has one."""
    conversations, labels = source.threads.conversation, source.labels
    try:
        if labels is None or labels.class_names is None or len(np.unique(conversations)) < len(conversations):
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
        if weights is not None and not weights[np.asarray(part.rows)].any():
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
            dataset, dataset.train_tables, "dataset.train_dataframe", targets=targets, num_classes=num_classes
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
        raise DataError(list(dict.fromkeys(faults)))  # both names may be of one file
    return train, validation


def whole_part(source: Source) -> Part:
    """Every row of a table as a sample with its ancestors, in file order: what prediction needs."""
    return _part(source, range(len(source.table)), whole=False)


def _part(source: Source, rows: Sequence[int], *, whole: bool) -> Part:
    kept = Integers(rows)
    ends = Integers(np.intersect1d(source.threads.leaves().array, kept.array)) if whole else kept
    return Part(source, kept, source.threads.chains(ends))
