from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import LabelEncoder

from leyden.data.labels import Labels, check_labels, read_labels, read_weights
from leyden.data.table import Table, read_table
from leyden.settings.errors import ConfigError, DataError

ONE = ("y",)


def table_of(path: Path, **columns: list[Any]) -> Table:
    """A json lines file; a cell that is None is left out of its line."""
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_table(path)


def classes_of(path: Path, cells: list[Any], num_classes: int | None = None, **more: Any) -> Labels:
    return read_labels(
        table_of(path / "t.jsonl", y=cells), ONE, "classes", num_classes, more.pop("names", None), **more
    )


def faults_of(path: Path, cells: list[Any], num_classes: int | None = None, **more: Any) -> str:
    with pytest.raises(DataError) as caught:
        classes_of(path, cells, num_classes, **more)
    return "\n".join(caught.value.faults)


@pytest.mark.parametrize(
    ("cells", "num_classes", "kind", "names", "values"),
    [
        ([0, 1, 1], None, "binary", ["0", "1"], [0, 1, 1]),
        ([0, 1, 1], 1, "binary", ["0", "1"], [0, 1, 1]),
        ([0, 1, 1], 2, "multiclass", ["0", "1"], [0, 1, 1]),
        (["1.0", 1, "1", " 0 ", "-0.0", "1e0"], None, "binary", ["0", "1"], [1, 1, 1, 0, 0, 1]),
        ([0, 4, 2], None, "multiclass", ["0", "1", "2", "3", "4"], [0, 4, 2]),
        ([0, 1, 2], 4, "multiclass", ["0", "1", "2", "3"], [0, 1, 2]),
        (["spam", "ham", "spam"], None, "binary", ["ham", "spam"], [1, 0, 1]),
        (["spam", "ham", "spam"], 1, "binary", ["ham", "spam"], [1, 0, 1]),
        (["spam", "ham", "spam"], 2, "multiclass", ["ham", "spam"], [1, 0, 1]),
        (["c", "a", "b"], None, "multiclass", ["a", "b", "c"], [2, 0, 1]),
        ([True, False], None, "binary", ["false", "true"], [1, 0]),
        (["007", "7"], None, "binary", ["007", "7"], [0, 1]),
        (["nan", "inf", "low"], None, "multiclass", ["inf", "low", "nan"], [2, 0, 1]),
        (["é", "z", "ж"], None, "multiclass", ["z", "é", "ж"], [1, 0, 2]),
    ],
)
def test_one_column_of_classes(
    tmp_path: Path, cells: list[Any], num_classes: int | None, kind: str, names: list[str], values: list[float]
) -> None:
    found = classes_of(tmp_path, cells, num_classes)
    assert (found.kind, found.class_names, found.columns) == (kind, tuple(names), ONE)
    assert found.num_classes == (1 if kind == "binary" else len(names))
    assert found.values.dtype == np.float64
    assert found.values.tolist() == [[value] for value in values]


@given(st.lists(st.sampled_from(["red", "green", "Blue", "été", "z z", "x,y", "ß"]), min_size=3, max_size=30))
def test_words_are_numbered_as_scikit_learn_does(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    found = classes_of(tmp_path_factory.getbasetemp(), words)
    encoder = LabelEncoder().fit(words)
    assert found.values[:, 0].tolist() == encoder.transform(words).tolist()
    assert found.class_names == tuple(encoder.classes_)


def test_the_same_labels_from_every_format(tmp_path: Path) -> None:
    frame = pd.DataFrame({"word": ["b", "a", "b"], "whole": [0, 2, 1], "floating": [0.0, 2.0, 1.0]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    for column in frame.columns:
        found = [
            read_labels(read_table(tmp_path / f"t.{kind}"), [column], "classes", None, None)
            for kind in ("csv", "parquet", "jsonl")
        ]
        assert len({(item.kind, item.class_names, tuple(item.values[:, 0])) for item in found}) == 1
    assert found[0].class_names == ("0", "1", "2")


def test_words_and_numbers_in_one_column_are_words_and_this_is_said(tmp_path: Path) -> None:
    found = classes_of(tmp_path, [0, "yes", "1.0", 1, 0])
    assert found.class_names == ("0", "1", "yes")
    assert found.values[:, 0].tolist() == [0, 2, 1, 1, 0]
    (warning,) = found.warnings
    for words in ("'y' (dataset.answer_column)", "numbers (0, 1)", "words (yes)", "as words"):
        assert words in warning


def test_names_that_differ_in_case_or_spaces_only_are_pointed_out(tmp_path: Path) -> None:
    found = classes_of(tmp_path, ["spam", "Spam", "ham ", "ham", "other"])
    assert found.num_classes == 5
    first, second = found.warnings
    assert "'Spam', 'spam' differ in case or spaces only" in first
    assert "'ham', 'ham ' differ" in second


@pytest.mark.parametrize(
    ("cells", "num_classes", "words"),
    [
        ([0, 1, None, ""], None, ["column 'y' (dataset.answer_column) is empty in lines 3, 4 (2 of 4 rows)"]),
        ([0, "  ", 1], None, ["is empty in line 2"]),
        ([0, 1, 1.5], None, ["holds '1.5' in line 3 (1 of 3 rows)", "a whole number from 0, or a word"]),
        ([0, 1, -1, 1.7], None, ["holds '-1', '1.7' in lines 3, 4"]),
        ([0, 1, "inf", "nan", "-Infinity"], None, ["holds 'inf', 'nan', '-Infinity' in lines 3, 4, 5"]),
        ([0, 1, 2], 1, ["holds '2' in line 3", "problem.num_classes=1 allows the classes 0 to 1"]),
        ([0, 5, 2], 3, ["holds '5' in line 2", "problem.num_classes=3 allows the classes 0 to 2"]),
        ([0, 1, 20_000], None, ["holds '20000' in line 3", "more than 10,000", "problem.num_classes"]),
        ([0, 1, "1e300"], None, ["holds '1e300' in line 3"]),
        ([0, None, -3, 9], 3, ["is empty in line 2", "holds '-3' in line 3", "holds '9' in line 4"]),
        ([[0], 1], None, ["holds a list, an object or bytes (line 1)"]),
        ([None, None], None, ["is empty in lines 1, 2 (2 of 2 rows)"]),
    ],
)
def test_cells_that_are_no_classes(tmp_path: Path, cells: list[Any], num_classes: int | None, words: list[str]) -> None:
    message = faults_of(tmp_path, cells, num_classes)
    assert "t.jsonl" in message
    assert len(message.splitlines()) == (len(words) if len(words) == 3 and num_classes == 3 else 1)
    for word in words:
        assert word in message


def test_a_large_label_is_fine_where_the_user_says_so(tmp_path: Path) -> None:
    assert classes_of(tmp_path, [0, 20_000], 20_001).num_classes == 20_001


@pytest.mark.parametrize(
    ("cells", "num_classes", "words"),
    [
        (["a", "b", "c"], 1, ["problem.num_classes=1", "holds 3 different words: a, b, c", "to 3 or null"]),
        (["a", "b", "c"], 2, ["problem.num_classes=2", "to 3 or null"]),
        (["a", "b"], 5, ["problem.num_classes=5", "to 1 or null"]),
        (list("abcdefgh"), 7, ["a, b, c, d, e and 3 more"]),
    ],
)
def test_a_number_of_classes_that_does_not_fit_the_words(
    tmp_path: Path, cells: list[str], num_classes: int, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        classes_of(tmp_path, cells, num_classes)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("num_classes", [None, 2])
def test_several_columns_are_labels_of_their_own(tmp_path: Path, num_classes: int | None) -> None:
    table = table_of(tmp_path / "t.jsonl", late=[0, "1.0", 1], upset=["1", 0, 0.0])
    found = read_labels(table, ["upset", "late"], "classes", num_classes, None)
    assert (found.kind, found.class_names, found.columns, found.num_classes) == (
        "multilabel",
        None,
        ("upset", "late"),
        2,
    )
    assert found.values.tolist() == [[1, 0], [0, 1], [0, 1]]


def test_a_label_of_its_own_is_0_or_1(tmp_path: Path) -> None:
    table = table_of(tmp_path / "t.jsonl", a=[0, 2, "yes", 0.5, -1], b=[None, 1, 1, "inf", 0], c=[0, 1, 0, 1, 0])
    with pytest.raises(DataError) as caught:
        read_labels(table, ["a", "b", "c"], "classes", None, None)
    empty, first, second = caught.value.faults
    assert "'b' (dataset.answer_column) is empty in line 1" in empty
    assert "'a' (dataset.answer_column) holds '2', 'yes', '0.5', '-1' in lines 2, 3, 4, 5 (4 of 5 rows)" in first
    assert "0 (no) or 1 (yes)" in first
    assert "'b' (dataset.answer_column) holds 'inf' in line 4" in second


@pytest.mark.parametrize("num_classes", [1, 3])
def test_a_number_of_classes_that_does_not_fit_the_columns(tmp_path: Path, num_classes: int) -> None:
    table = table_of(tmp_path / "t.jsonl", a=[0, 1], b=[1, 0])
    with pytest.raises(ConfigError, match=f"problem.num_classes={num_classes}, but dataset.answer_column names 2"):
        read_labels(table, ["a", "b"], "classes", num_classes, None)


def test_numbers_stay_as_they_are(tmp_path: Path) -> None:
    cells = [0.1, "-2.5", 3, "1e-3", ".5", "+7.", "007", 5e-324]
    table = table_of(tmp_path / "t.jsonl", a=cells, b=[1] * 8)
    found = read_labels(table, ["b", "a"], "numbers", None, None)
    assert (found.kind, found.class_names, found.columns, found.num_classes) == ("numbers", None, ("b", "a"), 2)
    assert found.values[:, 1].tolist() == [0.1, -2.5, 3.0, 0.001, 0.5, 7.0, 7.0, 5e-324]
    assert read_labels(table, ["a"], "numbers", None, None).values.shape == (8, 1)


@given(st.lists(st.floats(-1e38, 1e38), min_size=1, max_size=20))
def test_numbers_come_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, cells: list[float]) -> None:
    path = tmp_path_factory.getbasetemp() / "n.csv"
    path.write_text("\n".join(["y", *map(repr, cells)]) + "\n")
    assert read_labels(read_table(path), ONE, "numbers", None, None).values[:, 0].tolist() == cells


@pytest.mark.parametrize("cell", ["four", "1,5", "1 000", "1_000", "12 kg", "٣", "0x10", "1e", "--1", "true"])
def test_text_is_no_number(tmp_path: Path, cell: str) -> None:
    table = table_of(tmp_path / "t.jsonl", y=[1, cell])
    with pytest.raises(DataError) as caught:
        read_labels(table, ONE, "numbers", None, None)
    assert f"holds {cell!r} in line 2 (1 of 2 rows): this is no number" in str(caught.value)


def test_every_fault_of_numbers_comes_at_once(tmp_path: Path) -> None:
    table = table_of(tmp_path / "t.jsonl", y=[1, None, "x", "inf", "NaN", "1e39", "1e400"], z=[None, 1, 2, 3, 4, 5, 6])
    with pytest.raises(DataError) as caught:
        read_labels(table, ["y", "z"], "numbers", None, None)
    words = ["'y' (dataset.answer_column) is empty in line 2", "'z' (dataset.answer_column) is empty in line 1",
             "holds 'x' in line 3", "holds 'inf', 'NaN', '1e39', '1e400' in lines 4, 5, 6, 7"]  # fmt: skip
    assert [word in fault for word, fault in zip(words, caught.value.faults, strict=True)] == [True] * 4


def test_another_table_takes_the_names_of_the_training_table(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    found = classes_of(tmp_path, ["c", "a", "c"], 3, names=names)
    assert (found.kind, found.class_names, found.values[:, 0].tolist()) == ("multiclass", names, [2, 0, 2])
    found = classes_of(tmp_path, ["c", "c"], 1, names=("a", "c"))
    assert (found.kind, found.values[:, 0].tolist()) == ("binary", [1, 1])
    numbers = classes_of(tmp_path, [0, "2.0"], 3, names=("0", "1", "2"))
    assert numbers.values[:, 0].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("cells", "names", "shown"),
    [
        (["a", "x", "b", "y", "x"], ("a", "b"), "holds 'x', 'y' in lines 2, 4, 5 (3 of 5 rows)"),
        ([0, 1, 2, 1.5], ("0", "1"), "holds '2', '1.5' in lines 3, 4"),
        ([0, "x"], ("0", "1"), "holds 'x' in line 2"),
        (["A"], ("a", "b"), "holds 'A' in line 1"),
    ],
)
def test_a_class_that_was_not_trained_is_named_with_its_rows(
    tmp_path: Path, cells: list[Any], names: tuple[str, ...], shown: str
) -> None:
    message = faults_of(tmp_path, cells, 1, names=names)
    assert shown in message
    assert f"the classes of the training table are {', '.join(names)}" in message


def test_a_table_to_predict_may_lack_labels(tmp_path: Path) -> None:
    found = classes_of(tmp_path, [None, "b", None], 1, names=("a", "b"), complete=False)
    np.testing.assert_array_equal(found.values, [[math.nan], [1], [math.nan]])
    assert "is empty" in faults_of(tmp_path, [None, "b"], 1, names=("a", "b"))
    table = table_of(tmp_path / "t.jsonl", a=[0, None], b=[None, 1.0])
    for kind in ("classes", "numbers"):
        found = read_labels(table, ["a", "b"], kind, None, None, complete=False)
        np.testing.assert_array_equal(found.values, [[0, math.nan], [math.nan, 1]])


def test_labels_of_some_rows(tmp_path: Path) -> None:
    assert classes_of(tmp_path, [0, 2, 1]).of([2, 0]).values.tolist() == [[1], [0]]


def test_weights(tmp_path: Path) -> None:
    found = read_weights(table_of(tmp_path / "t.jsonl", w=[1, "0.5", 0, 2.25]), "w")
    assert found.dtype == np.float32
    assert found.tolist() == [1, 0.5, 0, 2.25]
    with pytest.raises(DataError) as caught:
        read_weights(table_of(tmp_path / "t.jsonl", w=[1, None, -0.5, "heavy", "inf"]), "w")
    words = ["'w' (dataset.weight_column) is empty in line 2", "holds 'heavy' in line 4", "holds 'inf' in line 5",
             "holds '-0.5' in line 3 (1 of 5 rows): a weight is 0 or above"]  # fmt: skip
    assert [word in fault for word, fault in zip(words, caught.value.faults, strict=True)] == [True] * 4


def labels(kind: str, *rows: tuple[float, ...], names: tuple[str, ...] | None = None) -> Labels:
    columns = tuple("uvwxyz"[: len(rows[0])])
    return Labels(np.asarray(rows, dtype=np.float64), columns, names, kind, len(columns))  # type: ignore[arg-type]


def test_nothing_to_learn_from_one_label() -> None:
    names = ("ham", "spam")
    for train in (labels("binary", (1,), (1,), names=names), labels("multilabel", (0, 1), (0, 1))):
        with pytest.raises(DataError, match=r"t\.csv: column 'u'.* has one label in all 2 training rows"):
            check_labels(train, train, "t.csv")
    (warning,) = check_labels(labels("numbers", (3,), (3,)), labels("numbers", (1,)), "t.csv")
    assert "column 'u' (dataset.answer_column) has one value in all 2 training rows" in warning
    (warning,) = check_labels(labels("multilabel", (0, 1), (1, 1)), labels("multilabel", (0, 1)), "t.csv")
    assert "column 'v'" in warning


def test_gaps_among_the_classes_are_named() -> None:
    names = tuple("abcdefgh")
    train = labels("multiclass", (0,), (2,), (7,), names=names)
    validation = labels("multiclass", (0,), (2,), names=names)
    first, second = check_labels(train, validation, "t.csv")
    assert first == "t.csv: 5 of 8 classes have no training row: b, d, e, f, g."
    assert second == "t.csv: 6 of 8 classes have no validation row: b, d, e, f, g and 1 more."
    full = labels("multiclass", *((number,) for number in range(8)), names=names)
    assert check_labels(full, full, "t.csv") == []


CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4),
    st.sampled_from(["1e999999", "1_0", "007", "+", ".", "-0", "nan", "INF", "٣", "1" * 5000, "0", "1", "2.0"]),
)  # fmt: skip


@given(st.lists(CELLS, min_size=1, max_size=8), st.sampled_from([None, 1, 2, 5]), st.booleans(), st.booleans())
def test_any_cells_give_labels_or_our_own_error(
    tmp_path_factory: pytest.TempPathFactory, cells: list[Any], num_classes: int | None, complete: bool, numbers: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.parquet"
    pd.DataFrame({"y": [None if cell is None else str(cell) for cell in cells]}, dtype=object).to_parquet(path)
    table = read_table(path)
    try:
        found = read_labels(table, ONE, "numbers" if numbers else "classes", num_classes, None, complete=complete)
    except (ConfigError, DataError):
        return
    assert found.values.shape == (len(cells), 1)
    missing = [cell is None or not str(cell).strip() for cell in cells]
    assert np.isnan(found.values[:, 0]).tolist() == missing
    assert not complete or not any(missing)
    if found.class_names is not None:
        there = found.values[~np.isnan(found.values)]
        assert set(there) <= set(range(len(found.class_names)))
        assert len(found.class_names) == len(set(found.class_names))
