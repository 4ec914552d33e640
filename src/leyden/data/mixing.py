"""Several tables as one, and in chosen shares: which rows of each are used, drawn by a hash."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import replace
from fractions import Fraction
from math import floor

import numpy as np
import pandas as pd
import pyarrow as pa

from leyden.data.integers import Integers
from leyden.data.readers import TEXT_TYPES
from leyden.data.splits import draw_key
from leyden.data.table import Note, Table, read_table
from leyden.settings.errors import ConfigError, DataError, LeydenError
from leyden.settings.locations import mixing_faults, table_path


def read_tables(names: Sequence[str], setting: str = "dataset.train_dataframe") -> Table:
    """Read several tables as one; a single one is read as `read_table` does.

    The columns are those of all tables, in order of first appearance; where a table lacks one its cells are missing
    there, with a note. Each row knows its file, and ids count for each file apart.

    Args:
        names: paths, `embedded:NAME` or `hub:owner/name`.
        setting: the setting that holds them, for messages.

    Raises:
        ConfigError: no name, one name twice, or the fault of a name.
        DataError: the faults of all files.
    """
    if faults := mixing_faults(names, None, setting, ""):
        raise ConfigError(faults)
    tables: list[Table] = []
    errors: list[LeydenError] = []
    for name in names:
        try:
            tables.append(read_table(table_path(name), setting))
        except (ConfigError, DataError) as error:
            errors.append(error)
    if errors:
        kind = ConfigError if all(isinstance(error, ConfigError) for error in errors) else DataError
        raise kind([fault for error in errors for fault in error.faults])
    return tables[0] if len(tables) == 1 else _united(tables)


def _united(tables: Sequence[Table]) -> Table:
    columns = list(dict.fromkeys(name for table in tables for name in table.frame.columns))
    notes = [note for table in tables for note in table.notes]
    for table in tables:
        lacking = [name for name in columns if name not in table.frame.columns]
        if lacking:
            notes.append(f"{table.path} has no column {', '.join(map(repr, lacking))}; these cells are empty.")
    files = [0]
    for table in tables:
        files.append(files[-1] + len(table.files))
    return Table(
        tables[0].path.parent / f"{tables[0].path.name} and {len(tables) - 1} more",
        pd.DataFrame({name: _stacked(tables, name) for name in columns}, copy=False),
        Integers(np.concatenate([np.asarray(table.lines) for table in tables])),
        tuple(replace(file, source=number) for number, table in enumerate(tables) for file in table.files),
        Integers(
            np.concatenate([np.asarray(table.origin) + first for first, table in zip(files, tables, strict=False)])
        ),
        tuple(notes),
    )


def _stacked(tables: Sequence[Table], name: str) -> pd.Series:
    """A column of all tables; None where one lacks it."""
    parts = [table.frame[name] if name in table.frame.columns else None for table in tables]
    if all(part is None or part.dtype in TEXT_TYPES.values() for part in parts):
        arrays = [pa.nulls(len(table), pa.large_string()) if part is None else table.texts(name).array
                  for table, part in zip(tables, parts, strict=True)]  # fmt: skip
        return pd.Series(pd.arrays.ArrowExtensionArray(pa.chunked_array(arrays)))
    cells = [
        cell
        for table, part in zip(tables, parts, strict=True)
        for cell in ([None] * len(table) if part is None else table.values(name))
    ]
    return pd.Series(cells, dtype=object)


def mixed(  # noqa: PLR0913
    table: Table,
    names: Sequence[str],
    ratios: Sequence[float],
    rows: Sequence[int],
    conversation_of_row: Sequence[int],
    *,
    seed: int,
) -> tuple[list[int], list[str]]:
    """Keep of each table its share, as many rows in all as can be had without using one twice.

    With shares r that sum to 1 and n conversations in each table, N = min n / r over the tables, and each table gives
    N r conversations, rounded, halves up. Conversations are kept whole; a row that stands alone is one. Which ones are
    kept depends on nothing but the seed and their place in their own table, and a larger number keeps what a smaller
    one has chosen.

    Args:
        table: from `read_tables`.
        names: of the tables, as they were read.
        ratios: one for each table, in their order; only their relation counts. A table with 0 is not used.
        rows: the rows to choose from, such as those that train.
        conversation_of_row: for each row of the table the number of its conversation.
        seed: of the draw (`dataset.split_seed`).

    Returns:
        The rows kept, in the order given, and a note on how many of each table they are.

    Raises:
        ConfigError: too few or too many ratios, a negative one, or all zero.
        DataError: a table with a ratio above zero would give nothing.
    """
    if faults := mixing_faults(names, ratios, "dataset.train_dataframe", "dataset.train_ratios"):
        raise ConfigError(faults)
    first: dict[int, int] = {}  # row in which a conversation starts
    start: dict[int, int] = {}  # row in which a table starts
    for row, conversation in enumerate(conversation_of_row):
        first.setdefault(conversation, row)
        start.setdefault(table.source(row), row)
    units: list[dict[int, int]] = [{} for _ in names]  # of each table its conversations, by their place in it
    for conversation in dict.fromkeys(conversation_of_row[row] for row in rows):
        source = table.source(first[conversation])
        units[source][first[conversation] - start[source]] = conversation
    counts = _counts([len(unit) for unit in units], ratios)
    _refuse_empty(names, ratios, units, counts)
    kept = {
        unit[place]
        for unit, count in zip(units, counts, strict=True)
        for place in sorted(unit, key=lambda place: draw_key("mix", seed, place))[:count]
    }
    what = "rows" if len(first) == len(conversation_of_row) else "conversations"
    parts = ", ".join(f"{name} {count} of {len(unit)}" for name, count, unit in zip(names, counts, units, strict=True))
    note = Note(f"dataset.train_ratios={list(ratios)} uses {sum(counts)} {what}: {parts}.")
    return [row for row in rows if conversation_of_row[row] in kept], [note]


def _counts(sizes: Sequence[int], ratios: Sequence[float]) -> list[int]:
    exact = [Fraction(repr(ratio)) for ratio in ratios]  # as written: in binary 0.1 is not a tenth
    whole = min(size / ratio for size, ratio in zip(sizes, exact, strict=True) if ratio)
    return [floor(whole * ratio + Fraction(1, 2)) for ratio in exact]


def _refuse_empty(names: Sequence[str], ratios: Sequence[float], units: Sequence[Sized], counts: Sequence[int]) -> None:
    faults = [
        f"dataset.train_ratios={list(ratios)}: {name} has {len(unit)} rows or conversations to choose from, and its "
        "share would be none. Raise its ratio, or set it to 0."
        for name, ratio, unit, count in zip(names, ratios, units, counts, strict=True)
        if ratio and not count
    ]
    if faults:
        raise DataError(faults)
