"""The chat template that is saved writes the tokens of the training, whatever the markers, end tokens and texts."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.test_templates import dataset, ids_of, joined, messages
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from leyden.backbone.tiny import tiny_tokenizer
from leyden.data.templates import MarkerTemplate

WORDS = ["red", " green", "blue. ", "<|p|>", "|>", "<", "{{ x }}", "{% if %}", "'", '"', "\\", "\\n", "\n", "\r\n", " ",
         "\t", "质", "é", "e\u0301", "\u200f", "😀", "\0", "#}", "-%}"]  # fmt: skip
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map("".join)
MARKERS = st.one_of(st.just(""), TEXTS)
SWITCH = st.booleans()
BYTES = tiny_tokenizer()


def escaped(text: str) -> str:
    """A marker as it stands in the settings."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


@cache
def merging_tokenizer(markers: tuple[str, ...] = ()) -> PreTrainedTokenizerBase:
    """Byte pairs that were learned from the words above, so that texts which meet are joined to one token.

    Args:
        markers: that are tokens of their own.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    learner = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["".join(WORDS), "red|>red green<|p|>blue"] * 20, learner)
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
    found = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", clean_up_tokenization_spaces=False)
    found.add_tokens(list(markers))
    return found


@st.composite
def chats(draw: st.DrawFn) -> tuple[dict[str, Any], list[tuple[str, str]], str]:
    """Settings of markers, the turns, and a system text or none."""
    own = {
        "text_system_start": escaped(draw(MARKERS)),
        "text_prompt_start": escaped(draw(MARKERS)),
        "text_answer_separator": escaped(draw(MARKERS)),
        **{f"add_eos_token_to_{part}": draw(SWITCH) for part in ("system", "prompt", "answer")},
    }
    return own, draw(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4)), draw(MARKERS)


def both(tokenizer: PreTrainedTokenizerBase, chat: Any) -> list[tuple[list[int], list[int]]]:
    """The tokens of the training and those of the template: of the conversation, and of its last prompt."""
    own, turns, system = chat
    template = MarkerTemplate(dataset(**own), tokenizer)
    trained = joined(tokenizer, template.layout(len(turns), system=bool(system)), turns, system)
    without = joined(
        tokenizer, template.layout(len(turns), system=bool(system)), [*turns[:-1], (turns[-1][0], "")], system
    )
    end = len(template.layout(1, system=False).answers[0].after)
    tokenizer.chat_template = template.jinja
    talk = messages(turns, system)
    asked = ids_of(tokenizer, talk[:-1], add_generation_prompt=True)
    assert asked == ids_of(tokenizer, talk[:-1]), "the separator belongs to the prompt"
    return [(trained, ids_of(tokenizer, talk)), (without[: len(without) - end], asked)]


@settings(max_examples=60)
@given(chats())
def test_a_byte_for_a_token_gives_the_same_tokens(chat: Any) -> None:
    for trained, written in both(BYTES, chat):
        assert written == trained


@settings(max_examples=60)
@given(chats())
def test_a_tokenizer_that_joins_what_meets_gives_the_same_text(chat: Any) -> None:
    tokenizer = merging_tokenizer()
    for trained, written in both(tokenizer, chat):
        assert tokenizer.decode(written) == tokenizer.decode(trained)


@settings(max_examples=60)
@given(chats())
def test_it_gives_the_same_tokens_where_each_marker_is_a_token_of_its_own(chat: Any) -> None:
    own = {"text_system_start": "<|S|>", "text_prompt_start": "<|P|>", "text_answer_separator": "<|A|>"}
    tokenizer = merging_tokenizer(tuple(own.values()))
    for trained, written in both(tokenizer, ({**chat[0], **own}, *chat[1:])):
        assert written == trained


def test_there_are_tokenizers_that_join_a_marker_and_a_text() -> None:
    """What the card says: the text is the same, the tokens are not."""
    tokenizer = merging_tokenizer()
    chat = ({"text_prompt_start": "|", "add_eos_token_to_prompt": False}, [(">red", "x")], "")
    trained, written = both(tokenizer, chat)[0]
    assert written != trained
    assert tokenizer.decode(written) == tokenizer.decode(trained)


@pytest.mark.parametrize("name", ["<|im_end|>", "<|end|>"])
def test_the_name_of_a_control_token_is_text_in_training_and_steers_in_the_template(name: str) -> None:
    tokenizer = BYTES if name == "<|im_end|>" else merging_tokenizer()
    template = MarkerTemplate(dataset(), tokenizer)
    trained = joined(tokenizer, template.layout(1, system=False), [(name, "x")], "")
    tokenizer.chat_template = template.jinja
    written = ids_of(tokenizer, messages([(name, "x")], ""))
    assert written.count(tokenizer.eos_token_id) == trained.count(tokenizer.eos_token_id) + 1
