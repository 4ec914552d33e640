from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from leyden.data.rows import Part, read_parts, read_source, whole_part
from leyden.settings.data_groups import Dataset
from leyden.settings.errors import DataError

SHARED = Path(__file__).parents[2] / "conf" / "dataset" / "_shared.yaml"
DEFAULTS: dict[str, Any] = yaml.safe_load(SHARED.read_text())
CHAIN = {"parent_id_column": "parent", "id_column": "id"}
PAIR = {"rejected_answer_column": "r"}
CUSTOM = {"validation_strategy": "custom"}


def stored(path: Path, columns: dict[str, list[Any]]) -> str:
    """A json lines file; a cell that is None is left out of its line."""
    names = list(columns)
    rows = [dict(zip(names, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def dataset(train: str, **values: Any) -> Dataset:
    return Dataset(**{**DEFAULTS, "train_dataframe": train, "prompt_column": "p", "answer_column": "a", **values})


def rows_of(size: int) -> dict[str, list[Any]]:
    return {"p": [f"p{n}" for n in range(size)], "a": [f"a{n}" for n in range(size)]}


def chains(*lengths: int) -> dict[str, list[Any]]:
    """Conversations of so many turns each, their rows mixed: all first turns, then all second turns, ..."""
    places = [(turn, talk) for turn in range(max(lengths)) for talk, length in enumerate(lengths) if turn < length]
    return {
        "id": [f"{talk}.{turn}" for turn, talk in places],
        "parent": [f"{talk}.{turn - 1}" if turn else None for turn, talk in places],
        "p": [f"p{talk}.{turn}" for turn, talk in places],
        "a": [f"a{talk}.{turn}" for turn, talk in places],
    }


def faults_of(data: Dataset) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        read_parts(data)
    return caught.value.faults


def prompts(part: Part) -> list[list[str]]:
    return [[part.source.texts["prompt"][row] for row in rows] for rows in part.samples]


def test_prompt_columns_are_joined_in_the_order_of_the_setting(tmp_path: Path) -> None:
    train = stored(tmp_path / "t.jsonl", {**rows_of(2), "q": ["q0", None]})
    both = read_source(dataset(train, prompt_column=["q", "p"], prompt_column_separator=r"\n--\t"), train, "s")
    assert both.texts["prompt"] == ["q0\n--\tp0", "\n--\tp1"]
    assert both.missing["prompt"] == []
    for one in ("p", ["p"]):
        found = read_source(dataset(train, prompt_column=one, prompt_column_separator="XX"), train, "s")
        assert found.texts["prompt"] == ["p0", "p1"]
    none = read_source(dataset(train, prompt_column=[]), train, "s")
    assert none.texts["prompt"] == ["", ""]
    assert none.missing["prompt"] == []


def test_missing_prompts_and_system_texts_are_empty_and_counted(tmp_path: Path) -> None:
    columns = {"p": ["p0", None, "None"], "a": ["nan", "NA", "null"], "s": [None, "", "s2"]}
    train = stored(tmp_path / "t.jsonl", columns)
    found = read_source(dataset(train, system_column="s"), train, "s")
    assert found.texts == {"prompt": ["p0", "", "None"], "answer": ["nan", "NA", "null"], "system": ["", "", "s2"]}
    assert found.missing == {"prompt": [1], "answer": [], "system": [0, 1]}


def test_cells_read_as_they_stand_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("p,a\n1,2.50\nNone,true\n")
    found = read_source(dataset(str(tmp_path / "t.csv")), str(tmp_path / "t.csv"), "s")
    assert found.texts == {"prompt": ["1", "None"], "answer": ["2.50", "true"]}


def test_missing_answers_are_faults_with_their_rows(tmp_path: Path) -> None:
    train = stored(tmp_path / "t.jsonl", {**rows_of(4), "a": ["x", None, "", "y"], "r": ["x", "y", "z", None]})
    answer, rejected = faults_of(dataset(train, **PAIR))
    assert "column 'a' (dataset.answer_column) is empty in lines 2, 3 (2 of 4 rows)" in answer
    assert "column 'r' (dataset.rejected_answer_column) is empty in line 4 (1 of 4 rows)" in rejected
    loose = read_source(dataset(train, **PAIR), train, "s", answers=False)
    assert loose.missing["answer"] == [1, 2]


def test_an_own_prompt_of_the_worse_answer_may_be_empty_but_not_absent(tmp_path: Path) -> None:
    train = stored(tmp_path / "t.jsonl", {**rows_of(2), "r": ["x", "y"], "q": ["other", None]})
    found = read_source(dataset(train, **PAIR, rejected_prompt_column="q"), train, "s")
    assert found.texts["rejected_prompt"] == ["other", ""]
    (fault,) = faults_of(dataset(train, **PAIR, rejected_prompt_column="qq"))
    assert "dataset.rejected_prompt_column='qq'" in fault
    assert "Did you mean 'q'?" in fault


@pytest.mark.parametrize(
    "key", ["system_column", "answer_column", "rejected_answer_column", "rejected_prompt_column", "parent_id_column",
            "id_column"],
)  # fmt: skip
def test_a_missing_column_of_the_training_table_names_setting_and_columns(tmp_path: Path, key: str) -> None:
    columns = {**chains(1, 1), "r": ["x", "y"], "s": ["", ""], "q": ["x", "y"]}
    names = {"system_column": "s", "rejected_prompt_column": "q", **CHAIN, **PAIR}
    train = stored(tmp_path / "t.jsonl", columns)
    (fault,) = faults_of(dataset(train, **{**names, key: "zzz"}))
    assert f"dataset.{key}='zzz' is not a column of {train}; it has 'id', 'parent', 'p', 'a'" in fault


def test_one_of_several_prompt_columns_is_missing(tmp_path: Path) -> None:
    (fault,) = faults_of(dataset(stored(tmp_path / "t.jsonl", rows_of(2)), prompt_column=["p", "input"]))
    assert "dataset.prompt_column='input'" in fault


def test_all_faults_of_a_table_come_together(tmp_path: Path) -> None:
    columns = {
        "id": ["1", "1", "3"], "parent": [None, None, "3"], "p": [["nested"], "p", "p"], "a": ["x", None, "y"],
        "r": ["x", "x", "x"],
    }  # fmt: skip
    train = stored(tmp_path / "t.jsonl", columns)
    faults = faults_of(dataset(train, **CHAIN, **PAIR, system_column="s"))
    words = ["dataset.system_column='s'", "holds a list", "is empty in line 2", "more than once", "its own parent"]
    assert [word in fault for word, fault in zip(words, faults, strict=True)] == [True] * 5


def test_faults_of_both_tables_come_together(tmp_path: Path) -> None:
    train = stored(tmp_path / "t.jsonl", {"p": ["x", "y"], "a": [None, "y"]})
    validation = stored(tmp_path / "v.jsonl", {"q": ["x"], "a": [None]})
    faults = faults_of(dataset(train, **CUSTOM, validation_dataframe=validation))
    assert [("t.jsonl" in fault, "v.jsonl" in fault) for fault in faults] == [
        (True, False),
        (False, True),
        (False, True),
    ]
    one = stored(tmp_path / "o.jsonl", rows_of(1))
    faults = faults_of(dataset(one, **CUSTOM, validation_dataframe=validation))
    assert "has one row" in faults[0]
    assert len(faults) == 3


def test_one_row_is_not_enough(tmp_path: Path) -> None:
    (fault,) = faults_of(dataset(stored(tmp_path / "t.jsonl", rows_of(1))))
    assert "has one row" in fault


def test_a_side_that_stays_empty_is_refused(tmp_path: Path) -> None:
    train = stored(tmp_path / "t.jsonl", rows_of(4))
    for size in (0.1, 0.9):
        (fault,) = faults_of(dataset(train, validation_size=size))
        assert f"dataset.validation_size={size}" in fault


def test_the_split_divides_the_rows_and_keeps_their_order(tmp_path: Path) -> None:
    train, validation = read_parts(dataset(stored(tmp_path / "t.jsonl", rows_of(1000))))
    assert train.source is validation.source
    assert len(validation.rows) == 100
    assert sorted(train.rows + validation.rows) == list(range(1000))
    for part in (train, validation):
        assert list(part.rows) == sorted(part.rows)
        assert part.samples == tuple((row,) for row in part.rows)
        assert len(part) == len(part.samples)


@given(st.lists(st.integers(1, 5), min_size=2, max_size=12), st.booleans(), st.sampled_from([0.3, 0.5, 0.7]))
def test_conversations_stay_whole_through_split_and_samples(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], whole: bool, size: float
) -> None:
    path = tmp_path_factory.getbasetemp() / "chains.jsonl"
    train, validation = read_parts(
        dataset(stored(path, chains(*lengths)), **CHAIN, validation_size=size, limit_chained_samples=whole)
    )
    found: list[set[str]] = []
    for part in (train, validation):
        talks = {text[1:].split(".")[0] for sample in prompts(part) for text in sample}
        for sample in prompts(part):
            talk = sample[0].split(".")[0]
            assert sample == [f"{talk}.{turn}" for turn in range(len(sample))]  # oldest first, from the root
        expected = sum(1 if whole else lengths[int(talk)] for talk in talks)
        assert len(part) == expected
        assert len(part.rows) == sum(lengths[int(talk)] for talk in talks)
        ends = [sample[-1] for sample in part.samples]
        assert ends == sorted(ends)
        found.append(talks)
    assert not found[0] & found[1]
    assert len(found[0] | found[1]) == len(lengths)


def test_branches_give_a_sample_per_leaf(tmp_path: Path) -> None:
    columns = {"id": list("abcdef"), "parent": [None, "a", "a", "b", None, None], **rows_of(6)}
    found = read_source(dataset(stored(tmp_path / "t.jsonl", columns), **CHAIN), str(tmp_path / "t.jsonl"), "s")
    leaves = [found.threads.chain(row) for row in found.threads.leaves()]
    assert leaves == [(0, 2), (0, 1, 3), (4,), (5,)]
    assert whole_part(found).samples == ((0,), (0, 1), (0, 2), (0, 1, 3), (4,), (5,))


def test_samples_are_taken_after_the_split_from_the_parts_that_are_named(tmp_path: Path) -> None:
    train = stored(tmp_path / "t.jsonl", rows_of(1000))
    whole = read_parts(dataset(train, validation_size=0.2))
    for choice in (["train"], ["validation"], ["train", "validation"], []):
        thin = read_parts(dataset(train, validation_size=0.2, data_sample=0.05, data_sample_choice=choice))
        for name, part, full, size in zip(("train", "validation"), thin, whole, (40, 10), strict=True):
            assert len(part.rows) == (size if name in choice else len(full.rows))
            assert set(part.rows) <= set(full.rows)
            assert list(part.rows) == sorted(part.rows)


@pytest.mark.parametrize(("size", "share", "kept"), [(1000, 0.05, 50), (100, 0.05, 10), (6, 0.05, 6), (100, 0.29, 29)])
def test_the_size_of_a_sample(tmp_path: Path, size: int, share: float, kept: int) -> None:
    train, other = (stored(tmp_path / name, rows_of(size)) for name in ("t.jsonl", "v.jsonl"))
    data = dataset(train, **CUSTOM, validation_dataframe=other, data_sample=share)
    assert [len(part.rows) for part in read_parts(data)] == [kept, kept]


def test_a_sample_cuts_no_conversation(tmp_path: Path) -> None:
    train = stored(tmp_path / "t.jsonl", chains(*[3] * 40))
    part, _ = read_parts(dataset(train, **CHAIN, data_sample=0.01, data_sample_choice=["train"]))
    assert len(part.rows) == 12  # conversations until there are ten rows
    assert [len(sample) for sample in part.samples] == [3] * 4


def test_a_validation_table_is_read_as_it_stands(tmp_path: Path) -> None:
    train = stored(tmp_path / "t.jsonl", {**chains(2, 1), "s": ["s", None, None]})
    frame = pd.DataFrame(rows_of(3))
    frame.to_parquet(tmp_path / "v.parquet")
    data = dataset(train, **CHAIN, **CUSTOM, system_column="s", validation_dataframe=str(tmp_path / "v.parquet"))
    first, second = read_parts(data)
    assert prompts(first) == [["p1.0"], ["p0.0", "p0.1"]]
    assert prompts(second) == [["p0"], ["p1"], ["p2"]]
    assert second.rows == (0, 1, 2)
    assert "system" not in second.source.texts
    expected = ["'s' (dataset.system_column)", "'parent' (dataset.parent_id_column)", "'id' (dataset.id_column)"]
    assert [f"has no column {name}" in text for name, text in zip(expected, second.source.warnings, strict=True)] == [
        True
    ] * 3
    assert first.source.warnings == []


def test_ids_count_within_their_own_table(tmp_path: Path) -> None:
    train = stored(tmp_path / "t.jsonl", {"id": [1, 2], "parent": [None, 1], **rows_of(2)})
    columns = {"id": [1, 3, 4], "parent": [None, 2, 1], "p": ["v0", "v1", "v2"], "a": ["x", "y", "z"]}
    data = dataset(train, **CHAIN, **CUSTOM, validation_dataframe=stored(tmp_path / "v.jsonl", columns))
    first, second = read_parts(data)
    assert prompts(first) == [["p0", "p1"]]
    assert prompts(second) == [["v1"], ["v0", "v2"]]  # 2 is a row of the other table, so this row starts anew
    (warning,) = second.source.warnings
    assert "2" in warning
    assert "line 2" in warning


def test_earlier_turns_must_agree(tmp_path: Path) -> None:
    columns = chains(3, 1, 2)
    last = ("0.2", "1.0", "2.1")
    rejected = [f"not {a}" if row in last else a for row, a in zip(columns["id"], columns["a"], strict=True)]
    data = dataset(stored(tmp_path / "t.jsonl", {**columns, "r": rejected}), **CHAIN, **PAIR, validation_size=0.34)
    assert sum(len(part) for part in read_parts(data)) == 3
    rejected[columns["id"].index("0.1")] = "else"
    (fault,) = faults_of(dataset(stored(tmp_path / "t.jsonl", {**columns, "r": rejected}), **CHAIN, **PAIR))
    assert f"line {columns['id'].index('0.1') + 1})" in fault
    rejected[0] = None
    faults = faults_of(dataset(stored(tmp_path / "t.jsonl", {**columns, "r": rejected}), **CHAIN, **PAIR))
    assert ["is empty in line 1" in faults[0], "differ" in faults[1], len(faults)] == [True, True, 2]


def test_a_table_to_predict_may_lack_worse_answers_of_earlier_turns(tmp_path: Path) -> None:
    columns = {**chains(2), "r": [None, "worse"]}
    train = stored(tmp_path / "t.jsonl", columns)
    found = read_source(dataset(train, **CHAIN, **PAIR), train, "s", answers=False)
    assert found.missing["rejected"] == [0]


def test_a_table_to_predict_may_lack_its_answers(tmp_path: Path) -> None:
    train = stored(tmp_path / "t.jsonl", {"p": ["x", "y"]})
    found = read_source(dataset(train), train, "dataset.path", optional=("dataset.answer_column",), answers=False)
    assert set(found.texts) == {"prompt"}
    assert "no column 'a'" in found.warnings[0]
