from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from pydantic import ValidationError

from leyden.data.overlap import overlap
from leyden.data.rows import Part, read_parts, whole_part
from leyden.data.sources import read_source
from leyden.data.splits import split
from leyden.settings.data_groups import Dataset
from leyden.settings.errors import ConfigError, DataError

CONF = Path(__file__).parents[2] / "conf"
SHARED = {
    "dataset": OmegaConf.load(CONF / "dataset" / "_shared.yaml"),
    "problem": yaml.safe_load((CONF / "problem" / "causal_lm.yaml").read_text()),
}
DEFAULTS: Any = OmegaConf.to_container(OmegaConf.create(SHARED), resolve=True)["dataset"]
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


def labelled(path: Path, cells: list[Any], **more: list[Any]) -> str:
    return stored(path, {"p": [f"p{n}" for n in range(len(cells))], "a": cells, **more})


def test_one_answer_column_or_several() -> None:
    assert dataset("t.csv", answer_column="a").answer_columns == ("a",)
    assert dataset("t.csv", answer_column=["a", "b"]).answer_columns == ("a", "b")
    for value in ("", [""], ["a", 1], None):
        with pytest.raises(ValidationError):
            dataset("t.csv", answer_column=value)


def test_labels_stand_beside_the_prompts(tmp_path: Path) -> None:
    train = labelled(tmp_path / "t.jsonl", ["low", "high", "mid"] * 10)
    first, second = read_parts(dataset(train), "classes")
    source = first.source
    assert source is second.source
    assert set(source.texts) == {"prompt"}
    assert source.labels is not None
    assert (source.labels.kind, source.labels.class_names) == ("multiclass", ("high", "low", "mid"))
    assert source.labels.values[:, 0].tolist() == [1, 0, 2] * 10
    assert source.missing == {"prompt": [], "answer": []}
    assert source.warnings == []
    numbers = read_parts(dataset(labelled(tmp_path / "n.jsonl", [0.5, 2, -1, 7]), validation_size=0.25), "numbers")[0]
    assert numbers.source.labels is not None
    assert (numbers.source.labels.kind, numbers.source.labels.values[:, 0].tolist()) == ("numbers", [0.5, 2, -1, 7])


def test_several_answer_columns_are_labels_in_their_order(tmp_path: Path) -> None:
    train = labelled(tmp_path / "t.jsonl", [0, 1] * 10, b=[1, 1, 0, 0] * 5)
    labels = read_parts(dataset(train, answer_column=["b", "a"]), "classes")[0].source.labels
    assert labels is not None
    assert (labels.kind, labels.columns, labels.num_classes) == ("multilabel", ("b", "a"), 2)
    assert labels.values[:4].tolist() == [[1, 0], [1, 1], [0, 0], [0, 1]]
    (fault,) = labelled_faults(dataset(train, answer_column=["b", "c"]))
    assert "dataset.answer_column='c' is not a column" in fault


def labelled_faults(data: Dataset, targets: Any = "classes", num_classes: int | None = None) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        read_parts(data, targets, num_classes)
    return caught.value.faults


def test_faults_of_labels_weights_and_prompts_come_together(tmp_path: Path) -> None:
    train = labelled(tmp_path / "t.jsonl", [0, 1.5, None, 1], w=[1, -1, 1, "x"])
    validation = labelled(tmp_path / "v.jsonl", [0, 7], w=[None, 1])
    data = dataset(train, **CUSTOM, validation_dataframe=validation, weight_column="w", system_column="s")
    words = [("t.jsonl", "dataset.system_column='s'"), ("t.jsonl", "is empty in line 3"), ("t.jsonl", "holds '1.5'"),
             ("t.jsonl", "holds 'x' in line 4"), ("t.jsonl", "holds '-1' in line 2"),
             ("v.jsonl", "'w' (dataset.weight_column) is empty in line 1")]  # fmt: skip
    faults = labelled_faults(data)
    assert [all(word in fault for word in pair) for pair, fault in zip(words, faults, strict=True)] == [True] * 6


def test_a_validation_table_takes_the_classes_of_the_training_table(tmp_path: Path) -> None:
    train = labelled(tmp_path / "t.jsonl", ["b", "a", "c", "b"])
    data = dataset(train, **CUSTOM, validation_dataframe=labelled(tmp_path / "v.jsonl", ["c", "c"]))
    _, second = read_parts(data, "classes")
    assert second.source.labels is not None
    assert (second.source.labels.kind, second.source.labels.class_names) == ("multiclass", ("a", "b", "c"))
    assert second.source.labels.values.tolist() == [[2], [2]]
    other = labelled(tmp_path / "v.jsonl", ["c", "x", "x"])
    (fault,) = labelled_faults(dataset(train, **CUSTOM, validation_dataframe=other))
    assert "v.jsonl" in fault
    assert "holds 'x' in lines 2, 3 (2 of 3 rows): the classes of the training table are a, b, c" in fault
    # yes or no stays so, although the second table shows one answer only
    yes = dataset(
        labelled(tmp_path / "t.jsonl", [0, 1]), **CUSTOM, validation_dataframe=labelled(tmp_path / "v.jsonl", [1])
    )
    for count in (None, 1):
        assert read_parts(yes, "classes", count)[1].source.labels.values.tolist() == [[1]]  # type: ignore[union-attr]


def test_a_table_to_predict_may_lack_labels_or_their_columns(tmp_path: Path) -> None:
    options: dict[str, Any] = {"answers": False, "targets": "classes", "optional": ("dataset.answer_column",)}
    train = labelled(tmp_path / "t.jsonl", ["b", None, "a"])
    found = read_source(dataset(train), train, "s", **options, num_classes=1, class_names=("a", "b"))
    assert found.missing["answer"] == [1]
    assert found.labels is not None
    assert found.labels.values[[0, 2]].tolist() == [[1], [0]]
    for columns in ("y", ["a", "y"]):
        found = read_source(dataset(train, answer_column=columns), train, "s", **options)
        assert found.labels is None
        assert "has no column 'y' (dataset.answer_column); it goes without" in found.warnings[0]


def test_one_class_in_the_training_rows_is_nothing_to_learn(tmp_path: Path) -> None:
    (fault,) = labelled_faults(dataset(labelled(tmp_path / "t.jsonl", ["a"] * 20)))
    assert "column 'a' (dataset.answer_column) has one label in all 18 training rows" in fault
    cells = ["a"] * 200 + ["b"] * 2  # the sample of ten rows has no b
    (fault,) = labelled_faults(dataset(labelled(tmp_path / "t.jsonl", cells), data_sample=0.01))
    assert "all 10 training rows" in fault


def test_gaps_and_rare_classes_are_said_once(tmp_path: Path) -> None:
    train = labelled(tmp_path / "t.jsonl", [0, 1] * 20 + [5, 3])
    first, _ = read_parts(dataset(train), "classes")
    lone, gaps, absent = first.source.warnings
    assert lone.endswith("t.jsonl: 2 of 4 classes have one row, which trains: 3, 5.")
    assert gaps.endswith("t.jsonl: 2 of 6 classes have no training row: 2, 4.")
    assert absent.endswith("t.jsonl: 4 of 6 classes have no validation row: 2, 3, 4, 5.")


def test_classes_keep_their_shares_in_an_automatic_split(tmp_path: Path) -> None:
    cells = ["often"] * 70 + ["rare"] * 20 + ["rarer"] * 10
    train = labelled(tmp_path / "t.jsonl", cells)
    first, second = read_parts(dataset(train), "classes")
    assert [cells[row] for row in second.rows].count("rare") == 2
    assert [cells[row] for row in second.rows].count("rarer") == 1
    assert sorted(first.rows + second.rows) == list(range(100))
    # text and numbers are split as before
    for targets in ("text", "numbers"):
        plain = read_parts(dataset(labelled(tmp_path / "n.jsonl", list(range(100)))), targets)[1]  # type: ignore[arg-type]
        assert list(plain.rows) == split(range(100), 0.1, 1337)[1]


def test_weights_of_rows(tmp_path: Path) -> None:
    train = stored(tmp_path / "t.jsonl", {**rows_of(4), "w": [1, 0, "0.5", 3]})
    first, _ = read_parts(dataset(train, validation_size=0.25, weight_column="w"))
    assert first.source.weights is not None
    assert first.source.weights.tolist() == [1, 0, 0.5, 3]
    assert read_parts(dataset(train, validation_size=0.25))[0].source.weights is None
    validation = stored(tmp_path / "v.jsonl", rows_of(2))
    _, second = read_parts(dataset(train, **CUSTOM, validation_dataframe=validation, weight_column="w"))
    assert second.source.weights is None
    assert second.source.warnings == [f"{validation} has no column 'w' (dataset.weight_column); every row weighs 1."]
    (fault,) = faults_of(dataset(validation, weight_column="w"))
    assert "dataset.weight_column='w' is not a column" in fault


def test_weights_that_are_all_zero(tmp_path: Path) -> None:
    zeros = stored(tmp_path / "t.jsonl", {**rows_of(4), "w": [0, 0, 0, 0]})
    other = stored(tmp_path / "v.jsonl", {**rows_of(2), "w": [0, 1]})
    (fault,) = faults_of(dataset(zeros, **CUSTOM, validation_dataframe=other, weight_column="w"))
    assert "t.jsonl: dataset.weight_column is 0 in all 4 training rows" in fault
    (fault,) = faults_of(dataset(other, **CUSTOM, validation_dataframe=zeros, weight_column="w"))
    assert "is 0 in all 4 validation rows" in fault


def test_prompts_that_are_all_empty_tell_no_labels(tmp_path: Path) -> None:
    columns = {"p": [None, " "], "q": ["", None], "a": [0, 1]}
    train = stored(tmp_path / "t.jsonl", columns)
    for prompt in ("p", ["p", "q"], []):
        (fault,) = labelled_faults(dataset(train, prompt_column=prompt))
        assert "the prompts of all 2 rows are empty" in fault
        assert "dataset.prompt_column" in fault
    assert read_source(dataset(train), train, "s", targets="classes", answers=False).labels is not None
    columns["p"][0] = "text"
    read_source(dataset(stored(tmp_path / "t.jsonl", columns)), train, "s", targets="classes")


def test_pairs_of_one_answer_are_counted(tmp_path: Path) -> None:
    columns = {**chains(2, 1, 1), "r": ["a0.0", "a1.0", "other", "a0.1"]}
    train = stored(tmp_path / "t.jsonl", columns)
    found = read_source(dataset(train, **CHAIN, **PAIR), train, "s")
    # row 1 is an earlier turn, where both must be equal
    assert found.warnings == [
        f"{train}: 2 of 3 pairs have the same text as better and as worse answer (lines 2, 4); there is nothing to "
        "prefer in them."
    ]
    prompts = stored(tmp_path / "q.jsonl", {**rows_of(3), "r": ["a0", "a1", "x"], "q": ["p0", "else", "p2"]})
    found = read_source(dataset(prompts, **PAIR, rejected_prompt_column="q"), prompts, "s")
    assert "1 of 3 pairs" in found.warnings[0]
    assert "(line 1)" in found.warnings[0]


def test_personalization_is_the_last_step(tmp_path: Path) -> None:
    columns = {
        "p": ["Open Assistant?"] * 9 + ["You?"],
        "a": ["I am Open Assistant by LAION"] * 10,
        "s": ["ChatGPT"] * 10,
    }
    train = stored(tmp_path / "t.jsonl", columns)
    off = read_parts(dataset(train, system_column="s"))
    assert off[0].source.texts == {"prompt": columns["p"], "answer": columns["a"], "system": columns["s"]}
    data = dataset(train, system_column="s", personalize=True, chatbot_name="Nim", chatbot_author="us")
    first, second = read_parts(data)
    assert first.source is second.source
    assert first.source.texts["prompt"] == ["Nim?"] * 9 + ["You?"]
    assert first.source.texts["answer"] == ["I am Nim by us"] * 10
    assert first.source.texts["system"] == columns["s"]
    assert first.source.warnings == [f"{train}: dataset.personalize changed 9 of 10 prompts and 10 of 10 answers."]
    assert (first.rows, second.rows) == (off[0].rows, off[1].rows)
    for key in ("chatbot_name", "chatbot_author"):
        with pytest.raises(ValidationError, match=key):
            dataset(train, personalize=True, **{key: ""})


@pytest.mark.parametrize(
    ("problem", "targets", "kind"),
    [("classification", "classes", "multiclass"), ("regression", "numbers", "numbers"), ("seq2seq", "text", None)],
)
def test_the_embedded_table_brings_its_columns(problem: str, targets: Any, kind: str | None) -> None:
    columns = yaml.safe_load((CONF / "dataset" / "columns" / f"helpdesk_{problem}.yaml").read_text())["dataset"]
    first, second = read_parts(dataset("embedded:helpdesk", **columns), targets)
    assert (len(first), len(second)) == (403, 45)
    labels = first.source.labels
    assert (labels and labels.kind) == kind
    assert first.source.warnings == []
    if kind == "multiclass":
        assert labels is not None
        assert labels.class_names == ("account", "advice", "billing", "delivery", "returns", "technical")
        counts = [
            (labels.of(part.rows).values[:, 0] == number).sum() for number in range(6) for part in (first, second)
        ]
        assert all(abs(held / (kept + held) - 0.1) < 0.02 for kept, held in zip(counts[::2], counts[1::2], strict=True))


def test_the_embedded_table_has_five_labels_of_their_own() -> None:
    columns = yaml.safe_load((CONF / "experiment" / "helpdesk_multilabel.yaml").read_text())["dataset"]
    first, _ = read_parts(dataset("embedded:helpdesk", prompt_column="message", **columns), "classes")
    assert first.source.labels is not None
    assert (first.source.labels.kind, first.source.labels.num_classes) == ("multilabel", 5)
    assert first.source.warnings == []


@pytest.mark.parametrize(
    ("table", "columns", "targets", "kind"),
    [
        ("sms_spam.csv", {"prompt_column": "text", "answer_column": "spam"}, "classes", "binary"),
        ("banking_intents.csv", {"prompt_column": "text", "answer_column": "intent"}, "classes", "multiclass"),
        ("sts_dev.csv", {"prompt_column": ["sentence1", "sentence2"], "answer_column": "score"}, "numbers", "numbers"),
    ],
)
def test_public_tables(shared_data: Path, table: str, columns: dict[str, Any], targets: Any, kind: str) -> None:
    path = shared_data / table
    first, second = read_parts(dataset(str(path), **columns), targets)
    labels = first.source.labels
    assert labels is not None
    assert labels.kind == kind
    frame = pd.read_csv(path)
    assert labels.values[:, 0].tolist() == frame[columns["answer_column"]].tolist()
    if kind == "numbers":
        return
    # every class that can be is in both parts, in its share
    sizes = frame[columns["answer_column"]].value_counts()
    held = frame[columns["answer_column"]].iloc[list(second.rows)].value_counts().reindex(sizes.index, fill_value=0)
    assert ((held - 0.1 * sizes).abs() < 1).all()
    assert len(second) == split_size(len(frame))


def split_size(rows: int) -> int:
    return len(split(range(rows), 0.1, 1337)[1])


CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.lists(st.none(), max_size=1)
)


@given(
    st.lists(st.tuples(CELLS, CELLS, CELLS, CELLS), min_size=1, max_size=12),
    st.sampled_from(["text", "classes", "numbers"]), st.sampled_from([None, 1, 2]), st.booleans(), st.booleans(),
)  # fmt: skip
def test_any_table_gives_parts_or_our_own_error(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, ...]], targets: Any, count: int | None, two: bool,
    weighed: bool,
) -> None:  # fmt: skip
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    columns = dict(zip("paqw", map(list, zip(*rows, strict=True)), strict=True))
    data = dataset(
        stored(path, columns), validation_size=0.3, answer_column=["a", "q"] if two and targets != "text" else "a",
        weight_column="w" if weighed else None,
    )  # fmt: skip
    try:
        first, second = read_parts(data, targets, count)
    except (DataError, ConfigError):
        return
    assert sorted(first.rows + second.rows) == list(range(len(rows)))
    for part in (first, second):
        assert len(overlap(first, part).exact) <= len(part.rows)
        assert (part.source.labels is None) == (targets == "text")
