from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden.data.conversations import agreeing_histories, thread_rows
from leyden.data.message_cells import hold_messages
from leyden.data.messages import expand_messages, expand_preferences
from leyden.data.table import Table, read_table
from leyden.settings.errors import DataError

FORMATS = ["jsonl", "parquet", "csv"]
S, U, A = "system", "user", "assistant"


def said(*pairs: tuple[str, Any], style: str = "openai") -> list[dict[str, Any]]:
    role, text = ("role", "content") if style == "openai" else ("from", "value")
    return [{role: who, text: what} for who, what in pairs]


def stored(folder: Path, kind: str, columns: dict[str, Sequence[Any]]) -> Table:
    path = folder / f"t.{kind}"
    if kind == "jsonl":
        rows = zip(*columns.values(), strict=True)
        path.write_text("\n".join(json.dumps(dict(zip(columns, row, strict=True))) for row in rows))
    elif kind == "parquet":
        pd.DataFrame(columns).to_parquet(path)
    else:
        frame = pd.DataFrame({name: pd.Series(list(cells), dtype=object) for name, cells in columns.items()})
        frame.map(lambda cell: json.dumps(cell) if isinstance(cell, list | dict) else cell).to_csv(path, index=False)
    return read_table(path)


def faults_of(table: Table, *args: Any, preferences: bool = False) -> dict[str, str]:
    """Faults by the words between `holds` and `in line`."""
    with pytest.raises(DataError) as caught:
        (expand_preferences if preferences else expand_messages)(table, *args)
    return {fault.split(" holds ")[1].split(" in line")[0]: fault for fault in caught.value.faults}


def texts(table: Table, *columns: str) -> list[tuple[str | None, ...]]:
    return list(zip(*(table.texts(column) for column in columns), strict=True))


@pytest.mark.parametrize("style", ["openai", "sharegpt"])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_row_per_turn(tmp_path: Path, kind: str, style: str) -> None:
    user, model = (U, A) if style == "openai" else ("human", "gpt")
    cells = [
        said((S, "be kind"), (user, "q1"), (model, "a1"), (user, "q2"), (model, "a2"), style=style),
        said((user, "None\n日本"), (model, ' "x", y '), style=style),
    ]
    table, notes = expand_messages(stored(tmp_path, kind, {"m": cells, "topic": ["t", None]}), "m")
    assert list(table.frame.columns) == ["system", "prompt", "answer", "id", "parent_id", "topic"]
    assert texts(table, "system", "prompt", "answer", "topic") == [
        ("be kind", "q1", "a1", "t"),
        ("be kind", "q2", "a2", "t"),
        (None, "None\n日本", ' "x", y ', None),
    ]
    threads = thread_rows(table, "id", "parent_id")
    assert threads.parents == [None, 0, None]
    assert threads.warnings == []
    first = {"jsonl": "line", "parquet": "row", "csv": "line"}[kind]
    assert table.places([0, 1]) == f"{first} {2 if kind == 'csv' else 1}"
    assert notes == [f"{table.path}: column 'm': 2 conversations of 3 turns."]


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8) | st.sampled_from(["\n", "[]", '"', "\\u00e9"])
CONVERSATION = st.tuples(st.none() | TEXT, st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))


@settings(max_examples=50, deadline=None)
@given(st.lists(CONVERSATION, min_size=1, max_size=4), st.sampled_from(FORMATS))
def test_chains_read_back_as_the_messages(conversations: list[Any], kind: str) -> None:
    cells = [
        said(*([(S, system)] if system else []), *(part for q, a in turns for part in ((U, q), (A, a))))
        for system, turns in conversations
    ]
    with tempfile.TemporaryDirectory() as folder:
        table, _ = expand_messages(stored(Path(folder), kind, {"id": range(len(cells)), "m": cells}), "m")
    threads = thread_rows(table, "id", "parent_id")
    found = []
    for leaf in threads.leaves():
        chain = threads.chain(leaf)
        system = table.texts("system")[chain[0]]
        turns = [part for row in chain for part in ((U, table.texts("prompt")[row]), (A, table.texts("answer")[row]))]
        found.append(said(*([(S, system)] if system else []), *turns))
    assert found == cells
    assert [int(str(text)) for text in table.texts("row_id")] == [
        number for number, (_, turns) in enumerate(conversations) for _ in turns
    ]


def test_what_is_joined_and_left_out_is_counted(tmp_path: Path) -> None:
    cells = [
        said((U, "a"), (U, "b"), (U, "c"), (A, "x"), (U, "left"), (U, "out")),
        said((S, "s"), (U, "nobody answers")),
        said((U, "d"), (A, "y")),
    ]
    source = stored(tmp_path, "jsonl", {"m": cells})
    table, notes = expand_messages(source, "m")
    assert texts(table, "prompt", "answer") == [("a\n\nb\n\nc", "x"), ("d", "y")]
    _, joined, last, whole = notes
    assert "2 user messages that follow another one are joined to it with a blank line (line 1)" in joined
    assert "2 user messages at the end have no answer and are left out (line 1)" in last
    assert "1 rows hold no answer at all and are left out (line 2)" in whole
    table, notes = expand_messages(source, "m", complete=False)
    assert texts(table, "system", "prompt", "answer") == [
        (None, "a\n\nb\n\nc", "x"),
        (None, "left\n\nout", None),
        ("s", "nobody answers", None),
        (None, "d", "y"),
    ]
    assert thread_rows(table, "id", "parent_id").parents == [None, 0, None, None]
    assert "3 user messages" in notes[1]
    only = stored(tmp_path, "jsonl", {"m": cells[1:2]})
    with pytest.raises(DataError, match="column 'm' holds no answer"):
        expand_messages(only, "m")


def test_every_kind_of_fault_is_named_with_its_rows(tmp_path: Path) -> None:
    good = said((U, "q"), (A, "a"))
    calls = [{**good[1], "tool_calls": [{"id": "1"}]}]
    cells = [
        good, None, "text", {"role": U}, [], said((S, "s")), [good[0], "x"], [{"content": "x"}],
        said(("bot", "x")), said(("narrator", "x")), said((U, "q"), ("tool", "x")), [good[0], *calls],
        said((U, ["parts"])), said((U, None)), said((U, 5)), said((U, "q"), (S, "s")), said((S, "s"), (S, "s")),
        said((A, "a")), said((S, "s"), (A, "a")), said((U, "q"), (A, "a"), (A, "b")), '[{"role": "user"', "[1]",
        '[{"role": "user", "content": "\\ud83d"}]',
    ]  # fmt: skip
    found = faults_of(stored(tmp_path, "jsonl", {"m": cells}), "m")
    lines = {what: fault.split(" in line")[1].split(" (")[0].removeprefix("s").strip() for what, fault in found.items()}
    assert lines == {
        "no list of messages": "2, 3, 4, 21, 23",
        "no user message": "5, 6",
        "a message without a role": "7, 8, 22",
        "an unknown role ('bot', 'narrator')": "9, 10",
        "tool calls or their results": "11, 12",
        "a message that is no text": "13, 14, 15",
        "a system message that is not the first": "16, 17",
        "an answer before the first user message": "18, 19",
        "two answers in a row": "20",
    }
    assert all(f"{tmp_path / 't.jsonl'}: column 'm'" in fault for fault in found.values())
    assert "(5 of 23 rows). Write [{role, content}" in found["no list of messages"]
    assert "Use system, user (or human)" in found["an unknown role ('bot', 'narrator')"]


def test_python_text_in_csv_gets_the_cure(tmp_path: Path) -> None:
    pd.DataFrame({"m": [said((U, "q"), (A, "a"))]}).to_csv(tmp_path / "t.csv", index=False)  # as pandas writes lists
    (fault,) = faults_of(read_table(tmp_path / "t.csv"), "m").values()
    assert "in csv as JSON: json.dumps" in fault


def test_parts_that_are_not_used_are_said_and_empty_ones_are_not(tmp_path: Path) -> None:
    cells = [[{"role": U, "content": "q", "name": "Ann", "tool_calls": None}, {"role": " Assistant", "content": "a"}]]
    for kind in FORMATS:
        _, notes = expand_messages(stored(tmp_path, kind, {"m": cells}), "m")
        assert "1 messages have parts that are not used ('name')" in notes[1]


def test_a_system_column_beside_the_messages(tmp_path: Path) -> None:
    cells = [said((U, "q"), (A, "a")), said((S, "own"), (U, "q"), (A, "a"))]
    table, _ = expand_messages(stored(tmp_path, "jsonl", {"m": cells, "system": ["beside", None]}), "m")
    assert table.texts("system") == ["beside", "own"]
    (fault,) = faults_of(stored(tmp_path, "jsonl", {"m": cells, "system": ["beside", "other"]}), "m").values()
    assert "a system message, and another text in column 'system' in line 2 " in fault


def test_columns_whose_names_are_needed_are_renamed(tmp_path: Path) -> None:
    cells = [said((U, "q"), (A, "a"))]
    columns: dict[str, Sequence[Any]] = {"id": ["x"], "row_id": ["y"], "m": cells, "prompt": ["p"], "note": ["n"]}
    table, notes = expand_messages(stored(tmp_path, "jsonl", columns), "m")
    assert list(table.frame.columns) == [
        "system", "prompt", "answer", "id", "parent_id", "row_row_id", "row_id", "row_prompt", "note",
    ]  # fmt: skip
    assert texts(table, "id", "row_row_id", "row_id", "prompt", "row_prompt") == [("1-1", "x", "y", "q", "p")]
    assert [note.split(": ", 1)[1] for note in notes[1:]] == [
        "column 'id' is called 'row_row_id' here.",
        "column 'prompt' is called 'row_prompt' here.",
    ]


def test_prompt_and_completion_are_joined(tmp_path: Path) -> None:
    columns = {"prompt": [said((S, "s"), (U, "q"))], "completion": [said((A, "a"), (U, "r"), (A, "b"))]}
    table, _ = expand_messages(stored(tmp_path, "parquet", columns), ["prompt", "completion"])
    assert texts(table, "system", "prompt", "answer") == [("s", "q", "a"), ("s", "r", "b")]


def test_an_absent_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset\.messages_column='message' is not a column.*Did you mean 'messages'"):
        expand_messages(stored(tmp_path, "jsonl", {"messages": [said((U, "q"), (A, "a"))]}), "message")


HISTORY = [(S, "s"), (U, "q1"), (A, "a1"), (U, "q2")]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("prompt", ["inside", "list", "both", "text"])
def test_pairs_share_their_history(tmp_path: Path, kind: str, prompt: str) -> None:
    before = said(*HISTORY) if prompt in {"inside", "both"} else []
    columns: dict[str, Sequence[Any]] = {
        "chosen": [before + said((A, "good"))],
        "rejected": [before + said((A, "bad"))],
        "score": [0.5],
    }
    if prompt in {"list", "both"}:
        columns["prompt"] = [said(*HISTORY)]
    elif prompt == "text":
        columns["prompt"] = ["q2"]
    table, notes = expand_preferences(
        stored(tmp_path, kind, columns), "chosen", "rejected", "prompt" if prompt != "inside" else None
    )
    last = ("q2", "good", "bad")
    if prompt == "text":
        assert texts(table, "prompt", "answer", "rejected") == [last]
    else:
        assert texts(table, "system", "prompt", "answer", "rejected") == [("s", "q1", "a1", "a1"), ("s", *last)]
        threads = thread_rows(table, "id", "parent_id")
        agreeing_histories(table, threads, table.texts("answer"), table.texts("rejected"), ("answer", "rejected"))
        assert threads.chain(1) == (0, 1)
    assert table.texts("score")[0] == "0.5"
    assert len(notes) == 1


def test_a_prompt_text_beside_whole_lists_is_not_used(tmp_path: Path) -> None:
    both = said((U, "q"), (A, "a"))
    columns = {"chosen": [both, both], "rejected": [both, both], "prompt": ["q", "something else"]}
    table, notes = expand_preferences(stored(tmp_path, "jsonl", columns), prompt="prompt")
    assert table.texts("prompt") == ["q", "q"]
    assert "1 prompts beside the lists are not in them and are not used (line 2)" in notes[1]


def test_pairs_that_cannot_be_compared(tmp_path: Path) -> None:
    good, bad, other = said((U, "q"), (A, "a")), said((U, "q"), (A, "b")), said((U, "Q"), (A, "b"))
    columns = {
        "chosen": [good, good, said((U, "q")), good, [], good],
        "rejected": [bad, other, bad, said((U, "q"), (A, "a"), (U, "r"), (A, "b")), bad, None],
    }
    found = faults_of(stored(tmp_path, "jsonl", columns), preferences=True)
    assert "in lines 2, 4 (2 of 6 rows)" in found["two lists that differ before their last answers"]
    assert "in lines 3, 5 (2 of 6 rows)" in found["a list that does not end in an answer"]
    assert "in line 6 (1 of 6 rows)" in found["no list of messages"]
    assert len(found) == 3


def test_cells_are_told_from_other_lists() -> None:
    assert hold_messages([None, "", said((U, "q")), []])
    assert hold_messages([json.dumps(said(("human", "q"), style="sharegpt"))])
    for cells in ([], [None], [[]], ["text"], [[1]], [said((U, "q")), "text"], [[{"a": 1}]], [{"role": U}]):
        assert not hold_messages(cells)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from([U, A, S, "tool"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "tool_calls", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)
NEAR = st.lists(st.tuples(st.sampled_from([S, U, A, "gpt", "human"]), TEXT).map(lambda pair: said(pair)[0]), max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.fixed_dictionaries({"chosen": JSON | NEAR, "rejected": JSON | NEAR, "p": JSON | NEAR}), min_size=1))
def test_any_json_is_turns_or_a_fault_of_the_user(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
        try:
            table = read_table(Path(folder) / "t.jsonl")
        except DataError:
            return
        for complete in (True, False):
            with suppress(DataError):
                turns, _ = expand_messages(table, "chosen", complete=complete)
                assert thread_rows(turns, "id", "parent_id").warnings == []
                assert len(turns) >= len(set(turns.lines))
        with suppress(DataError):
            turns, _ = expand_preferences(table, prompt="p")
            threads = thread_rows(turns, "id", "parent_id")
            agreeing_histories(turns, threads, turns.texts("answer"), turns.texts("rejected"), ("answer", "rejected"))
