"""Causal language modelling: write the answer after the prompt; without a prompt, go on with pre-training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from leyden.data.batches import Batch
from leyden.data.trees import Segment, Tree, build_tree
from leyden.data.truncation import Conversation
from leyden.problem.base import Outcome, Scorer, TextProblem, cross_entropy_outcome


@dataclass(frozen=True)
class CausalLM(TextProblem):
    """Raise the probability of every answer of a conversation, given all that stands before it."""

    generates: ClassVar[bool] = True
    offers: ClassVar[tuple[str, ...]] = ("logps", "counts")

    def build_tree(self, conversation: Conversation) -> Tree:
        """One path: system, then prompt and answer of each turn. Targets are the answers (rule N22)."""
        everything, last = not self.mask_prompt_labels, conversation.turns[-1]
        tokens = list(conversation.system)
        targets = [everything] * len(tokens)
        weights = [last.weight] * len(tokens)
        for turn in conversation.turns:
            answer = turn.answers[0] if turn.answers else []
            wanted = turn.trained and (turn is last or not self.only_last_answer)
            tokens += turn.prompt + answer
            targets += [everything and turn.trained] * len(turn.prompt) + [wanted] * len(answer)
            weights += [turn.weight] * (len(turn.prompt) + len(answer))
        return build_tree([Segment(tokens, targets, weights=weights)], weight=last.weight)

    def compute(self, scorer: Scorer, batch: Batch) -> Outcome:
        """Cross-entropy over the targets; per sample the summed log-probability, their number and their mean loss."""
        return cross_entropy_outcome(self.loss, scorer, batch)
