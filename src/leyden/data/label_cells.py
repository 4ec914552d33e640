"""The cells of a label column: as text, as numbers, and refused with their rows when they are neither."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from leyden.data.cells import empty_cells
from leyden.data.table import SHOWN, Table

Numbers = NDArray[np.float64]

NUMBER = re.compile(r"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|inf|infinity)|nan", re.IGNORECASE)
LARGEST = float(np.finfo(np.float32).max)
MEND = "Mend these cells or remove the rows."


@dataclass(frozen=True)
class LabelColumn:
    """One column and where its faults go.

    Args:
        table: that it stands in.
        name: of the column.
        faults: what is wrong is added here.
        setting: that names the column.

    Raises:
        DataError: a cell holds a list, an object or bytes.
    """

    table: Table
    name: str
    faults: list[str]
    setting: str = "dataset.answer_column"
    cells: list[str | None] = field(init=False)
    numbers: list[float | None] = field(init=False)

    def __post_init__(self) -> None:
        texts = self.table.texts(self.name)
        object.__setattr__(self, "cells", [text if text and not text.isspace() else None for text in texts])
        object.__setattr__(self, "numbers", [None if cell is None else number_of(cell) for cell in self.cells])

    def pairs(self) -> list[tuple[str | None, float | None]]:
        """Each cell as text and, where it reads as one, as a number."""
        return list(zip(self.cells, self.numbers, strict=True))

    def refuse_missing(self) -> None:
        """Add the fault of missing cells, if there are any."""
        rows = [row for row, cell in enumerate(self.cells) if cell is None]
        if rows:
            self.faults.append(empty_cells(self.table, self.name, self.setting, rows))

    def refuse(self, wrong: Iterable[bool], why: str, cure: str) -> None:
        """Add the fault of the cells marked in `wrong`, one mark per row, if there are any."""
        rows = [row for row, bad in enumerate(wrong) if bad]
        if rows:
            self.faults.append(
                f"{self.table.path}: column {self.name!r} ({self.setting}) holds "
                f"{listed([repr(self.cells[row]) for row in rows])} in {self.table.places(rows)} ({len(rows)} of "
                f"{len(self.table)} rows): {why}. {cure}"
            )

    def as_numbers(self) -> Numbers:
        """[rows], finite numbers; NaN where a cell is missing. Other cells become faults."""
        self.refuse(
            [cell is not None and number is None for cell, number in self.pairs()],
            "this is no number",
            "Write numbers with a decimal point, without units or separators of thousands.",
        )
        self.refuse(
            [number is not None and not abs(number) <= LARGEST for number in self.numbers],
            "a number must be finite, and not beyond what 32 bits hold",
            MEND,
        )
        return self._array()

    def as_tags(self) -> Numbers:
        """[rows], 0 or 1; NaN where a cell is missing. Other cells become faults."""
        self.refuse(
            [cell is not None and number not in (0, 1) for cell, number in self.pairs()],
            "a column of several holds 0 (no) or 1 (yes)",
            f"Mend these cells, or name one column of classes in {self.setting}.",
        )
        return self._array()

    def _array(self) -> Numbers:
        return np.asarray([math.nan if number is None else number for number in self.numbers], dtype=np.float64)


def number_of(text: str) -> float | None:
    """The number that a text reads as, `inf` and `nan` included; None for any other text."""
    text = text.strip()
    return float(text) if NUMBER.fullmatch(text) else None


def listed(words: Sequence[str]) -> str:
    """The first few different words, and how many more there are."""
    distinct = list(dict.fromkeys(words))
    more = f" and {len(distinct) - SHOWN} more" if len(distinct) > SHOWN else ""
    return ", ".join(distinct[:SHOWN]) + more
