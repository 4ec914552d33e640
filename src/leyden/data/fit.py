"""How the samples of a part fit: what is read of them, what is predicted, what was cut, and how answers end."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from leyden.data.integers import Integers
from leyden.data.templates import Template
from leyden.data.trees import Indices, Tree

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWERS, STOPPED, CUT = "answers", "stopped", "cut"


@dataclass(frozen=True)
class Fit:
    """How a part fits into `max_length`.

    Attributes:
        lengths: tokens of each sample's tree, shared beginnings once.
        cut: how many samples lost their beginning turns, part of a prompt, an answer, a system text; how many have no
            target left (rule N23), and how many had no token at all.
        tokens: of all trees together.
        targets: tokens that are predicted.
        ends: how many runs of targets there are (`answers`), how many end with a stop token (`stopped`), and how many
            of the others were cut (`cut`).
        unended: samples with a run that was not cut and has no stop token; without one, a model never learns to stop.
        control_rows: rows with a cell that holds the name of a control token, which is read as plain text.
    """

    lengths: Integers
    cut: Counter[str]
    tokens: int
    targets: int
    ends: Counter[str] = field(default_factory=Counter)
    unended: Integers = field(default_factory=Integers)
    control_rows: Integers = field(default_factory=Integers)


@dataclass(frozen=True)
class Stops:
    """Where generation stops: at the tokenizer's end token, and at strings.

    Attributes:
        tokenizer: of the backbone.
        template: writes what stands behind an answer.
        strings: that end an answer, of the settings and of the template.
    """

    tokenizer: PreTrainedTokenizerBase
    template: Template
    strings: tuple[str, ...] = ()

    def end(self, ids: Sequence[int] | Indices) -> bool:
        """Whether generation would stop with the last of these token ids."""
        if ids[-1] == self._end_id:
            return True
        tail = [int(token) for token in ids[-self._reach :]]
        if self._closes and tuple(tail[-len(self._closing) :]) == self._closing:
            return True
        return self._completes(tail)

    @cached_property
    def _reach(self) -> int:
        """How many of the last tokens decide: a string may end before what closes an answer, if that is white space."""
        return self._window + len(self._closing)

    @cached_property
    def _closing(self) -> tuple[int, ...]:
        return self.template.layout(1, system=False).answers[0].after

    @cached_property
    def _end_id(self) -> int | None:
        found: int | None = self.tokenizer.eos_token_id
        return found

    @cached_property
    def _closes(self) -> bool:
        return bool(self._closing) and self._completes(self._closing)

    @cached_property
    def _window(self) -> int:
        """A token is at least one byte, so this many of them hold any of the strings."""
        return max((len(one.encode()) for one in self.strings), default=0) + 1

    def _completes(self, ids: Sequence[int]) -> bool:
        if not self.strings:
            return False
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=False)).rstrip()
        return text.endswith(self.strings)


class Gauge:
    """Adds up trees to a `Fit`.

    Args:
        stops: where generation stops; None looks at no answer.
    """

    def __init__(self, stops: Stops | None) -> None:
        self.stops = stops
        self.lengths, self.unended = array("q"), array("q")
        self.cut, self.ends = Counter[str](), Counter[str]()
        self.targets = 0

    def add(self, tree: Tree, cut: Counter[str], *, whole: bool) -> None:
        """Take in the next sample.

        Args:
            tree: of the sample.
            cut: what it lost.
            whole: the text of its answers goes on in no other sample.
        """
        self.cut.update(kind for kind, times in cut.items() if times)
        self.cut["no target"] += len(set(tree.sequences.tolist())) < tree.num_sequences
        self.targets += len(tree.targets)
        if self.stops is not None:
            self._add_ends(self.stops, tree, cut_away=bool(cut["answer"]) or not whole)
        self.lengths.append(len(tree.tokens))

    def fit(self) -> Fit:
        """What was taken in."""
        lengths, unended = (Integers(np.array(numbers, dtype=np.int64)) for numbers in (self.lengths, self.unended))
        return Fit(lengths, +self.cut, int(lengths.array.sum()), self.targets, +self.ends, unended)

    def _add_ends(self, stops: Stops, tree: Tree, *, cut_away: bool) -> None:
        ends = tree.ends().tolist()
        stopped = sum(stops.end(tree.tokens[: end + 1]) for end in ends)
        self.ends[ANSWERS] += len(ends)
        self.ends[STOPPED] += stopped
        if stopped < len(ends) and cut_away:
            self.ends[CUT] += len(ends) - stopped
        elif stopped < len(ends):
            self.unended.append(len(self.lengths))
