"""The bytes of a csv, Parquet or json lines file become rows that know where they stand; nothing is guessed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from leyden.settings.errors import ConfigError, DataError

SHOWN = 5
Kind = Literal["csv", "json lines", "parquet", "text", "hub"]
Rows = tuple[pd.DataFrame, list[int]]
BELIEVED_HEADER = 100_000  # characters of a csv file in which its first line is sought
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True)
class File:
    """What a row was read from.

    Attributes:
        path: as the user gave it, for messages.
        kind: how it was read.
        sha256: of its bytes at that moment; of a hub dataset, of its rows.
        source: number of the table that it belongs to, where several are read as one.
    """

    path: Path
    kind: Kind
    sha256: str
    source: int = 0


def listed(unit: str, numbers: Sequence[object]) -> str:
    """`line 3`, or `lines 3, 7, 9, 12, 15 and 4 more`."""
    names = f"{unit}{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:SHOWN]))}"
    return names if len(numbers) <= SHOWN else f"{names} and {len(numbers) - SHOWN} more"


def content_of(path: Path, source: str) -> bytes:
    """The bytes of a file.

    Args:
        path: with `~` for the home folder.
        source: `setting=path`, for messages.

    Raises:
        ConfigError: there is no such file.
        DataError: it cannot be read.
    """
    try:
        return Path(os.path.expanduser(path)).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ConfigError(f"{source}: {error.strerror} (seen from {Path.cwd()}). Give the path of a file.") from None
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror}. Check the file and its permissions.") from None
    except ValueError as error:  # a NUL in the name
        raise ConfigError(f"{source}: {error}. Give the path of a file.") from None


def decoded(content: bytes, source: str) -> str:
    """UTF-8 text without a byte order mark.

    Raises:
        DataError: names the first byte that is none.
    """
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        where = f"byte 0x{content[error.start]:02x} at offset {error.start}, line {line}"
        raise DataError(f"{source} is not UTF-8 ({where}). Save the file as UTF-8.") from None


def sha256_of(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _name_faults(names: Sequence[str], where: str) -> list[str]:
    faults = []
    empty = [place for place, name in enumerate(names, start=1) if not name.strip()]
    twice = [name for name, count in Counter(names).items() if count > 1 and name.strip()]
    if empty:
        faults.append(f"{where}: {listed('column', empty)} without a name. Name it; pandas: to_csv(index=False).")
    if twice:
        faults.append(
            f"{where}: column name {', '.join(map(repr, twice))} stands twice. Give each column its own name."
        )
    return faults


def _csv(content: bytes, source: str) -> Rows:
    text = decoded(content, source)
    _refuse_other_separators(text, source)
    records = list(_csv_records(text, source))
    if not records:
        raise DataError(f"{source} is empty. Its first line must name the columns.")
    (top, header), *rows = records
    faults = _name_faults(header, f"{source}, line {top}")
    ragged = {line: len(row) for line, row in rows if len(row) != len(header)}
    if ragged:
        counts = f"{listed('line', list(ragged))}: {', '.join(map(str, list(ragged.values())[:SHOWN]))} cells"
        cure = "Put double quotes around cells that hold a comma, a quote or a line break."
        faults.append(f"{source}: the header names {len(header)} columns, but {counts}. {cure}")
    if faults:
        raise DataError(faults)
    columns = {name: [row[place] or None for _, row in rows] for place, name in enumerate(header)}
    return pd.DataFrame(columns, dtype=object), [line for line, _ in rows]


def _refuse_other_separators(text: str, source: str) -> None:
    """Refuse a header of one cell that is several by another separator, before its quotes look broken."""
    top = re.match(r'(?:"[^"]*"|[^"\r\n])*', text[:BELIEVED_HEADER].lstrip("\r\n"))
    bare = re.sub(r'"[^"]*"', "", top.group() if top else "")
    found = [separator for separator in SEPARATORS if separator in bare]
    if found and "," not in bare:
        used = max(found, key=bare.count)
        raise DataError(
            f"{source}: the header holds no comma but {SEPARATORS[used]}, so the whole line would be one column. "
            f"Separate cells by commas; pandas: read_csv(FILE, sep={used!r}).to_csv(FILE, index=False)."
        )


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


def _parquet(content: bytes, source: str) -> Rows:
    try:
        table = pq.ParquetFile(pa.BufferReader(content)).read()
        table.validate(full=True)  # text that is not UTF-8 shows here, not when it is used
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a column name that is not UTF-8
        why = str(error).splitlines()[0][:100]
        raise DataError(f"{source} is truncated or not a Parquet file ({why}). Write or download it again.") from None
    return arrow_rows(table, source)


def arrow_rows(table: pa.Table, source: str) -> Rows:
    """The rows of an Arrow table, numbered from 1, with the types that they have there.

    Raises:
        DataError: a column without a name, two of one name, or a type that has no place in a data frame.
    """
    if faults := _name_faults(table.column_names, source):
        raise DataError(faults)
    try:
        # without these two, a stored index vanishes from the columns, and whole numbers beside a null become 1.0
        frame = table.to_pandas(ignore_metadata=True, integer_object_nulls=True)
    except (pa.ArrowException, ValueError) as error:
        why = str(error).splitlines()[0][:100]
        raise DataError(f"{source} has a column that cannot be read ({why}). Write it as text or numbers.") from None
    return frame, list(range(1, len(frame) + 1))


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


def _json_lines(content: bytes, source: str) -> Rows:
    rows: dict[int, dict[str, Any]] = {}
    faults = []
    # not splitlines(): U+2028 and the like may stand inside a json text
    for number, line in enumerate(io.StringIO(decoded(content, source), newline=None), start=1):
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


READERS: dict[str, tuple[Kind, Callable[[bytes, str], Rows]]]
READERS = {
    ".csv": ("csv", _csv),
    ".parquet": ("parquet", _parquet),
    ".pq": ("parquet", _parquet),
    ".jsonl": ("json lines", _json_lines),
    ".ndjson": ("json lines", _json_lines),
}
