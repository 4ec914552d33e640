"""Names of classes: the words of a column in their order, or its whole numbers from 0."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from leyden.data.label_cells import MEND, LabelColumn, listed, number_of
from leyden.settings.errors import ConfigError

TWO = 2  # as one output, of yes against no, or as two
CODE = re.compile(r"\s*[+-]?0[0-9]")  # 007 names a class; as a number it would become 7
EXACT = 2**53  # whole numbers below it are exact as float64
MOST = 10_000  # without problem.num_classes: a larger label is an id or a mistake, and its head would not fit


def class_names(column: LabelColumn, num_classes: int | None) -> tuple[list[str], list[str]]:
    """The names of the classes of a training table, in the order of their numbers.

    A column without any word holds class numbers, whose names are these numbers as text.

    Args:
        column: faults of its cells are added to it.
        num_classes: 1 for two classes with one output, else their number; None: from the column.

    Returns:
        The names, and warnings.

    Raises:
        ConfigError: there are more or fewer words than classes.
    """
    if _numeric(column):
        return _numbered(column, num_classes), []
    return _worded(column, num_classes)


def class_word(text: str) -> str:
    """Name of a class: the text as it stands; for a whole number its shortest form, so that 1.0 is 1."""
    number = number_of(text)
    if number is None or CODE.match(text) or not abs(number) < EXACT or number != int(number):
        return text
    return str(int(number))


def _numeric(column: LabelColumn) -> bool:
    there = [(cell, number) for cell, number in column.pairs() if cell is not None]
    real = any(number is not None and math.isfinite(number) for _, number in there)
    return real and all(number is not None and not CODE.match(cell) for cell, number in there)


def _numbered(column: LabelColumn, num_classes: int | None) -> list[str]:
    there = [0.0 if number is None else number for number in column.numbers]
    whole = [math.isfinite(number) and number >= 0 and number == int(number) for number in there]
    column.refuse([not fits for fits in whole], "a class is a whole number from 0, or a word", MEND)
    highest = max((int(number) for number, fits in zip(there, whole, strict=True) if fits), default=0)
    if num_classes is not None:
        count = max(TWO, num_classes)
        why = f"problem.num_classes={num_classes} allows the classes 0 to {count - 1}"
        cure = "Mend these cells, or set problem.num_classes to a larger number or to null."
    else:
        count = max(TWO, min(highest + 1, MOST))
        why = f"classes count from 0, and these would make more than {MOST:,}"
        cure = "Number the classes from 0, write them as words, or set problem.num_classes."
    column.refuse([fits and number >= count for number, fits in zip(there, whole, strict=True)], why, cure)
    return [str(number) for number in range(count)]


def _worded(column: LabelColumn, num_classes: int | None) -> tuple[list[str], list[str]]:
    names = sorted({class_word(cell) for cell in column.cells if cell is not None})
    where = f"{column.table.path}: column {column.name!r} ({column.setting})"
    if num_classes is not None and len(names) not in ((1, TWO) if num_classes == 1 else (num_classes,)):
        raise ConfigError(
            f"problem.num_classes={num_classes}, but column {column.name!r} of {column.table.path} holds {len(names)} "
            f"different words: {listed(names)}. Set problem.num_classes to {_outputs(names)} or null."
        )
    warnings = []
    numbers = [name for name in names if number_of(name) is not None]
    words = [name for name in names if number_of(name) is None]
    if numbers and words:
        warnings.append(
            f"{where} holds numbers ({listed(numbers)}) and words ({listed(words)}); all of them are taken as words."
        )
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(" ".join(name.casefold().split()), []).append(repr(name))
    warnings += [
        f"{where}: {listed(group)} differ in case or spaces only, and count as different classes."
        for group in alike.values()
        if len(group) > 1
    ]
    return names, warnings


def _outputs(names: Sequence[str]) -> int:
    return 1 if len(names) <= TWO else len(names)
