"""What losses read and return: scores of tokens, of answer pairs and of heads; sums before they are averaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """A loss before it is averaged, so that an update can be the mean over all its targets, however it is cut.

    Attributes:
        total: scalar; summed over the targets; carries the gradient.
        count: how many targets that is. The mean is total / count; it can be 0, and whoever divides looks first.
    """

    total: Tensor
    count: Tensor | int


@dataclass(frozen=True)
class TokenScores:
    """What language-model losses read: the log-probability of each target token of a batch.

    Attributes:
        logps: [N], log-probability of the token that stands there, float32.
        sequences: [N], number of the sequence each token belongs to, int64 in [0, num_sequences).
        num_sequences: how many sequences there are, those without a target token included.
        weights: [N], share of each token in the loss; None: all 1.
    """

    logps: Tensor
    sequences: Tensor
    num_sequences: int
    weights: Tensor | None = None

    def sums(self) -> Tensor:
        """Log-probability of each sequence's targets together: [num_sequences]; 0 for a sequence without targets."""
        return self.summed(self.logps)

    def summed(self, values: Tensor) -> Tensor:
        """Values of the tokens, [N], summed over each sequence: [num_sequences]."""
        return values.new_zeros(self.num_sequences).index_add(0, self.sequences, values)

    @property
    def shares(self) -> Tensor:
        """Share of each token in the loss: [N]."""
        return torch.ones_like(self.logps) if self.weights is None else self.weights.to(self.logps.dtype)

    def counts(self) -> Tensor:
        """Number of target tokens of each sequence: [num_sequences], int64."""
        return torch.bincount(self.sequences, minlength=self.num_sequences)


@dataclass(frozen=True)
class HeadScores:
    """What losses of heads read.

    Attributes:
        outputs: [B, K], of the head, float32.
        labels: [B, K], what it should say; [B, 1] with class numbers where K outputs are one class each.
    """

    outputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class AnswerScores:
    """What one model says of the two answers of each pair.

    An answer without tokens has the score 0, as a sum and as a mean, so nothing here is ever 0/0. Such a pair teaches
    nothing all the same: the caller leaves it out of the batch and counts it.

    Attributes:
        chosen, rejected: [B] each, log-probability of the answer, summed over its tokens, float32.
        chosen_tokens, rejected_tokens: [B] each, number of tokens in that sum.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor

    @property
    def margin(self) -> Tensor:
        """How much likelier the chosen answer is, in log-probability summed over tokens: [B]."""
        return self.chosen - self.rejected

    @property
    def mean_chosen(self) -> Tensor:
        """Mean log-probability of the chosen answer's tokens: [B]."""
        return self.chosen / self.chosen_tokens.clamp(min=1)

    @property
    def mean_rejected(self) -> Tensor:
        """Mean log-probability of the rejected answer's tokens: [B]."""
        return self.rejected / self.rejected_tokens.clamp(min=1)

    @property
    def mean_margin(self) -> Tensor:
        """How much likelier the chosen answer is, in mean log-probability of a token: [B]."""
        return self.mean_chosen - self.mean_rejected


class Pair:
    """The scores of a batch of pairs under the policy, and under the reference if somebody asks for them.

    Args:
        policy: the scores of the model in training; they carry the gradient.
        reference: computes the scores of the fixed model, without gradient. Called at most once, when `reference` is
            first read, so a loss that does not read it costs no second forward pass.
    """

    def __init__(self, policy: AnswerScores, reference: Callable[[], AnswerScores]) -> None:
        self.policy = policy
        self._compute_reference = reference
        self._reference: AnswerScores | None = None

    @property
    def reference(self) -> AnswerScores:
        """The scores of the reference model."""
        if self._reference is None:
            self._reference = self._compute_reference()
        return self._reference

    @property
    def reference_used(self) -> bool:
        """Whether the reference has been read, and therefore computed."""
        return self._reference is not None
