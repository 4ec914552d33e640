from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from leyden.data.conversations import thread_rows
from leyden.data.detection import Purpose, arrange, detect
from leyden.data.messages import TURNS
from leyden.data.table import Table, read_table
from leyden.settings.errors import DataError

CONF = Path(__file__).parents[2] / "conf" / "dataset"
TALK = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
OTHER = [TALK[0], {"role": "assistant", "content": "b"}]
GPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


def table_of(folder: Path, *names: str, **cells: Any) -> Table:
    (folder / "t.jsonl").write_text(json.dumps(dict.fromkeys(names, "x") | cells))
    return read_table(folder / "t.jsonl")


@pytest.mark.parametrize(
    ("names", "purpose", "expected"),
    [
        ("instruction input output", None, {"prompt_column": ["instruction", "input"], "answer_column": "output"}),
        ("instruction output", None, {"prompt_column": ["instruction"], "answer_column": "output"}),
        (
            "context instruction response",
            None,
            {"prompt_column": ["instruction", "context"], "answer_column": "response"},
        ),
        ("Question Answer", None, {"prompt_column": ["Question"], "answer_column": "Answer"}),
        ("prompt response lang", None, {"prompt_column": ["prompt"], "answer_column": "response"}),
        ("prompt completion", None, {"prompt_column": ["prompt"], "answer_column": "completion"}),
        ("input output", None, {"prompt_column": ["input"], "answer_column": "output"}),
        (
            "system_prompt question response",
            None,
            {"prompt_column": ["question"], "answer_column": "response", "system_column": "system_prompt"},
        ),
        (
            "id parent_id prompt answer",
            None,
            {
                "prompt_column": ["prompt"],
                "answer_column": "answer",
                "id_column": "id",
                "parent_id_column": "parent_id",
            },
        ),
        ("id prompt answer", None, {"prompt_column": ["prompt"], "answer_column": "answer"}),
        (
            "prompt chosen rejected",
            None,
            {"prompt_column": ["prompt"], "answer_column": "chosen", "rejected_answer_column": "rejected"},
        ),
        (
            "instruction input output rejected_response",
            "pairs",
            {
                "prompt_column": ["instruction", "input"],
                "answer_column": "output",
                "rejected_answer_column": "rejected_response",
            },
        ),
        ("prompt chosen rejected", "answers", {"prompt_column": ["prompt"], "answer_column": "chosen"}),
        ("text label", None, {"prompt_column": ["text"], "answer_column": "label"}),
        ("sentence label idx", "labels", {"prompt_column": ["sentence"], "answer_column": "label"}),
        ("text label", "answers", {"prompt_column": [], "answer_column": "text"}),
        ("text", None, {"prompt_column": [], "answer_column": "text"}),
        ("text file", "answers", {"prompt_column": [], "answer_column": "text"}),
    ],
)
def test_columns_of_texts(tmp_path: Path, names: str, purpose: Purpose | None, expected: dict[str, Any]) -> None:
    found = detect(table_of(tmp_path, *names.split()), purpose)
    assert (found.form, found.columns) == ("columns", expected)
    used = {name for value in expected.values() for name in ([value] if isinstance(value, str) else value)}
    left = [name for name in names.split() if name not in used]
    assert found.how.endswith(f"; not used: {', '.join(map(repr, left))}." if left else found.how[-2:])
    assert all(f"{key}=" in found.how for key in expected)


def test_the_sentence(tmp_path: Path) -> None:
    found = detect(table_of(tmp_path, "instruction", "input", "output", "id", *"abcdef"))
    assert found.how == (
        "read as prompts and answers: prompt_column=[instruction, input], answer_column=output; "
        "not used: 'id', 'a', 'b', 'c', 'd' and 2 more."
    )


@pytest.mark.parametrize(
    ("names", "cells", "expected"),
    [
        ("id source", {"conversations": GPT}, "conversations"),
        ("", {"messages": TALK}, "messages"),
        ("", {"messages": json.dumps(TALK)}, "messages"),
        ("prompt prompt_id", {"messages": TALK}, "messages"),
        ("text", {"anything": TALK}, "anything"),
        ("", {"prompt": TALK[:1], "completion": TALK[1:]}, ["prompt", "completion"]),
    ],
)
def test_messages_by_what_the_cells_hold(tmp_path: Path, names: str, cells: dict[str, Any], expected: Any) -> None:
    found = detect(table_of(tmp_path, *names.split(), **cells))
    assert (found.form, found.columns) == ("messages", {"messages_column": expected})
    table, columns, notes = arrange(table_of(tmp_path, *names.split(), **cells), found.form, found.columns)
    assert columns == {
        "system_column": "system", "prompt_column": ["prompt"], "answer_column": "answer",
        "id_column": "id", "parent_id_column": "parent_id",
    }  # fmt: skip
    assert (table.texts("prompt"), table.texts("answer")) == (["q"], ["a"])
    assert "1 conversations of 1 turns" in notes[0]


@pytest.mark.parametrize("prompt", [{}, {"prompt": "q"}, {"prompt": TALK[:1]}])
def test_pairs_of_message_lists(tmp_path: Path, prompt: dict[str, Any]) -> None:
    table = table_of(tmp_path, "score", chosen=TALK, rejected=OTHER, messages=TALK, **prompt)
    found = detect(table, "pairs")
    assert found.form == "preferences"
    assert found.columns == {
        "prompt_column": [*prompt], "answer_column": "chosen", "rejected_answer_column": "rejected",
    }  # fmt: skip
    assert found.how.endswith("not used: 'score', 'messages'.")
    table, columns, _ = arrange(table, found.form, {**found.columns, "rejected_prompt_column": None})
    assert columns["rejected_answer_column"] == "rejected"
    assert (columns["answer_column"], columns["rejected_prompt_column"]) == ("answer", None)
    assert (table.texts("answer"), table.texts("rejected")) == (["a"], ["b"])
    # for a problem with answers the same table is one of conversations
    assert detect(table_of(tmp_path, chosen=TALK, rejected=OTHER, messages=TALK), "answers").form == "messages"


@pytest.mark.parametrize(
    ("names", "cells", "purpose"),
    [
        ("prompt response answer", {}, None),
        ("prompt question answer", {}, None),
        ("", {"messages": TALK, "conversations": GPT}, None),
        ("prompt response", {"messages": TALK}, None),
        ("text Text", {}, None),
        ("text sentence label", {}, "labels"),
        ("prompt chosen rejected rejected_response", {}, "pairs"),
    ],
)
def test_two_readings_are_refused(tmp_path: Path, names: str, cells: dict[str, Any], purpose: Purpose | None) -> None:
    with pytest.raises(DataError, match="can be read in 2 ways.*; or .*it has '.*dataset.prompt_column"):
        detect(table_of(tmp_path, *names.split(), **cells), purpose)


@pytest.mark.parametrize(
    ("names", "purpose"),
    [
        ("a b", None),
        ("chosen rejected", None),  # whole transcripts as text: what the prompt is cannot be told
        ("text answer", None),
        ("prompt answer", "pairs"),
        ("prompt answer", "labels"),
        ("prompt", None),
        ("message category", None),
    ],
)
def test_nothing_that_fits_is_refused(tmp_path: Path, names: str, purpose: Purpose | None) -> None:
    with pytest.raises(DataError) as caught:
        detect(table_of(tmp_path, *names.split()), purpose)
    (fault,) = caught.value.faults
    assert f"{tmp_path / 't.jsonl'} has no columns that tell what they are" in fault
    assert f"it has {', '.join(map(repr, names.split()))}." in fault
    for setting in ("dataset=table", "dataset.prompt_column", "dataset.answer_column", "dataset.messages_column"):
        assert setting in fault


def test_columns_are_handed_back_as_they_were(tmp_path: Path) -> None:
    table = table_of(tmp_path, "q", "a")
    assert arrange(table, "columns", {"prompt_column": "q", "answer_column": "a"}) == (
        table, {"prompt_column": "q", "answer_column": "a"}, [],
    )  # fmt: skip
    with pytest.raises(DataError, match="beside lists of messages. Name one column"):
        arrange(
            table, "preferences", {"prompt_column": ["q", "a"], "answer_column": "a", "rejected_answer_column": "a"}
        )


def test_prediction_keeps_the_last_question(tmp_path: Path) -> None:
    table = table_of(tmp_path, messages=TALK[:1])
    turns, _, _ = arrange(table, "messages", {"messages_column": "messages"}, complete=False)
    assert (turns.texts("prompt"), turns.texts("answer")) == (["q"], [None])
    with pytest.raises(DataError, match="holds no answer"):
        arrange(table, "messages", {"messages_column": "messages"})


@pytest.mark.parametrize(
    ("name", "purpose", "expected"),
    [
        ("sft_alpaca_en.csv", None, {"prompt_column": ["instruction", "input"], "answer_column": "output"}),
        (
            "dpo_pairs_en.csv", None,
            {"prompt_column": ["instruction"], "answer_column": "chosen", "rejected_answer_column": "rejected",
             "system_column": "system"},
        ),
        (
            "dpo_chains_en.parquet", "answers",
            {"prompt_column": ["instruction"], "answer_column": "chosen", "system_column": "system",
             "id_column": "id", "parent_id_column": "parent_id"},
        ),
        ("sms_spam.csv", "answers", {"prompt_column": [], "answer_column": "text"}),
    ],
)  # fmt: skip
def test_real_tables(shared_data: Path, name: str, purpose: Purpose | None, expected: dict[str, Any]) -> None:
    table = read_table(shared_data / name)
    found = detect(table, purpose)
    assert found.columns == expected
    if "id_column" in expected:
        assert not thread_rows(table, "id", "parent_id").warnings


def test_the_settings_files_name_what_the_code_makes() -> None:
    def read(name: str) -> dict[str, Any]:
        tree = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
        assert isinstance(tree, dict)
        return tree

    messages = read("messages")
    assert (messages["format"], messages["messages_column"]) == ("messages", "messages")
    made = {key: value for key, value in messages.items() if key.endswith("_column") and key != "messages_column"}
    assert sorted(made.values()) == sorted(TURNS)
    assert all(key == f"{name}_column" for key, name in made.items())
    text = read("text")
    assert (text["prompt_column"], text["answer_column"]) == ([], "text")
    assert read("auto")["format"] == "auto"
