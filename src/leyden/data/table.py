"""Tables: csv, Parquet, json lines, text files and hub datasets become one kind of object that knows its places."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from leyden.data.hub import read_hub
from leyden.data.readers import READERS, File, content_of, json_text, listed, sha256_of
from leyden.data.readers import SHOWN as SHOWN
from leyden.data.text_files import is_folder, read_text_files
from leyden.settings.errors import ConfigError, DataError
from leyden.settings.locations import HUB, TEXT_ENDINGS

NESTED = (list, dict, tuple, set, bytes, np.ndarray)
UNITS = {"csv": "line", "json lines": "line", "parquet": "row", "hub": "row"}


class Note(str):
    """A line about a table that tells what was done, and warns of nothing."""


@dataclass(frozen=True)
class Table:
    """Rows of one file, of a folder of texts, or of several tables, in file order; `len` counts them.

    Args:
        path: what the user named, for messages.
        frame: csv and text: `str` or None; json lines: Python values or None; Parquet, hub: the types stored there.
        lines: for each row, from 1, the line on which it starts (csv, json lines) or its number (Parquet, hub).
        files: what the rows were read from; by default the one file `path`.
        origin: for each row the number of its file; by default all are of the first.
        notes: what reading left out or decided, for the log.
    """

    path: Path
    frame: pd.DataFrame
    lines: Sequence[int]
    files: tuple[File, ...] = ()
    origin: Sequence[int] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.files:
            kind = READERS[self.path.suffix.lower()][0]
            object.__setattr__(self, "files", (File(self.path, kind, ""),))
        if not self.origin:
            object.__setattr__(self, "origin", (0,) * len(self.frame))

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.frame)

    @cached_property
    def sha256(self) -> str:
        """Of the file; of several, of their paths and hashes."""
        if len(self.files) == 1:
            return self.files[0].sha256
        return hashlib.sha256("".join(f"{file.sha256}  {file.path}\n" for file in self.files).encode()).hexdigest()

    def source(self, row: int) -> int:
        """Number of the table that a row comes from, where several are read as one."""
        return self.files[self.origin[row]].source

    def cells(self, column: str) -> list[Any]:
        """Values of a column with their own types; a missing one (empty text, null, NaN) is None.

        Raises:
            DataError: a cell holds a list, an object or bytes.
        """
        values = list(self.frame[column].array)
        nested = [row for row, value in enumerate(values) if isinstance(value, NESTED)]
        if nested:
            what = f"column {column!r} holds a list, an object or bytes ({self.places(nested)})"
            raise DataError(f"{self.path}: {what}. Write these cells as text, or name another column.")
        absent = pd.isna(pd.Series(values, dtype=object)).tolist()
        return [None if gone or str(value) == "" else value for value, gone in zip(values, absent, strict=True)]

    def texts(self, column: str) -> list[str | None]:
        """Cells of a column as text, the way they read in the file: 1 is "1", a json `true` is "true"; missing is None.

        Words such as `None`, `NA`, `null`, `nan` are text. Empty text is missing in every format, as it is in csv.

        Raises:
            DataError: a cell holds a list, an object or bytes.
        """
        as_text = [json_text if file.kind == "json lines" else str for file in self.files]
        cells = zip(self.cells(column), self.origin, strict=True)
        return [None if cell is None else as_text[file](cell) for cell, file in cells]

    def places(self, rows: Sequence[int]) -> str:
        """Where rows stand, for messages: `line 3`, `lines 3, 7, 9, 12, 15 and 4 more`; `a.csv line 3, b.csv line 2`.

        Rows that stand in one place, such as the turns of one cell, are named once.
        """
        found = list(dict.fromkeys((self.origin[row], self.lines[row]) for row in rows))
        if len(self.files) == 1 and self.files[0].kind != "text":
            return listed(UNITS[self.files[0].kind], [line for _, line in found])
        lines: dict[int, list[int]] = {}
        for file, line in found[:SHOWN]:
            lines.setdefault(file, []).append(line)
        words = ", ".join(self._place(self.files[file], numbers) for file, numbers in lines.items())
        return words if len(found) <= SHOWN else f"{words} and {len(found) - SHOWN} more"

    def _place(self, file: File, lines: Sequence[int]) -> str:
        return str(file.path) if file.kind == "text" else f"{file.path} {listed(UNITS[file.kind], lines)}"


def read_table(path: str | Path, setting: str = "dataset.train_dataframe") -> Table:
    """Read a table; nothing is written beside it.

    csv: UTF-8 with or without byte order mark, commas, quotes doubled, any line ending, a header; blank lines are
    skipped. json lines: a key that a line lacks is missing there. Parquet: a stored index is a column. Text files and
    folders of them: a row per file, with columns `text` and `file`. Hub datasets: see `leyden.data.hub`.

    Args:
        path: `.csv`, `.parquet`, `.pq`, `.jsonl`, `.ndjson`, `.txt` or `.md` in any letter case, a folder of text
            files, or `hub:owner/name`.
        setting: the setting that holds the path, for messages.

    Raises:
        ConfigError: another ending, or no such file.
        DataError: the file cannot be read, is damaged, or has no rows.
    """
    path, source = Path(path), f"{setting}={path}"
    suffix = path.suffix.lower()
    if str(path).startswith(HUB):
        frame, file, notes = read_hub(str(path), source)
        table = Table(path, frame, range(1, len(frame) + 1), (file,), notes=notes)
    elif suffix in READERS:
        kind, reader = READERS[suffix]
        content = content_of(path, source)
        table = Table(path, *reader(content, source), (File(path, kind, sha256_of(content)),))
    elif suffix in TEXT_ENDINGS or is_folder(path):
        frame, files, notes = read_text_files(path, source)
        table = Table(path, frame, [1] * len(frame), files, range(len(frame)), notes)
    else:
        allowed = ", ".join([*READERS, *TEXT_ENDINGS])
        raise ConfigError(f"{source} must end in one of {allowed} (any letter case), or be a folder. Convert the file.")
    if not len(table):
        raise DataError(f"{source} has no rows. Give a table with at least one row.")
    return table


def absent_columns(table: Table, wanted: Mapping[str, str | Sequence[str] | None]) -> list[tuple[str, str]]:
    """The (setting, column) pairs whose column the table lacks; a setting may name one column, several, or None."""
    names = {key: [value] if isinstance(value, str) else value or [] for key, value in wanted.items()}
    return [(key, name) for key, columns in names.items() for name in columns if name not in table.frame.columns]


def require_columns(table: Table, wanted: Mapping[str, str | Sequence[str] | None]) -> None:
    """Check that the table has every column that `wanted` (setting to one column, several, or None) names.

    Raises:
        DataError: one fault per absent column, with the columns there are and the nearest of them.
    """
    faults = []
    folded = {name.strip().casefold(): name for name in reversed(table.frame.columns)}
    for setting, column in absent_columns(table, wanted):
        near = difflib.get_close_matches(column.strip().casefold(), folded, n=1)
        hint = f" Did you mean {folded[near[0]]!r}?" if near else ""
        faults.append(
            f"{setting}={column!r} is not a column of {table.path}; it has "
            f"{', '.join(map(repr, table.frame.columns)) or 'none'}.{hint} Set {setting} to one of them."
        )
    if faults:
        raise DataError(faults)
