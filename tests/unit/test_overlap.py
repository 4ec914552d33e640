from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.data.cells import linked_rows
from leyden.data.labels import Labels
from leyden.data.overlap import normalized, overlap
from leyden.data.rows import Part
from leyden.data.sources import Source
from leyden.data.table import read_table


def part_of(
    path: Path, prompts: list[str], answers: list[str] | None = None, *, labels: list[float] | None = None,
    parents: list[int | None] | None = None, rows: list[int] | None = None,
) -> Part:  # fmt: skip
    """A part over a table whose ids are its row numbers."""
    parents = parents or [None] * len(prompts)
    lines = [{"id": row, "parent": parent} for row, parent in enumerate(parents)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = read_table(path)
    columns: dict[str, Any] = {"dataset.id_column": "id", "dataset.parent_id_column": "parent"}
    texts = {"prompt": prompts} | ({} if answers is None else {"answer": answers})
    numbers = labels and Labels(np.asarray(labels)[:, None], ("y",), ("0", "1"), "binary", 1)
    source = Source(table, texts, {}, linked_rows(table, columns, texts, {}), labels=numbers or None)
    kept = tuple(range(len(prompts)) if rows is None else rows)
    return Part(source, kept, tuple(source.threads.chain(row) for row in kept))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Where IS my\n parcel?!", "where is my parcel"),
        ("where is my parcel", "where is my parcel"),
        ("Ｆｕｌｌ－ｗｉｄｔｈ", "full width"),
        ("STRASSE straße", "strasse strasse"),
        ("“quoted” – it’s", "quoted it s"),
        ("cafe\u0301", "café"),
        ("\u200bzero\u00a0width\ufeff", "zero width"),
        ("की कि", "की कि"),  # vowel signs are no punctuation
        ("2+2=4 😀", "2+2=4 😀"),
        ("???", "???"),
        ("", ""),
        ("  ", ""),
    ],
)
def test_normal_form(text: str, expected: str) -> None:
    assert normalized(text) == expected
    assert normalized(expected) == expected


def test_rows_that_stand_on_both_sides(tmp_path: Path) -> None:
    train = part_of(tmp_path / "t.jsonl", ["Hello", "Bye", "Hello", "Again?", "Hello"], ["a", "b", "a", "c", "z"])
    validation = part_of(tmp_path / "v.jsonl", ["New", "Hello", "HELLO!", "Bye", "again", "again"], [*"aabxcd"])
    found = overlap(train, validation)
    assert found.exact == (1,)
    assert found.similar == (1, 2, 3, 4, 5)
    assert found.duplicates == (2,)
    exact, similar, twice = found.warnings
    assert "v.jsonl: validation rows stand in training too, prompt and answer (line 2)" in exact
    assert "v.jsonl: validation rows have a prompt that stands in training too" in similar
    assert "(lines 3, 4, 5, 6)" in similar
    assert "t.jsonl: training rows repeat an earlier one, prompt and answer (line 3)" in twice


def test_rows_that_differ_say_nothing(tmp_path: Path) -> None:
    found = overlap(part_of(tmp_path / "t.jsonl", ["a", "b"], ["x", "x"]), part_of(tmp_path / "v.jsonl", ["c"], ["x"]))
    assert (found.exact, found.similar, found.duplicates, found.warnings) == ((), (), (), ())


def test_the_border_between_prompt_and_answer_counts(tmp_path: Path) -> None:
    train = part_of(tmp_path / "t.jsonl", ["ab", "1:", "a"], ["c", "x", "2:bc"])
    assert overlap(train, part_of(tmp_path / "v.jsonl", ["a", "1", "a2"], ["bc", ":x", ":bc"])).exact == ()


def test_one_table_that_was_split(tmp_path: Path) -> None:
    whole = part_of(tmp_path / "t.jsonl", ["p", "q", "p", "p"], ["a", "a", "a", "a"])
    train, validation = (Part(whole.source, rows, tuple((row,) for row in rows)) for rows in ((0, 1), (2, 3)))
    found = overlap(train, validation)
    assert (found.exact, found.duplicates) == ((2, 3), ())
    assert "lines 3, 4" in found.warnings[0]


def test_a_row_counts_with_its_history(tmp_path: Path) -> None:
    parents = [None, 0, None, 2]
    train = part_of(
        tmp_path / "t.jsonl", ["hi", "thanks", "hey", "thanks"], ["yes?", "bye", "no", "bye"], parents=parents
    )
    assert overlap(train, train).duplicates == ()  # `thanks` twice, in talks that differ
    other = part_of(
        tmp_path / "v.jsonl", ["Thanks", "hi", "HI", "ho"], ["bye", "yes?", "yes", "-"], parents=[1, None, None, 2]
    )
    found = overlap(train, other)
    assert found.exact == (1,)
    assert found.similar == (0, 1, 2)  # row 0 follows `hi`, `yes?`, as in training


def test_rows_with_labels(tmp_path: Path) -> None:
    train = part_of(tmp_path / "t.jsonl", ["a", "b", "", "b"], labels=[0, 1, 1, 1])
    validation = part_of(tmp_path / "v.jsonl", ["a", "a", "b.", "c", ""], labels=[0, 1, 1, 1, 0])
    found = overlap(train, validation)
    assert (found.exact, found.similar, found.duplicates) == ((0,), (0, 1, 2, 4), (3,))


def test_texts_without_a_prompt_are_compared_by_what_they_say(tmp_path: Path) -> None:
    train = part_of(tmp_path / "t.jsonl", ["", ""], ["One text.", "Another"])
    found = overlap(train, part_of(tmp_path / "v.jsonl", ["", "", ""], ["one text", "third", "Another"]))
    assert (found.exact, found.similar) == ((2,), (0, 2))


def test_rows_that_were_left_out_do_not_count(tmp_path: Path) -> None:
    train = part_of(tmp_path / "t.jsonl", ["a", "b"], ["x", "y"], rows=[1])
    assert overlap(train, part_of(tmp_path / "v.jsonl", ["a", "b"], ["x", "y"])).exact == (1,)


TEXTS = st.lists(st.text(st.sampled_from("aAb .!ß\u00a0Ａ"), max_size=3), min_size=1, max_size=12)


@given(TEXTS, TEXTS, st.randoms(use_true_random=False))
def test_it_finds_what_comparing_every_pair_finds(
    tmp_path_factory: pytest.TempPathFactory, left: list[str], right: list[str], random: Any
) -> None:
    folder = tmp_path_factory.getbasetemp()
    said = [[random.choice("xy") for _ in texts] for texts in (left, right)]
    found = overlap(part_of(folder / "l.jsonl", left, said[0]), part_of(folder / "r.jsonl", right, said[1]))
    a, b = (list(zip(texts, answers, strict=True)) for texts, answers in zip((left, right), said, strict=True))
    assert found.exact == tuple(row for row, pair in enumerate(b) if pair in a)
    assert found.duplicates == tuple(row for row, pair in enumerate(a) if pair in a[:row])

    def plain(pair: tuple[str, str]) -> tuple[str, str]:
        folded = unicodedata.normalize("NFKC", pair[0]).casefold()
        words = re.sub(r"[\s.!]+", " ", folded).strip() or re.sub(r"\s+", " ", folded).strip()
        return words, "" if words else pair[1]

    assert found.similar == tuple(row for row, pair in enumerate(b) if plain(pair) in [plain(other) for other in a])
