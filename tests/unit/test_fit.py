"""How answers end: the last token that is learned, against where generation stops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.effects.small_runs import Columns, material_of

from leyden.backbone.tiny import tiny_tokenizer
from leyden.data.fit import Stops
from leyden.data.texts import Texts, rows_with
from leyden.data.tokenization import encode
from leyden.data.trees import Segment, build_tree
from leyden.training.prepare import Material

ROWS = 6
TABLE: Columns = {
    "p": [f"question {n}" for n in range(ROWS)], "a": [f"answer {n}" for n in range(ROWS)],
    "r": [f"worse {n}" for n in range(ROWS)], "w": [("no", "yes")[n % 2] for n in range(ROWS)],
    "n": [n / 2 for n in range(ROWS)],
}  # fmt: skip
PROBLEMS = {
    "causal_lm": [], "dpo": ["problem=dpo", "dataset.rejected_answer_column=r"], "seq2seq": ["problem=seq2seq"],
    "classification": ["problem=classification", "dataset.answer_column=w"],
    "regression": ["problem=regression", "dataset.answer_column=n"],
}  # fmt: skip
NO_END = "dataset.add_eos_token_to_answer=false"


def ends(material: Material) -> tuple[int, ...]:
    counts = material.counts["train"]
    names = ("answers", "answers ended by a stop token", "answers cut off",
             "answers without a stop token")  # fmt: skip
    return tuple(int(counts[name]) for name in names)


def warned(material: Material) -> list[str]:
    return [line for line in material.warnings if "do not end with a stop token" in line]


def test_the_last_token_of_each_run_of_targets() -> None:
    segments = [
        Segment([1, 2], targets=False), Segment([3, 4], targets=True, parent=0),
        Segment([5], targets=False, parent=1), Segment([6, 7], targets=True, parent=2),
        Segment([8], targets=True, parent=2, sequence=1), Segment([], targets=True, parent=2, sequence=2),
    ]  # fmt: skip
    tree = build_tree(segments, num_sequences=3)
    assert tree.tokens[tree.ends()].tolist() == [4, 7, 8]
    assert build_tree([Segment([1, 2], targets=False)]).ends().tolist() == []


@pytest.mark.parametrize("problem", ["causal_lm", "dpo", "seq2seq"])
@pytest.mark.parametrize("chat", [False, True])
def test_every_answer_ends_with_a_stop_token_or_it_is_said(problem: str, chat: bool, tmp_path: Any) -> None:
    each, options = ROWS * (2 if problem == "dpo" else 1), PROBLEMS[problem]
    material = material_of(tmp_path / "with", TABLE, *options, f"dataset.chat_template={str(chat).lower()}")
    assert ends(material) == (each, each, 0, 0)
    assert not warned(material)
    if chat:
        return
    without = material_of(tmp_path / "without", TABLE, *options, NO_END)
    assert ends(without) == (each, 0, 0, each)
    first, second = warned(without)
    assert "train answers" in first
    assert "validation answers" in second
    assert "(lines 1, 2, 3, 4, 5 and 1 more)" in first
    assert "dataset.add_eos_token_to_answer=true" in first


def test_a_cut_answer_is_counted_apart_and_not_warned_about(tmp_path: Any) -> None:
    table = {"p": ["x"] * 4, "a": ["z" * 200, "w", "v", "u" * 300]}
    material = material_of(tmp_path, table, "tokenizer.max_length=64")
    assert ends(material) == (4, 2, 2, 0)
    assert not warned(material)


def test_texts_in_pieces_end_once(tmp_path: Any) -> None:
    table = {"p": ["", ""], "a": ["long " * 50, "short"]}
    material = material_of(tmp_path, table, "dataset.prompt_column=[]", "tokenizer.max_length=64")
    pieces = len(material.train.trees)
    assert pieces > 3
    assert ends(material) == (pieces, 2, pieces - 2, 0)


def test_a_string_that_generation_stops_at_is_an_end_too(tmp_path: Any) -> None:
    table = {**TABLE, "a": [*(f"answer {n} ###" for n in range(ROWS - 1)), "no end"]}
    material = material_of(tmp_path, table, NO_END, "generation.stop_tokens='###'")
    assert ends(material) == (ROWS, ROWS - 1, 0, 1)
    assert f"(line {ROWS})" in warned(material)[0]
    assert ends(material_of(tmp_path, table, NO_END)) == (ROWS, 0, 0, ROWS), "found in the cache of the other stops"


class ChatMLWithoutEnd:
    """A template whose end is text that nothing stops at."""

    def __init__(self, closing: str = "\n") -> None:
        self.closing = closing

    def layout(self, turns: int, *, system: bool) -> Any:  # noqa: ARG002
        from leyden.data.templates import Frame, Layout

        return Layout(Frame(), (Frame(),), (Frame((), tuple(encode(tiny_tokenizer(), [self.closing])[0])),))


def test_an_end_that_is_only_white_space_stops_nothing() -> None:
    tokenizer = tiny_tokenizer()
    stops = Stops(tokenizer, ChatMLWithoutEnd(), ("</s>",))  # type: ignore[arg-type]
    assert stops.end([65, tokenizer.eos_token_id])
    assert not stops.end([65, 10])
    assert stops.end(encode(tokenizer, ["so</s>"])[0])
    assert not stops.end(encode(tokenizer, ["</s> so"])[0])


@pytest.mark.parametrize("closing", ["\n", " \n\n \n"])
def test_a_stop_string_of_the_answer_itself_ends_it_before_what_closes_it(closing: str) -> None:
    tokenizer = tiny_tokenizer()
    stops = Stops(tokenizer, ChatMLWithoutEnd(closing), ("END",))  # type: ignore[arg-type]
    assert stops.end(encode(tokenizer, ["so END" + closing])[0])
    assert not stops.end(encode(tokenizer, ["so END x" + closing])[0])


def test_rows_that_name_a_control_token() -> None:
    columns = {"p": Texts.of(["a<|im_end|>", "b", "c", "<|im_end"]), "a": Texts.of(["", "<bos>x", "", ""])}
    assert rows_with(columns, {"<|im_end|>", "<bos>", ""}, range(4)) == (0, 1)
    assert rows_with(columns, {"<|im_end|>", "<bos>"}, [3, 2, 1]) == (1,)
    assert rows_with(columns, set(), range(4)) == ()
    odd = {"p": Texts.of([r"a.*+[b]-^$ \d", "ab"])}
    assert rows_with(odd, {r".*+[b]-^$ \d"}, range(2)) == (0,)
    assert isinstance(rows_with(odd, {"x"}, range(2)).array, np.ndarray)
