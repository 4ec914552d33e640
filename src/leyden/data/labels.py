"""What a head should say: the labels of a table as class numbers, tags or numbers, and the weights of its rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from leyden.data.cells import gathered
from leyden.data.class_names import TWO, class_names, class_word
from leyden.data.label_cells import MEND, LabelColumn, Numbers, listed
from leyden.data.table import Table
from leyden.settings.errors import ConfigError, DataError

Kind = Literal["binary", "multiclass", "multilabel", "numbers"]
Wanted = Literal["classes", "numbers"]


@dataclass(frozen=True)
class Labels:
    """The labels of a table.

    Attributes:
        values: float64 [rows, K]. binary and multiclass: K = 1, the class number; multilabel: 0 or 1 per column;
            numbers: as they are. NaN where a cell is missing, which only a table to predict may have.
        columns: the columns they stand in.
        class_names: of binary and multiclass: the name of each class number; the numbers as text where the table has
            numbers. None for the other kinds, whose columns are the names.
        kind: what is asked.
        num_classes: outputs that the head needs: 1 for binary, the classes of multiclass, else the columns.
        warnings: what was odd but not wrong.
    """

    values: Numbers
    columns: tuple[str, ...]
    class_names: tuple[str, ...] | None
    kind: Kind
    num_classes: int
    warnings: tuple[str, ...] = ()

    def of(self, rows: Sequence[int]) -> Labels:
        """The labels of some rows, in the order given."""
        return replace(self, values=self.values[np.asarray(rows, dtype=np.int64)])


def read_labels(  # noqa: PLR0913
    table: Table,
    columns: Sequence[str],
    kind_wanted: Wanted,
    num_classes: int | None,
    names: Sequence[str] | None,
    *,
    complete: bool = True,
) -> Labels:
    """Read the labels of a table (rules N24 and N25).

    One column of classes is binary if `num_classes` is 1, or is None and there are two classes; else it is multiclass.
    Several columns are multilabel. Whole numbers are class numbers (`1.0` is 1); a column that holds any word holds
    words, and the classes are those words, sorted.

    Args:
        table: the table.
        columns: its columns; they must exist.
        kind_wanted: classes or numbers.
        num_classes: as in `Labels`; None: from the table. Unused for numbers.
        names: class names of the training table, when another table is read.
        complete: every row must have its labels; false: missing ones become NaN (for prediction).

    Raises:
        ConfigError: `num_classes` does not fit the columns or the words.
        DataError: every cell that is no label, with its row.
    """
    if kind_wanted == "classes" and len(columns) > 1 and num_classes not in (None, len(columns)):
        raise ConfigError(
            f"problem.num_classes={num_classes}, but dataset.answer_column names {len(columns)} columns, each a label "
            f"of its own. Set problem.num_classes to {len(columns)} or null, or name one column."
        )
    faults: list[str] = []
    found: list[LabelColumn] = []
    for name in columns:
        with gathered(faults):
            found.append(LabelColumn(table, name, faults))
    for column in found if complete else ():
        column.refuse_missing()
    kind: Kind = "numbers" if kind_wanted == "numbers" else "multilabel"
    if kind == "numbers":
        values = [column.as_numbers() for column in found]
    elif len(columns) > 1:
        values = [column.as_tags() for column in found]
    else:
        labels = [_classes(column, num_classes, names) for column in found]
        if not faults:
            return labels[0]
    if faults:
        raise DataError(faults)
    return Labels(np.stack(values, axis=1), tuple(columns), None, kind, len(columns))


def _classes(column: LabelColumn, num_classes: int | None, names: Sequence[str] | None) -> Labels:
    words = [None if cell is None else class_word(cell) for cell in column.cells]
    warnings: Sequence[str] = ()
    if names is None:
        names, warnings = class_names(column, num_classes)
    else:
        known = {None, *names}
        column.refuse(
            [word not in known for word in words],
            f"the classes of the training table are {listed(names)}",
            "Mend these cells, remove the rows, or train on rows of this class.",
        )
    if num_classes is None:
        num_classes = 1 if len(names) <= TWO else len(names)
    places: dict[str | None, float] = {name: number for number, name in enumerate(names)}
    values = np.asarray([places.get(word, math.nan) for word in words], dtype=np.float64)[:, None]
    kind: Kind = "binary" if num_classes == 1 else "multiclass"
    return Labels(values, (column.name,), tuple(names), kind, num_classes, tuple(warnings))


def read_weights(table: Table, column: str) -> NDArray[np.float32]:
    """Share of each row in the loss: [rows], 0 or above.

    Raises:
        DataError: a weight is missing, negative, not finite or no number.
    """
    faults: list[str] = []
    cells = LabelColumn(table, column, faults, "dataset.weight_column")
    cells.refuse_missing()
    values = cells.as_numbers()
    cells.refuse(values < 0, "a weight is 0 or above", MEND)
    if faults:
        raise DataError(faults)
    return values.astype(np.float32)


def check_labels(train: Labels, validation: Labels, path: object) -> list[str]:
    """What the labels of the training rows cannot teach, and those of the validation rows cannot show.

    Args:
        train: of the training rows.
        validation: of the validation rows.
        path: of the training table, for messages.

    Returns:
        Warnings: classes without a row, columns with one value.

    Raises:
        DataError: every training row has the same labels.
    """
    constant = [name for name, values in zip(train.columns, train.values.T, strict=True) if len(np.unique(values)) <= 1]
    what = f"{path}: column {listed([repr(name) for name in constant])} (dataset.answer_column)"
    if len(constant) == len(train.columns) and train.kind != "numbers":
        raise DataError(
            f"{what} has one label in all {len(train.values)} training rows, so there is nothing to learn. Give a "
            "table with rows of other labels, raise dataset.data_sample, or name another column."
        )
    warnings = [f"{what} has one value in all {len(train.values)} training rows."] if constant else []
    if train.class_names is None:
        return warnings
    for part, labels in (("training", train), ("validation", validation)):
        seen = set(labels.values[:, 0].astype(int).tolist())
        absent = [name for number, name in enumerate(train.class_names) if number not in seen]
        if absent:
            warnings.append(
                f"{path}: {len(absent)} of {len(train.class_names)} classes have no {part} row: {listed(absent)}."
            )
    return warnings
