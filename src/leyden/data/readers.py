"""Csv, Parquet and json lines files become rows that know where they stand; nothing is guessed."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import mmap
import os
from collections import Counter
from collections.abc import Callable, Mapping
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from leyden.data.csv_files import BLOCK, read_csv, text_column
from leyden.data.files import SHOWN, File, Kind, Rows, decoded, name_faults, opened
from leyden.settings.errors import DataError

LARGE = 50 * 10**6  # bytes of a file that takes seconds to read

log = logging.getLogger(__name__)


def read_file(path: Path, source: str) -> tuple[*Rows, File]:
    """The rows of a file, numbered as `READERS` says for its ending, and what it was.

    Args:
        path: with an ending of `READERS`, in any letter case.
        source: `setting=path`, for messages.

    Raises:
        ConfigError: there is no such file.
        DataError: it cannot be read or is damaged.
    """
    kind, reader = READERS[path.suffix.lower()]
    with opened(path, source) as file:
        size, written = os.fstat(file.fileno()).st_size, os.fstat(file.fileno()).st_mtime_ns
        if size >= LARGE:
            log.info("Reading %s, %s MB.", path, f"{size / 1e6:,.0f}")
        sha256 = hash_of(file)
        frame, lines = reader(file, source)
        if os.fstat(file.fileno()).st_mtime_ns != written:
            raise DataError(f"{source} was written while it was read. Start again when it is complete.")
    return frame, lines, File(path, kind, sha256)


def hash_of(file: BufferedReader) -> str:
    """SHA-256 of a file's bytes; it is read from its start afterwards."""
    found = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    return found


def _parquet(file: BufferedReader, source: str) -> Rows:
    try:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.read(1) else b""
        table = pq.ParquetFile(pa.BufferReader(pa.py_buffer(content))).read()
        table.validate(full=True)  # text that is not UTF-8 shows here, not when it is used
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a column name that is not UTF-8
        why = str(error).splitlines()[0][:100]
        raise DataError(f"{source} is truncated or not a Parquet file ({why}). Write or download it again.") from None
    return arrow_rows(table, source)


def arrow_rows(table: pa.Table, source: str) -> Rows:
    """The rows of an Arrow table, numbered from 1, with the types that they have there; texts stay in Arrow's memory.

    Raises:
        DataError: a column without a name, two of one name, or a type that has no place in a data frame.
    """
    if faults := name_faults(table.column_names, source):
        raise DataError(faults)
    for place, name in enumerate(table.column_names):
        if table.schema.types[place] in (pa.string(), pa.large_string()):
            table = table.set_column(place, name, table.column(place).cast(pa.large_string()).combine_chunks())
    try:
        # without these two, a stored index vanishes from the columns, and whole numbers beside a null become 1.0
        frame = table.to_pandas(ignore_metadata=True, integer_object_nulls=True, types_mapper=TEXT_TYPES.get)
    except (pa.ArrowException, ValueError) as error:
        why = str(error).splitlines()[0][:100]
        raise DataError(f"{source} has a column that cannot be read ({why}). Write it as text or numbers.") from None
    return frame, np.arange(1, len(frame) + 1)


TEXT_TYPES = {pa.large_string(): pd.ArrowDtype(pa.large_string())}


class JsonFloat(float):
    """A number that remembers how it is written in the file, such as 1e3 or 0.10."""

    __slots__ = ("written",)

    def __init__(self, written: str) -> None:
        self.written = written


def json_text(cell: object) -> str:
    """A json value that is no list and no object, the way it is written in the file."""
    return cell.written if isinstance(cell, JsonFloat) else str(cell).lower() if isinstance(cell, bool) else str(cell)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    cells = dict(pairs)
    if len(cells) < len(pairs):
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        raise ValueError(f"the key {', '.join(map(repr, twice))} stands twice")
    return cells


def _json_object(line: str) -> dict[str, Any]:
    cells = json.loads(line, parse_float=JsonFloat, object_pairs_hook=_distinct)
    if not isinstance(cells, dict):
        raise ValueError(f"this is no object but {type(cells).__name__}")
    if "\\u" in line:
        json.dumps(cells, ensure_ascii=False).encode()  # half of a surrogate pair fails here, not in the tokenizer
    return cells


def _json_lines(file: BufferedReader, source: str) -> Rows:
    text = io.TextIOWrapper(file, encoding="utf-8", newline=None)  # not splitlines(): U+2028 may stand inside a text
    lines: list[int] = []
    columns: dict[str, list[pa.Array | list[Any]]] = {}
    faults: list[str] = []
    try:
        numbered = enumerate(text, start=1)
        while block := list(islice(numbered, BLOCK)):
            rows = _objects(block, source, faults)
            for name in {name: None for cells in rows.values() for name in cells}:
                columns.setdefault(name, [[None] * len(lines)])
            for name, blocks in columns.items():
                blocks.append(_block([cells.get(name) for cells in rows.values()]))
            lines += rows
    except UnicodeDecodeError:
        file.seek(0)
        decoded(file.read(), source)
        raise
    finally:
        text.detach()
    if faults:
        more = [f"{source}: {len(faults) - SHOWN} more lines are broken."] if len(faults) > SHOWN else []
        raise DataError(faults[:SHOWN] + more)
    frame = pd.DataFrame({name: _column(blocks) for name, blocks in columns.items()}, index=range(len(lines)))
    return frame, np.asarray(lines, dtype=np.int64)


def _objects(lines: list[tuple[int, str]], source: str, faults: list[str]) -> Mapping[int, dict[str, Any]]:
    """The objects of lines that are not blank, by number; what is wrong with the others goes to the faults."""
    rows = {}
    for number, line in lines:
        bare = line.removeprefix("\ufeff") if number == 1 else line
        try:
            if bare.strip():
                rows[number] = _json_object(bare)
        except (ValueError, RecursionError) as error:
            faults.append(f"{source}, line {number}: {error}. Each line must be one whole json object.")
    return rows


def _block(cells: list[Any]) -> pa.Array | list[Any]:
    """Cells of a column; texts alone go into Arrow's memory."""
    texts = all(cell is None or type(cell) is str for cell in cells)
    return pa.array(cells, pa.large_string()) if texts else cells


def _column(blocks: list[pa.Array | list[Any]]) -> pd.Series:
    arrays = [_block(block) if isinstance(block, list) else block for block in blocks]
    if all(isinstance(array, pa.Array) for array in arrays):
        return pd.Series(text_column(arrays))
    cells = [cell for array in arrays for cell in (array.to_pylist() if isinstance(array, pa.Array) else array)]
    return pd.Series(cells, dtype=object)


READERS: dict[str, tuple[Kind, Callable[[BufferedReader, str], Rows]]]
READERS = {
    ".csv": ("csv", read_csv),
    ".parquet": ("parquet", _parquet),
    ".pq": ("parquet", _parquet),
    ".jsonl": ("json lines", _json_lines),
    ".ndjson": ("json lines", _json_lines),
}
