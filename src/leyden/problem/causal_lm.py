"""Causal language modelling: write the answer after the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from leyden.data.batches import Batch
from leyden.data.trees import Segment, Tree, build_tree
from leyden.data.truncation import Conversation
from leyden.problem.base import Outcome, Problem, Scorer
from leyden.problem.scores import TokenScores


@dataclass(frozen=True)
class CausalLM(Problem):
    """Raise the probability of every answer of a conversation, given all that stands before it."""

    generates: ClassVar[bool] = True

    def build_tree(self, conversation: Conversation) -> Tree:
        """One path: system, then prompt and answer of each turn. Targets are the answers (rule N22)."""
        everything = not self.mask_prompt_labels
        tokens = list(conversation.system)
        targets = [everything] * len(tokens)
        for number, turn in enumerate(conversation.turns, start=1):
            answer = turn.answers[0] if turn.answers else []
            last = number == len(conversation.turns)
            tokens += turn.prompt + answer
            targets += [everything] * len(turn.prompt) + [last or not self.only_last_answer] * len(answer)
        return build_tree([Segment(tokens, targets)])

    def compute(self, scorer: Scorer, batch: Batch) -> Outcome:
        """Cross-entropy over the targets; per sample the summed log-probability, their number and their mean loss."""
        scores = TokenScores(scorer.logps(batch), batch.target_sequences, batch.num_sequences)
        logps, counts = scores.sums().detach(), scores.counts()
        columns = {"logps": logps, "counts": counts, "loss": -logps / counts}
        return Outcome(self.loss(scores), columns, counts > 0)
