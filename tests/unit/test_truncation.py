from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from leyden.backbone.tiny import tiny_tokenizer
from leyden.data.templates import ChatTemplate, Frame, Layout
from leyden.data.truncation import Conversation, TurnTexts, fit_conversation
from leyden.settings.errors import ConfigError

EOS = 900
SYSTEM, PROMPT, SEPARATOR = 901, 902, 903


class Markers:
    """Frames of so many tokens; a stand-in whose numbers are easy to count."""

    stops: tuple[str, ...] = ()
    jinja = ""

    def __init__(self, prompt: int = 1, separator: int = 1, end: bool = True) -> None:
        after = (EOS, *[SEPARATOR] * separator)
        self.prompt, self.answer = Frame((PROMPT,) * prompt, after), Frame((), (EOS,) if end else ())
        self.system = Frame((SYSTEM,), (EOS,))

    def layout(self, turns: int, *, system: bool) -> Layout:
        return Layout(self.system if system else Frame(), (self.prompt,) * turns, (self.answer,) * turns)


class Case(NamedTuple):
    template: Markers
    system: list[int]
    turns: list[TurnTexts]
    max_length: int


def ids(start: int, size: int) -> list[int]:
    """Numbers that say which text they are from, and where in it they stand."""
    return [start + place for place in range(size)]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sizes = st.integers(0, 12)
    count = draw(st.integers(1, 5))
    turns = [TurnTexts(ids(1000 * n, draw(sizes)), (ids(1000 * n + 100, draw(sizes)),)) for n in range(1, count)]
    answers = tuple(ids(1000 * count + 100 * n, draw(sizes)) for n in range(1, draw(st.integers(0, 2)) + 1))
    other = ids(1000 * count + 500, draw(sizes)) if len(answers) == 2 and draw(st.booleans()) else None
    turns.append(TurnTexts(ids(1000 * count, draw(sizes)), answers, other))
    template = Markers(draw(st.integers(0, 3)), draw(st.integers(0, 3)), draw(st.booleans()))
    return Case(template, ids(100, draw(sizes)), turns, draw(st.integers(1, 80)))


def fitted(case: Case) -> Conversation:
    try:
        return fit_conversation(*case)
    except ConfigError:
        assume(False)
        raise


def paths(talk: Conversation) -> list[list[int]]:
    """Token ids of each path through the conversation."""
    last = talk.turns[-1]
    before = talk.history[: len(talk.history) - len(last.prompt)]
    prompts = [last.prompt, last.prompt if last.rejected_prompt is None else last.rejected_prompt]
    sides = [before + prompt + answer for prompt, answer in zip(prompts, last.answers, strict=False)]
    return [talk.history, *sides]


def written(case: Case, gone: int) -> int:
    """Length of the whole conversation without its first turns, by its parts."""
    template, system, turns, _ = case
    kept = turns[gone:]
    texts = [(max(len(t.prompt), len(t.rejected_prompt or ())), max(map(len, t.answers), default=0)) for t in kept]
    frames = len(kept) * (len(template.prompt.before) + len(template.prompt.after))
    ends = (len(kept) if kept[-1].answers else len(kept) - 1) * len(template.answer.after)
    return sum(chain(*texts)) + frames + ends + (len(system) + 2 if system else 0)


@given(cases())
def test_no_path_is_longer_than_max_length(case: Case) -> None:
    assert all(len(path) <= case.max_length for path in paths(fitted(case)))


@given(cases())
def test_frames_stay_whole_and_texts_keep_the_right_side(case: Case) -> None:
    talk = fitted(case)
    before, after = list(case.template.prompt.before), list(case.template.prompt.after)

    def text_of(prompt: list[int]) -> list[int]:
        assert prompt[: len(before)] == before
        assert prompt[len(prompt) - len(after) :] == after
        return prompt[len(before) : len(prompt) - len(after)]

    gone = len(case.turns) - len(talk.turns)
    for turn, full in zip(talk.turns, case.turns[gone:], strict=True):
        sides = [(turn.prompt, full.prompt)]
        if turn.rejected_prompt is not None:
            sides.append((turn.rejected_prompt, full.rejected_prompt or []))
        for prompt, whole in sides:
            kept = text_of(prompt)
            assert kept == whole[len(whole) - len(kept) :]
        for answer, whole in zip(turn.answers, full.answers, strict=True):
            complete = [*whole, *case.template.answer.after]
            assert answer == complete or (len(answer) < len(whole) and answer == whole[: len(answer)])
    if talk.system:
        assert talk.system[0] == SYSTEM
        assert talk.system[-1] == EOS
        text = talk.system[1:-1]
        assert text
        assert text == case.system[: len(text)]
    assert (talk.turns[-1].rejected_prompt is None) == (case.turns[-1].rejected_prompt is None)


@given(cases())
def test_only_what_has_to_go_goes_and_the_counts_say_what_went(case: Case) -> None:
    talk = fitted(case)
    gone = next((n for n in range(len(case.turns)) if written(case, n) <= case.max_length), len(case.turns) - 1)
    assert len(talk.turns) == len(case.turns) - gone
    assert talk.cut["turns"] == gone
    frame = len(case.template.prompt.before) + len(case.template.prompt.after)
    last, full = talk.turns[-1], case.turns[-1]
    prompts = [(last.prompt, full.prompt), (last.rejected_prompt, full.rejected_prompt)]
    lost = {
        "system": bool(case.system) and len(talk.system) != len(case.system) + 2,
        "prompt": any(len(a) - frame < len(b) for a, b in prompts if a is not None and b is not None),
        "answer": any(len(a) < len(b) for a, b in zip(last.answers, full.answers, strict=True)),
    }
    assert {kind: bool(talk.cut[kind]) for kind in lost} == lost
    assert any(lost.values()) == (written(case, gone) > case.max_length)
    assert all(times == 1 for kind, times in talk.cut.items() if kind != "turns")


@given(cases())
def test_the_system_text_survives_while_it_fits_beside_the_last_turn(case: Case) -> None:
    talk = fitted(case)
    assume(case.system)
    if written(case, len(case.turns) - 1) <= case.max_length:
        assert talk.system == [SYSTEM, *case.system, EOS]
        assert "prompt" not in talk.cut
    if "system" in talk.cut:  # then the last turn was cut first, to its least share
        frames = written(Case(case.template, [1], [TurnTexts([], case.turns[-1].answers and ([],))], 0), 0) - 1
        least = max(0, case.max_length - frames) // 4
        last = talk.turns[-1]
        text = len(last.prompt) - len(case.template.prompt.before) - len(case.template.prompt.after)
        assert text <= least or not talk.system


@settings(suppress_health_check=[HealthCheck.filter_too_much])  # a third of the cases has two answers
@given(cases())
def test_two_answers_share_the_prompt_and_each_is_cut_for_itself(case: Case) -> None:
    assume(len(case.turns[-1].answers) == 2)
    talk = fitted(case)
    first, second = (len(answer) for answer in case.turns[-1].answers)
    kept = [answer[:-1] if answer[-1:] == [EOS] else answer for answer in talk.turns[-1].answers]
    if "answer" in talk.cut:
        assert max(map(len, kept)) == max(len(kept[0]), len(kept[1])) < max(first, second)
        longest = max(map(len, kept))
        assert [len(side) for side in kept] == [min(first, longest), min(second, longest)]


@given(cases())
def test_the_generation_prompt_is_the_sample_without_its_last_answer(case: Case) -> None:
    plain = Case(case.template, case.system, [*case.turns[:-1], TurnTexts(case.turns[-1].prompt, ())], case.max_length)
    talk = fitted(plain)
    assert talk.turns[-1].answers == ()
    tail = list(case.template.prompt.after)
    assert talk.history[len(talk.history) - len(tail) :] == tail
    whole = fitted(case)
    if case.turns[-1].rejected_prompt is None and not whole.cut:
        assert talk.history == whole.history


def test_a_prompt_keeps_its_end_and_an_answer_its_start() -> None:
    talk = fit_conversation(Markers(), [], [TurnTexts(ids(10, 6), (ids(20, 6),))], 12)
    assert talk.turns[0].prompt == [PROMPT, 14, 15, EOS, SEPARATOR]
    assert talk.turns[0].answers == ([20, 21, 22, 23, 24, 25, EOS],)
    assert talk.cut == {"prompt": 1}


def test_a_long_answer_leaves_the_prompt_its_share() -> None:
    # 24 tokens less 4 of frames; a quarter of 20 is 5
    talk = fit_conversation(Markers(), [], [TurnTexts(ids(100, 30), (ids(200, 30),))], 24)
    assert talk.turns[0].prompt == [PROMPT, *ids(125, 5), EOS, SEPARATOR]
    assert talk.turns[0].answers == (ids(200, 15),)
    assert talk.cut == {"prompt": 1, "answer": 1}


def test_a_long_system_text_gives_way_before_the_shares_of_prompt_and_answer() -> None:
    # 26 tokens less 6 of frames; a quarter of 20 is 5 for the prompt and 5 for the answer
    talk = fit_conversation(Markers(), ids(300, 40), [TurnTexts(ids(100, 30), (ids(200, 30),))], 26)
    assert talk.system == [SYSTEM, *ids(300, 10), EOS]
    assert talk.turns[0].prompt == [PROMPT, *ids(125, 5), EOS, SEPARATOR]
    assert talk.turns[0].answers == (ids(200, 5),)
    assert talk.cut == {"system": 1, "prompt": 1, "answer": 1}


def test_a_generation_prompt_keeps_no_room_for_the_end_of_an_answer() -> None:
    talk = fit_conversation(Markers(), [], [TurnTexts(ids(10, 6), ())], 9)
    assert talk.history == [PROMPT, *ids(10, 6), EOS, SEPARATOR]
    assert not talk.cut


def test_the_oldest_turns_go_first() -> None:
    turns = [TurnTexts([n], ([10 + n],)) for n in range(4)]  # 6 tokens each
    talk = fit_conversation(Markers(), [], turns, 13)
    assert [turn.prompt[1] for turn in talk.turns] == [2, 3]
    assert talk.cut == {"turns": 2}
    assert len(talk.history) == 6 + 4


def test_a_system_text_of_which_nothing_fits_takes_its_marker_along() -> None:
    talk = fit_conversation(Markers(), [7, 8], [TurnTexts([1], ([2],))], 6)
    assert talk.system == []
    assert talk.turns[0].prompt + talk.turns[0].answers[0] == [PROMPT, 1, EOS, SEPARATOR, 2, EOS]
    assert talk.cut == {"system": 1}


def test_markers_longer_than_max_length_say_how_long_they_are() -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.max_length=3 .* take 4 tokens"):
        fit_conversation(Markers(), [5], [TurnTexts([1], ([2],))], 3)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(30, 200), st.booleans())
def test_a_chat_template_is_cut_like_markers(count: int, max_length: int, system: bool) -> None:
    tokenizer = tiny_tokenizer()
    template = ChatTemplate(tokenizer)
    turns = [TurnTexts(ids(1, 9), (ids(30, 9),)) for _ in range(count)]
    try:
        talk = fit_conversation(template, ids(60, 9) if system else None, turns, max_length)
    except ConfigError:
        assume(False)
    assert len(talk.history) + len(talk.turns[-1].answers[0]) <= max_length
    assert talk.history[0] == tokenizer.convert_tokens_to_ids("<|im_start|>")
    if not talk.cut:
        assert len(talk.turns) == count
