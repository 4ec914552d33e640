"""Tables: csv, Parquet and json lines files become one kind of object that remembers where each row stands."""

from __future__ import annotations

import csv
import difflib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from leyden.settings.errors import ConfigError, DataError

SHOWN = 5
NESTED = (list, dict, tuple, set, bytes, np.ndarray)


@dataclass(frozen=True)
class Table:
    """The rows of one file, in file order; `len` counts them.

    Args:
        path: the file as the user gave it, for messages.
        frame: csv: `str` or None; json lines: Python values or None; Parquet: the types of the file.
        lines: for each row, from 1, the line on which it starts (csv, json lines) or its number (Parquet).
    """

    path: Path
    frame: pd.DataFrame
    lines: Sequence[int]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.frame)

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
        as_text = _json_text if READERS.get(self.path.suffix.lower()) is _json_lines else str
        return [None if cell is None else as_text(cell) for cell in self.cells(column)]

    def places(self, rows: Sequence[int]) -> str:
        """Where rows stand in the file, for messages: `line 3`, or `lines 3, 7, 9, 12, 15 and 4 more`."""
        unit = "row" if READERS.get(self.path.suffix.lower()) is _parquet else "line"
        return _listed(unit, [self.lines[row] for row in rows])


def read_table(path: str | Path, setting: str = "dataset.train_dataframe") -> Table:
    """Read a table; nothing is written beside it.

    csv: UTF-8 with or without byte order mark, commas, quotes doubled, any line ending, a header; blank lines are
    skipped. json lines: a key that a line lacks is missing there. Parquet: a stored index is a column.

    Args:
        path: `.csv`, `.parquet`, `.pq`, `.jsonl` or `.ndjson`, in any letter case.
        setting: the setting that holds the path, for messages.

    Raises:
        ConfigError: another ending, no such file, or a folder.
        DataError: the file cannot be read, is damaged, or has no rows.
    """
    path, source = Path(path), f"{setting}={path}"
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"{source} must end in one of {', '.join(READERS)} (any letter case). Convert the file.")
    frame, lines = reader(_content(path, source), source)
    if not lines:
        raise DataError(f"{source} has no rows. Give a table with at least one row.")
    return Table(path, frame, lines)


def absent_columns(table: Table, wanted: Mapping[str, str | Sequence[str] | None]) -> list[tuple[str, str]]:
    """The (setting, column) pairs whose column the table lacks; a setting may name one column, several, or None."""
    names = {key: [value] if isinstance(value, str) else value or [] for key, value in wanted.items()}
    return [(key, name) for key, listed in names.items() for name in listed if name not in table.frame.columns]


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


def _listed(unit: str, numbers: Sequence[int]) -> str:
    names = f"{unit}{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:SHOWN]))}"
    return names if len(numbers) <= SHOWN else f"{names} and {len(numbers) - SHOWN} more"


def _content(path: Path, source: str) -> bytes:
    try:
        return Path(os.path.expanduser(path)).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ConfigError(f"{source}: {error.strerror} (seen from {Path.cwd()}). Give the path of a file.") from None
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror}. Check the file and its permissions.") from None


def _decoded(content: bytes, source: str) -> str:
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        where = f"byte 0x{content[error.start]:02x} at offset {error.start}, line {line}"
        raise DataError(f"{source} is not UTF-8 ({where}). Save the file as UTF-8.") from None


def _name_faults(names: Sequence[str], where: str) -> list[str]:
    faults = []
    empty = [place for place, name in enumerate(names, start=1) if not name.strip()]
    twice = [name for name, count in Counter(names).items() if count > 1 and name.strip()]
    if empty:
        faults.append(f"{where}: {_listed('column', empty)} without a name. Name it; pandas: to_csv(index=False).")
    if twice:
        faults.append(
            f"{where}: column name {', '.join(map(repr, twice))} stands twice. Give each column its own name."
        )
    return faults


def _csv(content: bytes, source: str) -> tuple[pd.DataFrame, list[int]]:
    records = list(_csv_records(_decoded(content, source), source))
    if not records:
        raise DataError(f"{source} is empty. Its first line must name the columns.")
    (top, header), *rows = records
    faults = _name_faults(header, f"{source}, line {top}")
    ragged = {line: len(row) for line, row in rows if len(row) != len(header)}
    if ragged:
        counts = f"{_listed('line', list(ragged))}: {', '.join(map(str, list(ragged.values())[:SHOWN]))} cells"
        cure = "Put double quotes around cells that hold a comma, a quote or a line break."
        faults.append(f"{source}: the header names {len(header)} columns, but {counts}. {cure}")
    if faults:
        raise DataError(faults)
    columns = {name: [row[place] or None for _, row in rows] for place, name in enumerate(header)}
    return pd.DataFrame(columns, dtype=object), [line for line, _ in rows]


def _csv_records(text: str, source: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    limit = csv.field_size_limit(2**31 - 1)  # global to the process, so it is put back
    start = 1
    try:
        for record in reader:
            if record:
                yield start, record
            start = reader.line_num + 1
    except csv.Error as error:
        reason = "a quote opened here is never closed" if "unexpected end" in str(error) else f"broken quoting, {error}"
        raise DataError(f"{source}, line {start}: {reason}. Double the quotes inside quoted cells.") from None
    finally:
        csv.field_size_limit(limit)


def _parquet(content: bytes, source: str) -> tuple[pd.DataFrame, list[int]]:
    try:
        table = pq.ParquetFile(pa.BufferReader(content)).read()
    except (pa.ArrowException, OSError) as error:
        why = str(error).splitlines()[0][:100]
        raise DataError(f"{source} is truncated or not a Parquet file ({why}). Write or download it again.") from None
    if faults := _name_faults(table.column_names, source):
        raise DataError(faults)
    # without these two, a stored index vanishes from the columns, and whole numbers beside a null become 1.0
    frame = table.to_pandas(ignore_metadata=True, integer_object_nulls=True)
    return frame, list(range(1, len(frame) + 1))


class _JsonFloat(float):
    """A number that remembers how it is written in the file, such as 1e3 or 0.10."""

    __slots__ = ("written",)

    def __init__(self, written: str) -> None:
        self.written = written


def _json_text(cell: object) -> str:
    return cell.written if isinstance(cell, _JsonFloat) else str(cell).lower() if isinstance(cell, bool) else str(cell)


def _json_object(line: str) -> dict[str, Any]:
    cells = json.loads(line, parse_float=_JsonFloat)
    if not isinstance(cells, dict):
        raise ValueError(f"this is no object but {type(cells).__name__}")
    if "\\u" in line:
        json.dumps(cells, ensure_ascii=False).encode()  # half of a surrogate pair fails here, not in the tokenizer
    return cells


def _json_lines(content: bytes, source: str) -> tuple[pd.DataFrame, list[int]]:
    rows: dict[int, dict[str, Any]] = {}
    faults = []
    # not splitlines(): U+2028 and the like may stand inside a json text
    for number, line in enumerate(io.StringIO(_decoded(content, source), newline=None), start=1):
        try:
            if line.strip():
                rows[number] = _json_object(line)
        except (ValueError, RecursionError) as error:
            faults.append(f"{source}, line {number}: {error}. Each line must be one whole json object.")
    if faults:
        more = [f"{source}: {len(faults) - SHOWN} more lines are broken."] if len(faults) > SHOWN else []
        raise DataError(faults[:SHOWN] + more)
    names = dict.fromkeys(name for cells in rows.values() for name in cells)
    columns = {name: pd.Series([cells.get(name) for cells in rows.values()], dtype=object) for name in names}
    return pd.DataFrame(columns, index=range(len(rows))), list(rows)


Reader = Callable[[bytes, str], tuple[pd.DataFrame, list[int]]]
READERS: dict[str, Reader]
READERS = {".csv": _csv, ".parquet": _parquet, ".pq": _parquet, ".jsonl": _json_lines, ".ndjson": _json_lines}
