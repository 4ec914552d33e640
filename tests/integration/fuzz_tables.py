"""Any table, as a strategy of hypothesis: mostly a good one, with odd cells, wrong names or a damaged byte."""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

Cells = list[Any]
Draw = Callable[..., Any]
NAMES = ["p", "", " ", "é", "loss", "prediction", "target", "p\n", "a,b", "table_loss", "probability_x", "x" * 300]
WORDS = [
    "a",
    "b",
    "yes",
    "no",
    "hello there",
    "1",
    "0",
    "2",
    "0.5",
    "-3",
    "1e3",
    "True",
    "false",
    "日本語",
    "🙂 ok",
    "é\u0301",
]
ODD = [
    None, "", " ", "\n", "\x00", "\u2028", "\ufeff", "\r\n", "'", '"', "a,b", "None", "nan", "NA", "inf", "-inf",
    "1e999", "x" * 3000, "é" * 700, "word " * 400, "<|endoftext|>", "<s>", "</s>", "<pad>", "<|prompt|>", "<|answer|>",
    "{{ x }}", "<script>", "\u202e", "\U0010ffff", "[]", "{}", "[1, 2]", '[{"role": "user", "content": "q"}]',
    "Open Assistant",
    0, 1, -1, 1e-3, 1e-39, 5e-324, 1e38, 2**31, 2**63, 10**400, True, False, 0.1, 1e30, 1e39, 1e300, -0.0,
    math.nan, math.inf, 3.0,
    [], ["a"], [1.5], {}, {"a": 1}, [["a"]], [None], "2020-01-01", "１", "٣", "1_000", " 1 ", "0x1", "+1",
]  # fmt: skip
STORED_ONLY = [
    b"\xff", dt.date(2020, 1, 1), dt.datetime(2020, 1, 1, 12), dt.datetime(1, 1, 1), dt.time(1, 2), dt.timedelta(1),
    decimal.Decimal("1.50"), decimal.Decimal("NaN"),
]  # fmt: skip
ROLES = ["user", "assistant", "system", "human", "gpt", "tool", "robot", ""]


@dataclass(frozen=True)
class File:
    """A table as it will be written; csv and json lines may say a name twice.

    Attributes:
        kind: ending of the file.
        names: of the columns, as they stand in the file.
        columns: the cells of each.
        damage: a byte that is overwritten, and by what.
    """

    kind: str
    names: Sequence[str]
    columns: Sequence[Cells]
    damage: int | None = None

    def write(self, folder: Path, name: str) -> str:
        """The path of the file."""
        path = folder / f"{name}.{self.kind}"
        WRITERS[self.kind](path, self.names, self.columns)
        if self.damage is not None:
            content = path.read_bytes()
            place = self.damage % len(content)
            path.write_bytes(content[:place] + bytes([self.damage % 256]) + content[place + 1 :])
        return str(path)


def _write_csv(path: Path, names: Sequence[str], columns: Sequence[Cells]) -> None:
    def text(cell: Any) -> str:
        if isinstance(cell, list | dict):
            return json.dumps(cell)
        return "" if cell is None else str(cell) if not isinstance(cell, int) else f"{cell:d}"

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([[text(cell) for cell in row] for row in zip(*columns, strict=True)])


def _write_jsonl(path: Path, names: Sequence[str], columns: Sequence[Cells]) -> None:
    def line(row: Sequence[Any]) -> str:
        cells = [(name, cell) for name, cell in zip(names, row, strict=True)]
        return "{" + ", ".join(f"{json.dumps(name)}: {json.dumps(cell, default=str)}" for name, cell in cells) + "}\n"

    path.write_text("".join(line(row) for row in zip(*columns, strict=True)), encoding="utf-8")


def _write_parquet(path: Path, names: Sequence[str], columns: Sequence[Cells]) -> None:
    def array(cells: Cells) -> pa.Array:
        try:
            return pa.array(cells)
        except (pa.ArrowException, OverflowError, ValueError):
            return pa.array([None if cell is None else str(cell) for cell in cells])

    pq.write_table(pa.Table.from_arrays([array(cells) for cells in columns], names=list(names)), path)


WRITERS: dict[str, Callable[[Path, Sequence[str], Sequence[Cells]], None]]
WRITERS = {"csv": _write_csv, "jsonl": _write_jsonl, "parquet": _write_parquet}

TEXT = st.sampled_from(WORDS) | st.sampled_from(WORDS) | st.text(min_size=1, max_size=9)
MESSAGE = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": TEXT | st.sampled_from([None, "", 1, ["a"]])}),
    st.fixed_dictionaries({"from": st.sampled_from(ROLES), "value": TEXT}),
    st.sampled_from([{}, None, "text", {"role": "user"}, {"role": "user", "content": "q", "weight": 0}]),
)


@st.composite
def _conversation(draw: Draw) -> Any:
    """Mostly a good one: it may start with a system text, and turns take turns."""
    if not draw(st.integers(0, 7)):
        return draw(st.lists(MESSAGE, max_size=4))
    turns = draw(st.integers(1, 3))
    system = [{"role": "system", "content": draw(TEXT)}] if draw(st.booleans()) else []
    return system + [
        {"role": role, "content": draw(TEXT)} for _ in range(turns) for role in ("user", "assistant")
    ]  # fmt: skip


@st.composite
def files(draw: Draw, *, renames: bool = False) -> File:
    """A table with columns of every kind; a cell may be odd, a name wrong, double or empty."""
    kind = draw(st.sampled_from(["csv", "jsonl", "parquet"]))
    rows = draw(st.sampled_from([4, 5, 6, 6, 9, 2, 3, 8, 7, 1]))
    odd = [*ODD, *(STORED_ONLY if kind == "parquet" else [])]
    good = {
        "p": TEXT, "q": TEXT, "s": st.sampled_from(["", "be kind", "system"]), "a": TEXT, "r": TEXT,
        "y": st.sampled_from([0, 1]), "z": st.sampled_from([0, 1]), "c": st.sampled_from(["x", "y", "é"]),
        "k": st.integers(0, 3), "n": st.floats(-100, 100) | st.integers(-5, 5),
        "w": st.sampled_from([1, 0, 0.5, 2, 1, 1, 1e-3]),
        "m": _conversation(), "chosen": _conversation(), "d": st.dates(dt.date(1900, 1, 1)),
    }  # fmt: skip
    columns = {name: draw(st.lists(cells, min_size=rows, max_size=rows)) for name, cells in good.items()}
    for _ in range(draw(st.sampled_from([0, 0, 1, 2, 4]))):
        columns[draw(st.sampled_from(list(good)))][draw(st.integers(0, rows - 1))] = draw(st.sampled_from(odd))
    columns["d"] = [cell if kind == "parquet" else str(cell) for cell in columns["d"]]
    columns["rejected"] = [
        [*cell[:-1], {"role": "assistant", "content": "worse"}] if isinstance(cell, list) and cell else cell
        for cell in columns["chosen"]
    ]
    columns["id"] = list(range(rows))
    columns["parent"] = [draw(st.sampled_from([None, *range(row)])) for row in range(rows)]
    if not draw(st.integers(0, 5)):
        name = draw(st.sampled_from(["id", "parent"]))
        columns[name][draw(st.integers(0, rows - 1))] = draw(st.sampled_from([*range(rows), *odd]))
    names = list(columns)
    if not draw(st.integers(0, 15)):
        names[draw(st.integers(0, len(names) - 1))] = draw(st.sampled_from(NAMES))
    if renames:  # what is not found by its cells is found by its name
        kept = draw(st.lists(st.sampled_from(list(columns)), min_size=2, max_size=5, unique=True))
        found = dict(zip(kept, draw(st.permutations(["prompt", "answer", "text", "label", "messages"])), strict=False))
        columns = {name: columns[name] for name in kept}
        names = [found[name] if draw(st.booleans()) else name for name in kept]
    damage = draw(st.integers(1, 5000)) if not draw(st.integers(0, 30)) else None
    return File(kind, names, list(columns.values()), damage)
