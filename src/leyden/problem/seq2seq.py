"""Sequence to sequence: an encoder reads the source, a decoder writes the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from leyden.backbone.heads import Head
from leyden.data.batches import Batch
from leyden.data.trees import Segment, Tree, build_tree
from leyden.data.truncation import Conversation
from leyden.problem.base import Outcome, Problem, Scorer, cross_entropy_outcome


@dataclass(frozen=True)
class Seq2Seq(Problem):
    """Raise the probability of the target, given the whole source.

    The decoder's output in a place scores the token of that place: unlike with causal models nothing is shifted.

    Attributes:
        max_target_length: tokens of the target, its end token included; None: `tokenizer.max_length`, as for sources.
    """

    max_target_length: int | None = None

    generates: ClassVar[bool] = True
    offers: ClassVar[tuple[str, ...]] = ("logps", "counts")

    @property
    def head(self) -> Head:
        """The vocabulary, above a decoder that reads an encoder."""
        return Head("encoder_decoder")

    def build_tree(self, conversation: Conversation) -> Tree:
        """Two segments: the source with all its turns, and the target."""
        last = conversation.turns[-1]
        source = Segment(conversation.history, False)
        target = Segment(last.answers[0] if last.answers else [], True, 0, 0, last.weight)
        return build_tree([source, target], weight=last.weight)

    def compute(self, scorer: Scorer, batch: Batch) -> Outcome:
        """Cross-entropy over the target; per sample the summed log-probability, their number and their mean loss."""
        return cross_entropy_outcome(self.loss, scorer, batch)
