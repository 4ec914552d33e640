"""Csv files, read a block of rows at a time: what is held of them is the cells, once."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from io import BufferedReader
from itertools import islice
from typing import TextIO

import numpy as np
import pandas as pd
import pyarrow as pa

from leyden.data.files import SHOWN, Rows, decoded, listed, name_faults
from leyden.settings.errors import DataError

BELIEVED_HEADER = 100_000  # characters of a csv file in which its first line is sought
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
BLOCK = 10_000  # rows that are Python objects at a time


def read_csv(file: BufferedReader, source: str) -> Rows:
    """The rows of a csv file, each with the line on which it starts; an empty cell is missing.

    Raises:
        DataError: it is not UTF-8, broken, or its rows are not as long as its header.
    """
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    try:
        mark = text.read(1) == "\ufeff"
        _refuse_other_separators(text.read(BELIEVED_HEADER) if mark else _again(text).read(BELIEVED_HEADER), source)
        _again(text)
        if mark:
            text.read(1)
        return _rows(text, source)
    except (UnicodeDecodeError, DataError):
        file.seek(0)
        decoded(file.read(), source)  # bytes that are no text are the first fault to mend
        raise
    finally:
        text.detach()


def _again(text: TextIO) -> TextIO:
    text.seek(0)
    return text


def _rows(text: TextIO, source: str) -> Rows:
    records = _records(text, source)
    top, header = next(records, (0, []))
    if not header:
        raise DataError(f"{source} is empty. Its first line must name the columns.")
    faults = name_faults(header, f"{source}, line {top}")
    ragged: dict[int, int] = {}
    lines: list[int] = []
    columns: list[list[pa.Array]] = [[] for _ in header]
    while block := list(islice(records, BLOCK)):
        lines += [line for line, _ in block]
        ragged |= {line: len(row) for line, row in block if len(row) != len(header)}
        for column, cells in zip(columns, zip(*(row for _, row in block), strict=False), strict=False):
            column.append(pa.array([cell or None for cell in cells], pa.large_string()))
    if ragged:
        counts = f"{listed('line', list(ragged))}: {', '.join(map(str, list(ragged.values())[:SHOWN]))} cells"
        cure = "Put double quotes around cells that hold a comma, a quote or a line break."
        faults.append(f"{source}: the header names {len(header)} columns, but {counts}. {cure}")
    if faults:
        raise DataError(faults)
    arrays = [text_column(columns.pop(0)) for _ in header]
    frame = pd.DataFrame(dict(zip(header, arrays, strict=True)), copy=False)
    return frame, np.asarray(lines, dtype=np.int64)


def text_column(blocks: Sequence[pa.Array]) -> pd.arrays.ArrowExtensionArray:
    """Texts in one piece, as a column of a frame; in several, each copy of the frame would join them anew."""
    whole = pa.chunked_array(blocks, pa.large_string()).combine_chunks()
    return pd.arrays.ArrowExtensionArray(pa.chunked_array([whole], pa.large_string()))


def _refuse_other_separators(head: str, source: str) -> None:
    """Refuse a header of one cell that is several by another separator, before its quotes look broken."""
    top = re.match(r'(?:"[^"]*"|[^"\r\n])*', head.lstrip("\r\n"))
    bare = re.sub(r'"[^"]*"', "", top.group() if top else "")
    found = [separator for separator in SEPARATORS if separator in bare]
    if found and "," not in bare:
        used = max(found, key=bare.count)
        raise DataError(
            f"{source}: the header holds no comma but {SEPARATORS[used]}, so the whole line would be one column. "
            f"Separate cells by commas; pandas: read_csv(FILE, sep={used!r}).to_csv(FILE, index=False)."
        )


def _records(text: TextIO, source: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(text, strict=True)
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
