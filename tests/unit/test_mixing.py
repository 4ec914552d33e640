from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden.data.mixing import mixed, read_tables
from leyden.data.readers import File
from leyden.data.table import Table, read_table
from leyden.settings.errors import ConfigError, DataError
from leyden.settings.locations import mixing_faults


def table_of(*conversations: list[int]) -> tuple[Table, list[str], list[int]]:
    """A table of several, by the sizes of the conversations of each; its names; and the conversation of each row."""
    origin = [number for number, sizes in enumerate(conversations) for _ in range(sum(sizes))]
    lines = [line for sizes in conversations for line in range(1, sum(sizes) + 1)]
    files = tuple(File(Path(f"{number}.csv"), "csv", "", number) for number in range(len(conversations)))
    all_sizes = [size for sizes in conversations for size in sizes]
    conversation = [number for number, size in enumerate(all_sizes) for _ in range(size)]
    frame = pd.DataFrame({"x": range(len(origin))})
    return Table(Path("t"), frame, lines, files, origin), [str(file.path) for file in files], conversation


def kept(sizes: list[int], ratios: list[float], seed: int = 1) -> list[int]:
    """Rows kept of each of several tables of rows that stand alone."""
    table, names, conversation = table_of(*([1] * size for size in sizes))
    rows, _ = mixed(table, names, ratios, range(len(table)), conversation, seed=seed)
    return [sum(table.source(row) == number for row in rows) for number in range(len(sizes))]


@pytest.mark.parametrize(
    ("sizes", "ratios", "expected"),
    [
        ([300, 500], [3, 1], [300, 100]),
        ([300, 500], [0.75, 0.25], [300, 100]),
        ([300, 30], [3, 1], [90, 30]),
        ([100, 100], [1, 1], [100, 100]),
        ([100, 50], [0, 7], [0, 50]),
        ([10, 10, 10], [0.5, 0.3, 0.2], [10, 6, 4]),
        ([10, 10], [0.1, 0.2], [5, 10]),
        ([3, 9], [2, 3], [3, 5]),  # 4.5 rounds up
        ([7], [0.2], [7]),
    ],
)
def test_as_many_rows_as_can_be_had(sizes: list[int], ratios: list[float], expected: list[int]) -> None:
    assert kept(sizes, ratios) == expected


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)), min_size=1, max_size=4), st.integers(0, 3))
def test_shares_by_the_formula(tables: list[tuple[int, int]], seed: int) -> None:
    sizes, ratios = [size for size, _ in tables], [float(ratio) for _, ratio in tables]
    try:
        counts = kept(sizes, ratios, seed)
    except ConfigError:
        assert not any(ratios)
        return
    except DataError:
        counts = []
    shares = [Fraction(ratio) / Fraction(sum(ratios)) for ratio in ratios]
    whole = min(size / share for size, share in zip(sizes, shares, strict=True) if share)
    expected = [int(whole * share + Fraction(1, 2)) for share in shares]
    assert counts == (expected if all(n for n, ratio in zip(expected, ratios, strict=True) if ratio) else [])
    assert not counts or any(count == size for count, size in zip(counts, sizes, strict=True))


def test_which_rows_are_kept_is_stable() -> None:
    table, names, alone = table_of([1] * 40, [1] * 60)
    rows, (note,) = mixed(table, names, [1, 1], range(100), alone, seed=1)
    assert rows == sorted(rows)
    assert len(rows) == len(set(rows)) == 80
    assert note == "dataset.train_ratios=[1, 1] uses 80 rows: 0.csv 40 of 40, 1.csv 40 of 60."
    assert mixed(table, names, [1, 1], range(100), alone, seed=2)[0] != rows
    # a smaller share is a part of a larger one
    assert set(mixed(table, names, [4, 1], range(100), alone, seed=1)[0]) < set(rows)
    # what one table gives does not depend on the ones beside it
    longer, names, alone = table_of([1] * 40, [1] * 5, [1] * 60)
    third = [row - 5 for row in mixed(longer, names, [1, 0, 1], range(105), alone, seed=1)[0] if row >= 40]
    assert third == [row for row in rows if row >= 40]


def test_only_the_rows_offered_are_drawn_and_counted() -> None:
    table, names, alone = table_of([1] * 20, [1] * 20)
    offered = [*range(0, 20, 2), *range(20, 40)]
    rows, (note,) = mixed(table, names, [1, 1], offered, alone, seed=1)
    assert set(rows) <= set(offered)
    assert "0.csv 10 of 10, 1.csv 10 of 20" in note


def test_conversations_stay_whole() -> None:
    table, names, conversation = table_of([3, 1, 5, 2], [2] * 10)
    rows, (note,) = mixed(table, names, [1, 1], range(len(table)), conversation, seed=1)
    assert "uses 8 conversations: 0.csv 4 of 4, 1.csv 4 of 10" in note
    for number in {conversation[row] for row in rows}:
        whole = [row for row in range(len(table)) if conversation[row] == number]
        assert set(whole) <= set(rows)
    assert len(rows) == 11 + 8


@pytest.mark.parametrize(
    ("ratios", "reason"),
    [
        ([1], "has 1 numbers, but dataset.train_dataframe names 2 tables"),
        ([1, 2, 3], "has 3 numbers"),
        ([], "has 0 numbers"),
        ([1, -1], "0 and above"),
        ([1, float("nan")], "0 and above"),
        ([1, float("inf")], "0 and above"),
        ([0, 0], "would use no row"),
    ],
)
def test_ratios_that_cannot_be_meant(ratios: list[float], reason: str) -> None:
    table, names, alone = table_of([1], [1])
    with pytest.raises(ConfigError, match=r"dataset\.train_ratios=\[") as caught:
        mixed(table, names, ratios, range(2), alone, seed=1)
    assert reason in str(caught.value)
    assert list(caught.value.faults) == mixing_faults(names, ratios, "dataset.train_dataframe", "dataset.train_ratios")


def test_a_table_that_would_give_nothing_is_a_fault() -> None:
    with pytest.raises(DataError, match=r"1\.csv has 50 rows.*Raise its ratio, or set it to 0"):
        kept([50, 50], [1, 0.001])
    table, names, alone = table_of([1] * 5, [1] * 5)
    with pytest.raises(DataError) as caught:
        mixed(table, names, [1, 1], range(5), alone, seed=1)
    assert "1.csv has 0 rows" in str(caught.value)


def written(folder: Path) -> list[str]:
    (folder / "a.csv").write_text("q,a\nx,1.0\n,2\n")
    (folder / "b.jsonl").write_text("\n" + "\n".join(map(json.dumps, [{"a": True, "id": 1}, {"a": 1.50, "q": "y"}])))
    pd.DataFrame({"q": ["z"], "a": [3], "other": [[1]]}).to_parquet(folder / "c.pq")
    (folder / "texts").mkdir()
    for name in "de":
        (folder / "texts" / f"{name}.txt").write_text(name)
    return [str(folder / name) for name in ("a.csv", "b.jsonl", "c.pq", "texts")]


def test_tables_become_one_that_knows_its_files(tmp_path: Path) -> None:
    names = written(tmp_path)
    table = read_tables(names)
    assert list(table.frame.columns) == ["q", "a", "id", "other", "text", "file"]
    assert table.texts("q") == ["x", None, None, "y", "z", None, None]
    assert table.texts("a") == ["1.0", "2", "true", "1.5", "3", None, None]
    assert table.cells("id") == [None, None, 1, None, None, None, None]
    assert table.texts("text")[5:] == ["d", "e"]
    assert [table.source(row) for row in range(len(table))] == [0, 0, 1, 1, 2, 3, 3]
    a, b, c, texts = names
    assert table.places([1, 2, 3, 4, 5]) == f"{a} line 3, {b} lines 2, 3, {c} row 1, {texts}/d.txt"
    assert str(table.path) == f"{a} and 3 more"
    with pytest.raises(DataError, match=r"column 'other' holds a list, .*c\.pq row 1"):
        table.texts("other")
    assert [note for note in table.notes if note.startswith(a)] == [
        f"{a} has no column 'id', 'other', 'text', 'file'; these cells are empty."
    ]
    assert len(table.notes) == 4
    assert [file.sha256 for file in table.files[:1]] == [read_table(a).sha256]
    assert read_tables(names).sha256 == table.sha256
    assert read_tables(names[:2]).sha256 != read_tables(names[1::-1]).sha256


def test_a_single_table_is_as_it_was(tmp_path: Path) -> None:
    (name, *_) = written(tmp_path)
    one, other = read_tables([name]), read_table(name)
    assert (str(one.path), one.files, list(one.lines)) == (name, other.files, list(other.lines))
    assert len(read_tables(["embedded:helpdesk"])) > 100


def test_all_faults_of_all_tables(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a;b\n1;2\n")
    (tmp_path / "b.jsonl").write_text("oops")
    with pytest.raises(DataError) as caught:
        read_tables([str(tmp_path / name) for name in ("a.csv", "b.jsonl", "gone.csv")])
    named = zip(["a.csv", "b.jsonl", "gone.csv"], caught.value.faults, strict=True)
    assert all(name in fault for name, fault in named)
    with pytest.raises(ConfigError, match="No such file"):
        read_tables([str(tmp_path / "gone.csv")])
    with pytest.raises(ConfigError, match="names no table"):
        read_tables([])
    with pytest.raises(ConfigError, match="more than once"):
        read_tables(["a.csv", "b.csv", "./a.csv"])
