"""The text of an answer while it is written: always the beginning of what it will be."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from leyden.backbone.answer_text import AnswerText
from leyden.backbone.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
EOS = 260
PIECES = ["a", "STOP", "ST", "OP", "OPS", " ", "\n", "<|im", "_end|>", "<pad", ">", "é", "😀", "\ufffd", "\x1b[2J"]


def spelled(text: str) -> list[int]:
    """As plain text, byte by byte."""
    return TOKENIZER(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def beginnings(text: AnswerText, ids: list[int]) -> list[str]:
    return [text.so_far(ids[:count]) for count in range(1, len(ids) + 1)]


@hypothesis.given(
    st.lists(st.one_of(st.sampled_from(PIECES).map(spelled), st.integers(0, 260).map(lambda token: [token]))),
    st.lists(st.sampled_from(["STOP", "ST", "OP ", "\n\n", "<|im", "a a", "é"]), max_size=3),
)
def test_what_is_told_stays_the_beginning_of_the_answer(pieces: list[list[int]], stops: list[str]) -> None:
    ids, text = [token for piece in pieces for token in piece], AnswerText(TOKENIZER, stops)
    whole = text.whole(ids)
    told = ["", *beginnings(text, ids)]
    for earlier, later in zip(told, [*told[1:], whole], strict=True):
        assert later.startswith(earlier)


def test_characters_come_whole_and_at_once() -> None:
    text = AnswerText(TOKENIZER, ())
    assert beginnings(text, spelled("aé😀b")) == ["a", "a", "aé", "aé", "aé", "aé", "aé😀", "aé😀b"]


def test_the_beginning_of_a_stop_string_is_held_back_until_it_is_none() -> None:
    text = AnswerText(TOKENIZER, ("STOP",))
    assert beginnings(text, spelled("xSTORY")) == ["x", "x", "x", "x", "xSTOR", "xSTORY"]
    assert beginnings(text, spelled("x STOP y"))[-1] == text.whole(spelled("x STOP y")) == "x"


def test_white_space_is_told_with_what_follows() -> None:
    text = AnswerText(TOKENIZER, ())
    assert beginnings(text, spelled("  a  b ")) == ["", "", "a", "a", "a", "a  b", "a  b"]


def test_nothing_is_told_of_special_tokens_and_after_the_end() -> None:
    text, start = AnswerText(TOKENIZER, ()), int(TOKENIZER.convert_tokens_to_ids("<|im_start|>"))
    ids = [*spelled("a"), start, *spelled("b"), EOS, *spelled("c")]
    assert beginnings(text, ids)[-1] == text.whole(ids) == "ab"


@pytest.mark.parametrize("name", ["<pad>"])
def test_a_special_token_that_is_spelt_out_is_taken_out_as_well(name: str) -> None:
    assert isinstance(TOKENIZER, PreTrainedTokenizerBase)
    text, ids = AnswerText(TOKENIZER, ()), spelled(f"a{name}b")
    assert name in TOKENIZER.all_special_tokens
    assert beginnings(text, ids) == ["a"] * (len(ids) - 1) + ["ab"]
    assert text.whole(ids) == "ab"
