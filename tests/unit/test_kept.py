"""Objects in a cache folder that others may write to."""

from __future__ import annotations

import datetime as dt
import json
import os
import pickle
import time
from collections import Counter
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from leyden.data import cache
from leyden.data.cache import checksum
from leyden.data.fit import Fit
from leyden.data.integers import Integers
from leyden.data.kept import ARRAYS, INDEX, OBJECT, kept
from leyden.data.table import Table, read_table

NOW = dt.datetime(2020, 1, 2, 3, 4, 5)
COLUMNS: dict[str, Any] = {
    "text": ["x", None], "whole": [1, 2], "gaps": [1, None], "real": [1.5, None], "flag": [True, False],
    "time": [NOW, None], "zone": pa.array([NOW, None], pa.timestamp("us", tz="Europe/Berlin")),
    "offset": pa.array([NOW, None], pa.timestamp("us", tz="+02:00")), "day": [NOW.date(), None],
    "clock": [NOW.time(), None], "span": [dt.timedelta(1), None], "money": [Decimal("1.5"), None],
    "bytes": [b"x", None], "list": [["a"], None], "object": [{"a": 1, "b": NOW}, None],
    "category": pa.array(["x", None]).dictionary_encode(), "view": pa.array(["x", None], pa.string_view()),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LEYDEN_CACHE", str(tmp_path / "cache"))


def never() -> Any:
    raise AssertionError


def test_tables_of_every_kind_of_column_are_found_again(tmp_path: Path) -> None:
    pq.write_table(pa.table(COLUMNS), tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text('{"a": 1.50, "b": [1, {"c": 2.50}], "d": true, "e": null}\n{"a": "x"}\n')
    for name in ("t.parquet", "t.jsonl"):
        read = partial(read_table, tmp_path / name)
        assert not kept("tables", name, read)[1]
        table, found = kept("tables", name, never)
        assert (found, isinstance(table, Table)) == (True, True)
        pd.testing.assert_frame_equal(table.frame, read().frame)


def test_counts_are_found_again() -> None:
    made = Fit(Integers(np.arange(5)), Counter(turns=2), 7, 3)
    kept("fits", "key", lambda: made)
    fit, found = kept("fits", "key", never)
    assert (found, list(fit.lengths), fit.cut, fit.tokens) == (True, [0, 1, 2, 3, 4], made.cut, 7)


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def forged(folder: Path, content: bytes) -> None:
    (folder / OBJECT).write_bytes(content)
    sums = [checksum(folder / name) for name in (OBJECT, ARRAYS)]
    (folder / INDEX).write_text(json.dumps({"places": [], "checksums": sums}))


def test_what_can_do_harm_is_not_done_and_the_object_is_made_again(tmp_path: Path) -> None:
    mark, module = tmp_path / "mark", b"leyden.data.cache"
    calls = [Call(os.mkdir, str(mark)), Call(getattr, Path, "home"), Call(eval, "1"), Call(np.memmap, str(mark))]
    contents = [pickle.dumps(call, protocol=5) for call in calls]
    for name in (b"os.mkdir", b"cached_folder", b"FileLock", b"Path.mkdir"):
        text = str(mark).encode()
        head = b"\x80\x05\x8c" + bytes([len(module)]) + module + b"\x8c" + bytes([len(name)]) + name + b"\x93"
        contents.append(head + b"\x8c" + bytes([len(text)]) + text + b"\x85R.")
    assert hasattr(cache, "FileLock")
    for number, content in enumerate(contents):
        kept("tables", str(number), lambda: [1])
        forged(tmp_path / "cache" / "tables" / str(number), content)
        assert kept("tables", str(number), lambda: [2]) == ([2], False)
        assert kept("tables", str(number), never) == ([2], True)
        assert not mark.exists()


def test_what_cannot_be_opened_again_is_used_as_it_was_made() -> None:
    for _ in range(2):
        assert kept("tables", "key", lambda: [os.getcwd]) == ([os.getcwd], False)


def test_what_no_start_used_for_a_month_is_removed_when_another_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("used", "unused", "locked"):
        kept("tables", key, lambda: [1])
    kept("fits", "unused", lambda: [1])
    folder, long_ago = tmp_path / "cache" / "tables", time.time() - 31 * 24 * 3600
    (folder / ".killed-abc").mkdir()
    for old in (*(path for path in folder.iterdir() if path.is_dir()), tmp_path / "cache" / "fits" / "unused"):
        os.utime(old, (long_ago, long_ago))
    assert kept("tables", "used", never) == ([1], True)
    assert {path.name for path in folder.glob("[!.]*")} == {"used", "unused", "locked"}
    monkeypatch.setattr(cache, "_LOOKED_AT", set())  # as in another process
    with FileLock(folder / ".locked.lock"):
        kept("tables", "new", lambda: [1])
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"used", "locked", "new"}
    assert (tmp_path / "cache" / "fits" / "unused").is_dir()
