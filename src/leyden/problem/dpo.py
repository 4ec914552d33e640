"""Preference optimisation: prefer the better of two answers to one prompt."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from leyden.data.batches import Batch
from leyden.data.trees import Segment, Tree, build_tree
from leyden.data.truncation import Conversation
from leyden.problem.base import Outcome, Scorer, TextProblem
from leyden.problem.losses import averages, rewards
from leyden.problem.metrics import Function, preference_accuracy, reward_margin
from leyden.problem.scores import AnswerScores, Loss, Pair


@dataclass(frozen=True)
class DPO(TextProblem):
    """Raise the better answer over the worse one. Rafailov et al. 2023, arXiv:2305.18290, and its relatives.

    Sequence 0 of a sample is the chosen answer, sequence 1 the rejected one; only the last turn has two (rule N28).
    """

    generates: ClassVar[bool] = True
    offers: ClassVar[tuple[str, ...]] = ("logps", "counts", "margins")
    always: ClassVar[tuple[Function, ...]] = (preference_accuracy, reward_margin)
    logged: ClassVar[tuple[str, ...]] = (
        "chosen_logp", "rejected_logp", "chosen_reward", "rejected_reward", "reward_margin", "preference_accuracy",
    )  # fmt: skip
    predicted: ClassVar[tuple[str, ...]] = (
        "loss", "chosen_logp", "rejected_logp", "reference_chosen_logp", "reference_rejected_logp", "reward_margin",
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Find out whether the loss reads the reference, by asking it about a pair that does not exist."""
        zero, one = torch.zeros(1), torch.ones(1)
        nothing = AnswerScores(zero, zero, one, one)
        pair = Pair(nothing, lambda: nothing)
        self.loss(pair)
        object.__setattr__(self, "uses_reference", pair.reference_used)

    def build_tree(self, conversation: Conversation) -> Tree:
        """The history and the last prompt once, the two answers hanging from it; two roots when prompts differ."""
        last = conversation.turns[-1]
        history = conversation.history
        chosen, rejected = (*last.answers, [], [])[:2]
        if last.rejected_prompt is None:
            segments = [Segment(history, False), Segment(chosen, True, 0, 0), Segment(rejected, True, 0, 1)]
        else:
            other = history[: len(history) - len(last.prompt)] + last.rejected_prompt
            segments = [
                Segment(history, False),
                Segment(chosen, True, 0, 0),
                Segment(other, False),
                Segment(rejected, True, 2, 1),
            ]
        return build_tree(segments, num_sequences=2, weight=last.weight)

    def compute(self, scorer: Scorer, batch: Batch) -> Outcome:
        """The loss over pairs that have targets on both sides; per pair log-probabilities and rewards."""
        tokens = torch.bincount(batch.target_sequences, minlength=batch.num_sequences).view(-1, 2)
        scored = (tokens > 0).all(dim=1)
        policy = _answers(scorer.logps(batch), batch, tokens, scored)
        pair = Pair(policy, lambda: _answers(scorer.reference_logps(batch), batch, tokens, scored))
        losses: Tensor = self.loss(pair)
        columns = {
            "logps": policy.chosen,
            "counts": policy.chosen_tokens,
            "loss": losses.detach().view(-1, len(policy.chosen)).mean(dim=0) if len(losses) else losses,
            "chosen_logp": policy.chosen,
            "rejected_logp": policy.rejected,
        }
        if pair.reference_used:
            columns |= {
                "reference_chosen_logp": pair.reference.chosen,
                "reference_rejected_logp": pair.reference.rejected,
            }
        beta = self.loss.keywords.get("beta", 1.0) if isinstance(self.loss, partial) else 1.0
        chosen, rejected = rewards(pair, beta=beta, average=averages(self.loss))
        margins = chosen - rejected
        columns |= {
            "chosen_reward": chosen,
            "rejected_reward": rejected,
            "reward_margin": margins,
            "margins": margins,
            "preference_accuracy": (margins > 0).float(),
        }
        spread = {name: _spread(column.detach(), scored) for name, column in columns.items()}
        weights = batch.weights[scored].repeat(len(losses) // max(1, len(policy.chosen)))
        return Outcome(Loss((weights * losses).sum(), weights.sum()), spread, scored)


def _answers(logps: Tensor, batch: Batch, tokens: Tensor, scored: Tensor) -> AnswerScores:
    """Summed log-probabilities of both answers, of the pairs that can be scored."""
    sums = logps.new_zeros(batch.num_sequences).index_add(0, batch.target_sequences, logps).view(-1, 2)
    chosen, rejected = sums[scored].unbind(dim=1)
    chosen_tokens, rejected_tokens = tokens[scored].unbind(dim=1)
    return AnswerScores(chosen, rejected, chosen_tokens, rejected_tokens)


def _spread(column: Tensor, scored: Tensor) -> Tensor:
    """A column of the scored pairs as a column of all pairs; NaN where nothing was scored."""
    full = torch.full((len(scored),), torch.nan, dtype=torch.float32, device=column.device)
    full[scored] = column.float()
    return full
