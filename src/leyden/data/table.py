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
import pyarrow as pa
import pyarrow.compute as pc

from leyden.data.files import SHOWN as SHOWN
from leyden.data.files import File, listed
from leyden.data.hub import read_hub
from leyden.data.integers import Integers
from leyden.data.readers import READERS, TEXT_TYPES, json_text, read_file
from leyden.data.text_files import is_folder, read_text_files
from leyden.data.texts import Texts
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
        frame: csv: texts in Arrow's memory; json lines: the same where a column holds nothing else, or Python values;
            Parquet, hub: the types stored there.
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
        object.__setattr__(self, "lines", Integers(self.lines))
        origin = self.origin if len(self.origin) else np.zeros(len(self.frame), dtype=np.int64)
        object.__setattr__(self, "origin", Integers(origin))

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

    def values(self, column: str) -> list[Any]:
        """What a column holds, as Python objects; None for a text that is missing."""
        texts = self.arrow(column)
        return list(self.frame[column].array) if texts is None else texts.to_pylist()

    def cells(self, column: str) -> list[Any]:
        """Values of a column with their own types; a missing one (empty text, null, NaN) is None.

        Raises:
            DataError: a cell holds a list, an object or bytes.
        """
        values = self.values(column)
        nested = [row for row, value in enumerate(values) if isinstance(value, NESTED)]
        if nested:
            what = f"column {column!r} holds a list, an object or bytes ({self.places(nested)})"
            raise DataError(f"{self.path}: {what}. Write these cells as text, or name another column.")
        absent = pd.isna(pd.Series(values, dtype=object)).tolist()
        return [None if gone or str(value) == "" else value for value, gone in zip(values, absent, strict=True)]

    def keys(self, column: str) -> pd.Series:
        """The cells as `cells` gives them, to be compared; texts stay in Arrow's memory.

        Raises:
            DataError: a cell holds a list, an object or bytes.
        """
        if self.arrow(column) is None:
            return pd.Series(self.cells(column), dtype=object)
        return pd.Series(pd.arrays.ArrowExtensionArray(pa.chunked_array([self.texts(column).array])))

    def texts(self, column: str) -> Texts[str | None]:
        """Cells of a column as text, the way they read in the file: 1 is "1", a json `true` is "true"; missing is None.

        Words such as `None`, `NA`, `null`, `nan` are text. Empty text is missing in every format, as it is in csv.

        Raises:
            DataError: a cell holds a list, an object or bytes.
        """
        texts = self.arrow(column)
        if texts is not None:
            empty = pc.equal(pc.binary_length(texts), 0)
            return Texts(pc.if_else(empty, None, texts) if pc.any(empty).as_py() else texts)
        as_text = [json_text if file.kind == "json lines" else str for file in self.files]
        cells = zip(self.cells(column), self.origin, strict=True)
        return Texts.of(None if cell is None else as_text[file](cell) for cell, file in cells)

    def rows(self, rows: Sequence[int]) -> pd.DataFrame:
        """Some rows, numbered from 0, with their texts as Python objects or None."""
        frame = self.frame.iloc[np.asarray(rows, dtype=np.int64)].reset_index(drop=True)
        texts = [name for name in frame.columns if frame[name].dtype in TEXT_TYPES.values()]
        return frame.assign(**{name: pd.Series(_plain(frame[name]), dtype=object) for name in texts})

    def arrow(self, column: str) -> pa.ChunkedArray | None:
        """A column of texts as Arrow holds it; None for any other."""
        cells = self.frame[column]
        return pa.chunked_array(pa.array(cells.array)) if cells.dtype in TEXT_TYPES.values() else None

    def places(self, rows: Sequence[int]) -> str:
        """Where rows stand, for messages: `line 3`, `lines 3, 7, 9, 12, 15 and 4 more`; `a.csv line 3, b.csv line 2`.

        Rows that stand in one place, such as the turns of one cell, are named once.
        """
        chosen = np.asarray(rows, dtype=np.int64)
        files, places = np.asarray(self.origin)[chosen], np.asarray(self.lines)[chosen]
        _, firsts = np.unique(np.stack([files, places]), axis=1, return_index=True)
        firsts.sort()
        if len(self.files) == 1 and self.files[0].kind != "text":
            return listed(UNITS[self.files[0].kind], Integers(places[firsts]))
        lines: dict[int, list[int]] = {}
        for first in firsts[:SHOWN].tolist():
            lines.setdefault(int(files[first]), []).append(int(places[first]))
        words = ", ".join(self._place(self.files[file], numbers) for file, numbers in lines.items())
        return words if len(firsts) <= SHOWN else f"{words} and {len(firsts) - SHOWN} more"

    def _place(self, file: File, lines: Sequence[int]) -> str:
        return str(file.path) if file.kind == "text" else f"{file.path} {listed(UNITS[file.kind], lines)}"


def _plain(texts: pd.Series) -> list[str | None]:
    return [text if isinstance(text, str) else None for text in texts.array]


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
        frame, lines, file = read_file(path, source)
        table = Table(path, frame, Integers(lines), (file,))
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
