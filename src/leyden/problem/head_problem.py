"""What classification and regression share: the prompt side is read, a head says something at its last token."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from leyden.data.batches import Batch
from leyden.data.trees import Segment, Tree, build_tree
from leyden.data.truncation import Conversation
from leyden.problem.base import Outcome, Problem, Scorer
from leyden.problem.scores import HeadScores, Loss

Kind = TypeVar("Kind", bound="HeadProblem")


@dataclass(frozen=True)
class HeadProblem(Problem):
    """A problem that reads the prompt and answers with numbers."""

    @property
    def label_columns(self) -> int:
        """How many labels a row has."""
        return 1

    def build_tree(self, conversation: Conversation) -> Tree:
        """One segment without targets: everything up to the answer (rule N26)."""
        segment = Segment(conversation.history, False)
        return build_tree([segment], num_sequences=0, weight=conversation.turns[-1].weight)

    def compute(self, scorer: Scorer, batch: Batch) -> Outcome:
        """The weighted mean of the loss over the entries of the samples that have labels, and what the head says."""
        outputs = scorer.outputs(batch)
        labels = batch.labels
        if labels.shape[1] == 0:  # in prediction rows may come without labels
            labels = torch.full(
                (len(outputs), self.label_columns), torch.nan, dtype=torch.float64, device=outputs.device
            )
        scored = torch.isfinite(labels).all(dim=1)
        wanted = self.wanted(labels[scored]).to(outputs.dtype)
        losses = self.loss(HeadScores(outputs[scored], wanted))
        weights = batch.weights[scored, None].to(outputs.dtype) * self.entry_weights(wanted)
        weights = torch.broadcast_to(weights, losses.shape)
        column = torch.full((len(scored),), torch.nan, dtype=torch.float32, device=outputs.device)
        column[scored] = losses.detach().float().mean(dim=1)
        # the outputs of rows without labels take part, so that every weight gets a gradient on every rank
        total = (weights * losses).sum() + 0.0 * outputs.sum()
        columns = {"loss": column, **self.answers(outputs.detach().double(), labels)}
        return Outcome(Loss(total, weights.sum()), columns, scored)

    def wanted(self, labels: Tensor) -> Tensor:
        """The labels as the loss reads them, on the scale of the outputs: [B, K]."""
        return labels

    def entry_weights(self, wanted: Tensor) -> Tensor:
        """Share of each entry in the loss besides that of its row: [B, K] or [B, 1]."""
        return torch.ones_like(wanted)

    @abstractmethod
    def answers(self, outputs: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        """Columns for metrics and table, float64, of all rows; labels are NaN where there are none."""


def settled(problem: Kind, **fields: Any) -> Kind:
    """A copy of a problem with fields that no setting fills: what it took from the labels."""
    copy = object.__new__(type(problem))
    for name, value in {**vars(problem), **fields}.items():
        object.__setattr__(copy, name, value)
    return copy
