"""Files that tables are read from: their names in messages, their bytes, their hashes."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leyden.settings.errors import ConfigError, DataError

SHOWN = 5
Kind = Literal["csv", "json lines", "parquet", "text", "hub"]
Rows = tuple[pd.DataFrame, NDArray[np.int64]]


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


@contextmanager
def opened(path: Path, source: str) -> Iterator[BufferedReader]:
    """A file to read; whatever the system says while it is read is reported as its fault.

    Args:
        path: with `~` for the home folder.
        source: `setting=path`, for messages.

    Raises:
        ConfigError: there is no such file.
        DataError: it cannot be read.
    """
    try:
        with Path(os.path.expanduser(path)).open("rb") as file:
            yield file
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ConfigError(f"{source}: {error.strerror} (seen from {Path.cwd()}). Give the path of a file.") from None
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror}. Check the file and its permissions.") from None
    except ValueError as error:  # a NUL in the name
        raise ConfigError(f"{source}: {error}. Give the path of a file.") from None


def content_of(path: Path, source: str) -> bytes:
    """The bytes of a file; errors as of `opened`."""
    with opened(path, source) as file:
        return file.read()


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


def name_faults(names: Sequence[str], where: str) -> list[str]:
    """What is wrong with the names of columns: empty ones, and those that stand twice."""
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
