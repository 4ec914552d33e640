"""Frames and texts become one conversation of at most `max_length` tokens; what had to go is counted."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from leyden.data.templates import Frame, Layout, Template
from leyden.settings.errors import ConfigError

RESERVED = 4  # the last prompt and the last answer each keep at least 1/RESERVED of the room when both cannot fit


@dataclass(frozen=True)
class TurnTexts:
    """Token ids of one row's texts, without frames.

    `answers` holds the continuations of the prompt: one, or the better and the worse of a pair; none to be generated.
    `rejected_prompt` is the prompt of the worse answer when it has one of its own. `weight` is the row's share in the
    loss; `trained` is false for a turn that is only history.
    """

    prompt: list[int]
    answers: tuple[list[int], ...]
    rejected_prompt: list[int] | None = None
    weight: float = 1.0
    trained: bool = True


@dataclass(frozen=True)
class Turn:
    """Token ids of one turn as the model sees it: prompts with their frame, and each answer with its end token."""

    prompt: list[int]
    answers: tuple[list[int], ...]
    rejected_prompt: list[int] | None = None
    weight: float = 1.0
    trained: bool = True


@dataclass(frozen=True)
class Conversation:
    """What a problem builds its tree from.

    Attributes:
        system: token ids of the system part, empty without one.
        turns: oldest first; the last one is the row that the sample stands for.
        cut: `turns`, how many went; `system`, `prompt`, `answer`: 1 where a text of that kind lost tokens.
    """

    system: list[int]
    turns: tuple[Turn, ...]
    cut: Counter[str]

    @property
    def history(self) -> list[int]:
        """Every token before the last answer (the generation prompt, rule N21)."""
        tokens = list(self.system)
        for turn in self.turns[:-1]:
            tokens += turn.prompt + turn.answers[0]
        return tokens + self.turns[-1].prompt


def fit_conversation(
    template: Template, system: list[int] | None, turns: Sequence[TurnTexts], max_length: int
) -> Conversation:
    """Write out a conversation within `max_length` tokens (rules N13 and N15 to N18).

    Whole turns go first, the oldest before the others; then the last prompt loses its beginning, the last answer its
    end, the system text its end. Frames stay whole; an answer that was cut has no end token, and a system text of which
    nothing is left has no frame.

    Args:
        template: gives the frames.
        system: token ids of the system text; None or empty for no system part.
        turns: oldest first; the last turn's answers may be empty, for generation.
        max_length: of the longest path: everything with the longest of the last answers.

    Raises:
        ConfigError: the frames of one turn alone are longer.
    """
    gone = bisect_left(range(len(turns) - 1), True, key=lambda n: _length(template, system, turns[n:]) <= max_length)
    kept = list(turns[gone:])
    layout, shrunk = _fit_texts(template, list(system or ()), kept, max_length)
    cut = Counter({"turns": gone, **dict.fromkeys(shrunk.cut, 1)})
    frames = zip(layout.prompts, layout.answers, [*kept[:-1], shrunk.last], kept, strict=True)
    written = tuple(
        Turn(
            _framed(prompt, turn.prompt),
            tuple(_answer(answer, ids, whole) for ids, whole in zip(turn.answers, full.answers, strict=True)),
            None if turn.rejected_prompt is None else _framed(prompt, turn.rejected_prompt),
            turn.weight,
            turn.trained,
        )
        for prompt, answer, turn, full in frames
    )
    return Conversation(_framed(layout.system, shrunk.system) if shrunk.system else [], written, +cut)


class _Shrunk(NamedTuple):
    system: list[int]
    last: TurnTexts
    cut: frozenset[str]


def _fit_texts(template: Template, system: list[int], kept: list[TurnTexts], max_length: int) -> tuple[Layout, _Shrunk]:
    layout = template.layout(len(kept), system=bool(system))
    budget = max_length - _frame_length(layout, len(kept), kept[-1])
    taken = sum(_prompt(turn) + _longest(turn) for turn in kept[:-1])
    shrunk = _shrink(system, kept[-1], max(0, budget - taken))
    if system and not shrunk.system:  # nothing is left of the system text, so its frame goes, too
        layout, shrunk = _fit_texts(template, [], kept, max_length)
        return layout, shrunk._replace(cut=shrunk.cut | {"system"})
    if budget < 0:
        raise ConfigError(
            f"tokenizer.max_length={max_length} has no room for any text: the markers of one turn alone take "
            f"{max_length - budget} tokens. Raise tokenizer.max_length, to 512 for example."
        )
    return layout, shrunk


def _framed(frame: Frame, ids: list[int]) -> list[int]:
    return [*frame.before, *ids, *frame.after]


def _answer(frame: Frame, ids: list[int], whole: list[int]) -> list[int]:
    return [*frame.before, *ids, *(frame.after if len(ids) == len(whole) else ())]


def _length(template: Template, system: list[int] | None, turns: Sequence[TurnTexts]) -> int:
    layout = template.layout(len(turns), system=bool(system))
    texts = sum(_prompt(turn) + _longest(turn) for turn in turns)
    return len(system or ()) + texts + _frame_length(layout, len(turns), turns[-1])


def _frame_length(layout: Layout, turns: int, last: TurnTexts) -> int:
    frames = [layout.system, *layout.prompts, *layout.answers[: turns if last.answers else turns - 1]]
    return sum(len(frame.before) + len(frame.after) for frame in frames)


def _prompt(turn: TurnTexts) -> int:
    return max(len(turn.prompt), len(turn.rejected_prompt or ()))


def _longest(turn: TurnTexts) -> int:
    return max((len(ids) for ids in turn.answers), default=0)


def _shrink(system: list[int], last: TurnTexts, room: int) -> _Shrunk:
    """Cut texts to so many tokens: the prompt first, then the answer, the system text, and the prompt again."""
    sizes = {"prompt": _prompt(last), "answer": _longest(last), "system": len(system)}
    excess = sum(sizes.values()) - room
    if excess <= 0:
        return _Shrunk(system, last, frozenset())
    least = room // RESERVED
    cut = set()
    for part, floor in (("prompt", least), ("answer", least), ("system", 0), ("prompt", 0), ("answer", 0)):
        loss = min(excess, max(0, sizes[part] - floor))
        if loss > 0:
            sizes[part] -= loss
            excess -= loss
            cut.add(part)
    shorter = replace(
        last,
        prompt=_end(last.prompt, sizes["prompt"]),
        answers=tuple(ids[: sizes["answer"]] for ids in last.answers),
        rejected_prompt=None if last.rejected_prompt is None else _end(last.rejected_prompt, sizes["prompt"]),
    )
    return _Shrunk(system[: sizes["system"]], shorter, frozenset(cut))


def _end(ids: list[int], size: int) -> list[int]:
    return ids[max(0, len(ids) - size) :]
