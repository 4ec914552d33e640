"""Tokens of data.json as a page shows them: runs of one kind with their labels, and signs for what cannot be seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from leyden.report.page import visible

# the letters behind a token, as `leyden.data.token_view` writes them
TARGET, MARKUP, CONTROL, SHARED, DIFFERENT, RAW = "t", "m", "c", "s", "d", "b"


@dataclass(frozen=True)
class Run:
    """Neighbouring tokens with the same role that are predicted, and shared, alike.

    Attributes:
        role: `system`, `prompt` or `answer`.
        begins: whether the run before has another role, so that the name of the role is shown.
        predicted: whether the tokens are targets.
        shared: whether they are computed once for several texts.
        pieces: the tokens, in groups: whether they differ from the other answer of a pair, what they are (`markup`,
            `control`, `raw` or nothing), and their texts.
    """

    role: str
    begins: bool
    predicted: bool
    shared: bool
    pieces: Sequence[tuple[bool, str, Sequence[str]]]

    @property
    def aloud(self) -> str:
        """What a screen reader says before it."""
        return ", ".join([self.role, "predicted" if self.predicted else "not predicted", *["shared"] * self.shared])


def runs_of(tokens: Sequence[Sequence[str]]) -> list[Run]:
    """The runs of some tokens, each [text, role, letters]."""
    found: list[Run] = []
    for (role, predicted, shared), group in groupby(tokens, _kind):
        pieces = [
            (different, name, [visible(text) for text, _, _ in piece])
            for (different, name), piece in groupby(group, lambda token: (DIFFERENT in token[2], _name(token[2])))
        ]
        found.append(Run(role, not found or found[-1].role != role, predicted, shared, pieces))
    return found


def shown_parts(view: Mapping[str, Any]) -> Iterator[tuple[list[Run], int]]:
    """The runs of a text in two parts where its middle is left out, with how many tokens follow that are not shown."""
    tokens, left_out = view["tokens"], view.get("left_out")
    if left_out is None:
        yield runs_of(tokens), 0
        return
    yield runs_of(tokens[: left_out["after"]]), left_out["tokens"]
    yield runs_of(tokens[left_out["after"] :]), 0


def _kind(token: Sequence[str]) -> tuple[str, bool, bool]:
    return token[1], TARGET in token[2], SHARED in token[2]


def _name(letters: str) -> str:
    """What a single token is besides its run; what steers the model says most, since markup is made of it."""
    names = ((CONTROL, "control"), (MARKUP, "markup"), (RAW, "raw"))
    return next((name for letter, name in names if letter in letters), "")
