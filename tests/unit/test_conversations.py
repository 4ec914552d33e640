from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.data.conversations import Threads, agreeing_histories, thread_rows
from leyden.data.table import Table, read_table
from leyden.settings.errors import ConfigError, DataError

REAL = Path(__file__).parents[3] / "shared" / "data"
FORMATS = ["csv", "parquet", "jsonl"]


def stored(folder: Path, kind: str, columns: Mapping[str, Sequence[Any]]) -> Table:
    frame = pd.DataFrame(columns)
    path = folder / f"t.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path)
    else:
        rows = zip(*columns.values(), strict=True)
        path.write_text("\n".join(json.dumps(dict(zip(columns, row, strict=True))) for row in rows))
    return read_table(path)


def in_memory(ids: Sequence[Any], parents: Sequence[Any]) -> Table:
    frame = pd.DataFrame({"id": pd.Series(ids, dtype=object), "parent": pd.Series(parents, dtype=object)})
    return Table(Path("t.jsonl"), frame, range(1, len(frame) + 1))


def faults_of(table: Table) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        thread_rows(table, "id", "parent")
    return caught.value.faults


@pytest.mark.parametrize("kind", FORMATS)
def test_chains_leaves_and_conversations(tmp_path: Path, kind: str) -> None:
    # rows out of order: c follows b follows a; d follows a too; e stands alone
    ids, parents = ["c", "x", "a", "b", "d", "e"], ["b", None, None, "a", "a", None]
    threads = thread_rows(stored(tmp_path, kind, {"id": ids, "parent": parents}), "id", "parent")
    assert threads.parents == [3, None, None, 2, 2, None]
    assert threads.conversation == [0, 1, 0, 0, 0, 2]
    assert threads.chain(0) == (2, 3, 0)
    assert threads.chain(2) == (2,)
    assert threads.leaves() == [0, 1, 4, 5]
    assert threads.warnings == []


@pytest.mark.parametrize("kind", FORMATS)
def test_whole_ids_match_parents_that_became_floats(tmp_path: Path, kind: str) -> None:
    table = stored(tmp_path, kind, {"id": [1, 2, 3, 10**16], "parent": [math.nan, 1.0, 2.0, 1e16]})
    if kind == "csv":
        assert table.texts("parent") == [None, "1.0", "2.0", "1e+16"]
    with pytest.raises(DataError, match="its own parent: '?10000000000000000'? at"):
        thread_rows(table, "id", "parent")
    assert thread_rows(table, "id", "parent", rows=[]) == Threads([], [], [])
    threads = thread_rows(table, "id", "parent", rows=[0, 1, 2])
    assert threads.chain(2) == (0, 1, 2)
    assert threads.warnings == []


@pytest.mark.parametrize("kind", FORMATS)
def test_float_ids_match_whole_parents(tmp_path: Path, kind: str) -> None:
    table = stored(tmp_path, kind, {"id": [1.0, 2.0], "parent": ["", "1"] if kind == "csv" else [None, 1]})
    assert thread_rows(table, "id", "parent").parents == [None, 0]


def test_text_ids_stay_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,parent\n7,\n007,7\na,007\nb,7.0\n")
    threads = thread_rows(read_table(tmp_path / "t.csv"), "id", "parent")
    assert threads.parents == [None, 0, 1, None]
    assert "'7.0' (line 5; 1 in all)" in threads.warnings[0]
    (tmp_path / "t.csv").write_text("id,parent\n7,\n007,7\n")
    assert thread_rows(read_table(tmp_path / "t.csv"), "id", "parent").parents == [None, 0]
    # typed files: the text "1" is not the number 1
    threads = thread_rows(stored(tmp_path, "jsonl", {"id": [1, 2], "parent": [None, "1"]}), "id", "parent")
    assert threads.parents == [None, None]
    assert "(which begins 1, 2) lacks: '1' (line 2; 1 in all)" in threads.warnings[0]


@pytest.mark.parametrize("word", ["None", "NaN", "nan", "null", "inf", "-inf", "", "NULL", " "])
def test_words_for_no_parent(tmp_path: Path, word: str) -> None:
    (tmp_path / "t.csv").write_text(f"id,parent\n1,{word}\n2,1\n")
    (tmp_path / "t.jsonl").write_text(f'{{"id": 1, "parent": "{word}"}}\n{{"id": 2, "parent": 1}}')
    for name in ("t.csv", "t.jsonl"):
        threads = thread_rows(read_table(tmp_path / name), "id", "parent")
        assert threads.parents == [None, 0]
        assert threads.warnings == []


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, np.float32("inf"), np.float64("nan"), pd.NA])
def test_values_for_no_parent(value: object) -> None:
    threads = thread_rows(in_memory([1, 2], [value, 1]), "id", "parent")
    assert (threads.parents, threads.warnings) == ([None, 0], [])


def test_unknown_parents_start_conversations_with_one_warning(tmp_path: Path) -> None:
    table = stored(tmp_path, "csv", {"id": [1, 2, *range(3, 10)], "parent": [None, 1, *[99] * 7]})
    threads = thread_rows(table, "id", "parent")
    assert threads.parents == [None, 0, *[None] * 7]
    assert threads.conversation == [0, 0, *range(1, 8)]
    (warning,) = threads.warnings
    assert "t.csv: column 'parent' names ids that column 'id' (which begins '1', '2'" in warning
    assert "'99.0' (lines 4, 5, 6, 7, 8 and 2 more; 7 in all)" in warning


def test_without_a_parent_column_each_row_stands_alone(tmp_path: Path) -> None:
    threads = thread_rows(stored(tmp_path, "csv", {"id": [1, 1]}), "id", None)
    assert threads == Threads([None, None], [0, 1], [])
    assert threads.leaves() == [0, 1]


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    table = stored(tmp_path, "csv", {"id": [1], "parent_id": [2]})
    with pytest.raises(ConfigError, match="needs dataset.id_column"):
        thread_rows(table, None, "parent_id")
    with pytest.raises(DataError) as caught:
        thread_rows(table, "key", "parentid")
    identity, parent = caught.value.faults
    assert "dataset.id_column='key' is not a column of" in identity
    assert "Did you mean 'parent_id'?" in parent


@pytest.mark.parametrize("kind", FORMATS)
def test_duplicate_ids(tmp_path: Path, kind: str) -> None:
    table = stored(tmp_path, kind, {"id": [5, 6, 5, 7, 7, 7, 7], "parent": [None, 5.0, None, None, None, None, None]})
    (fault,) = faults_of(table)
    places = (
        "lines 1, 3, 4, 5, 6" if kind == "jsonl" else "rows 1, 3, 4, 5, 6" if kind == "parquet" else "lines 2, 4, 5"
    )
    assert f"t.{kind}: dataset.id_column='id' holds an id more than once: " in fault
    assert "'5', '7' at" in fault if kind == "csv" else "5, 7 at" in fault
    assert places in fault
    assert "1 more" in fault
    assert "Give each row its own id" in fault


def test_one_and_one_point_zero_are_the_same_id_in_csv(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,parent\n1,\n1.0,\n")
    assert "more than once: '1', '1.0' at lines 2, 3" in faults_of(read_table(tmp_path / "t.csv"))[0]


def test_missing_ids() -> None:
    (fault,) = faults_of(in_memory([1, None, math.nan, ""], [None, 1, 1, 1]))
    assert "has no id at lines 2, 3, 4" in fault


@pytest.mark.parametrize(("kind", "place"), [("parquet", "row 2"), ("jsonl", "line 2")])
def test_an_empty_text_is_no_id(tmp_path: Path, kind: str, place: str) -> None:
    (fault,) = faults_of(stored(tmp_path, kind, {"id": ["a", "", "b"], "parent": ["", "a", "a"]}))
    assert f"has no id at {place}" in fault


def test_own_parents_and_no_root() -> None:
    own, no_root = faults_of(in_memory([1, 2], [1, 2]))
    assert "dataset.parent_id_column='parent' makes a row its own parent: 1, 2 at lines 1, 2" in own
    assert "gives every row a parent" in no_root


def test_circles() -> None:
    # 1 > 2 > 3 > 1, with 4 hanging from it; 5 > 6 > 5; 7 is a root
    (fault,) = faults_of(in_memory([4, 1, 2, 3, 5, 6, 7], [1, 3, 1, 2, 6, 5, None]))
    assert "circle of 3 rows: 1, 3, 2 at lines 2, 4, 3, and 1 more such circles" in fault
    assert "Leave the parent" in fault


def test_all_faults_together() -> None:
    faults = faults_of(in_memory([1, 1, 2, 3, 4, None], [1, 3, 2, 4, 3, 1]))
    found = ["no id", "more than once", "its own parent", "in a circle of 2 rows", "every row a parent"]
    assert len(faults) == len(found)
    for fault, words in zip(faults, found, strict=True):
        assert words in fault


def test_long_chains_and_long_circles_without_recursion() -> None:
    length = 50_000
    start = perf_counter()
    threads = thread_rows(in_memory(range(length), [*range(1, length), None]), "id", "parent")
    assert threads.chain(0) == tuple(reversed(range(length)))
    assert set(threads.conversation) == {0}
    assert threads.leaves() == [0]
    (circle, _) = faults_of(in_memory(range(length), [*range(1, length), 0]))
    assert "circle of 50000 rows: 0, 1, 2, 3, 4 at lines 1, 2, 3, 4, 5 and 49995 more" in circle
    assert perf_counter() - start < 20


@given(st.lists(st.none() | st.integers(0, 29), min_size=1, max_size=30), st.randoms())
def test_forests_against_networkx(draws: list[int | None], random: Any) -> None:  # noqa: ANN401
    # row k may follow an earlier row only, then the rows are shuffled
    parents = [None if draw is None or not row else draw % row for row, draw in enumerate(draws)]
    order = random.sample(range(len(parents)), len(parents))
    threads = thread_rows(in_memory(order, [parents[row] for row in order]), "id", "parent")
    edges = [(row, parent) for row, parent in enumerate(threads.parents) if parent is not None]
    assert {(order[row], order[parent]) for row, parent in edges} == {
        (row, parent) for row, parent in enumerate(parents) if parent is not None
    }
    graph = nx.Graph(edges)
    graph.add_nodes_from(range(len(order)))
    found: dict[int, set[int]] = {}
    for row, number in enumerate(threads.conversation):
        found.setdefault(number, set()).add(row)
    assert sorted(map(sorted, found.values())) == sorted(map(sorted, nx.connected_components(graph)))
    assert list(dict.fromkeys(threads.conversation)) == list(range(len(found)))
    for row in range(len(order)):
        chain = threads.chain(row)
        assert chain[-1] == row
        assert [threads.parents[turn] for turn in chain] == [None, *chain[:-1]]


def test_histories_must_agree() -> None:
    table = in_memory(range(8), [None, 0, 1, 2, 3, 4, 5, 6])
    threads = thread_rows(table, "id", "parent")
    answers = list("abcdefgh")
    agreeing_histories(table, threads, answers, [*answers[:7], "other"], ("chosen", "rejected"))
    with pytest.raises(DataError) as caught:
        agreeing_histories(table, threads, answers, ["a", None, *"ZZZZZZ"], ("chosen", "rejected"))
    message = str(caught.value)
    assert "t.jsonl: dataset.answer_column='chosen' and dataset.rejected_answer_column='rejected' differ" in message
    assert "(6 in all: lines 2, 3, 4, 5, 6 and 1 more)" in message
    assert "copy 'chosen' into 'rejected'" in message


@pytest.mark.skipif(not REAL.is_dir(), reason="the real tables are not here")
def test_real_chains() -> None:
    table = read_table(REAL / "dpo_chains_en.parquet")
    threads = thread_rows(table, "id", "parent_id")
    assert len(threads.parents) == 563
    assert len(set(threads.conversation)) == 300
    assert threads.warnings == []
    assert {len(threads.chain(row)) for row in threads.leaves()} == {1, 2, 3, 4, 5, 7}
    agreeing_histories(table, threads, table.texts("chosen"), table.texts("rejected"), ("chosen", "rejected"))
