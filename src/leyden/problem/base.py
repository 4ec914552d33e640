"""What every problem answers: which tree a conversation becomes, what a batch is worth, how rows are scored."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from leyden.backbone.heads import Head
from leyden.data.batches import Batch
from leyden.data.trees import Tree
from leyden.data.truncation import Conversation
from leyden.problem.metrics import Function
from leyden.problem.scores import Loss, TokenScores

if TYPE_CHECKING:
    from leyden.data.labels import Labels

Cell = float | int | str | None


class Scorer(Protocol):
    """What a problem asks of the backbone; a reference that nobody asks for costs nothing."""

    def logps(self, batch: Batch) -> Tensor:
        """Log-probability of each target under the model in training: [N], float32, nats."""

    def reference_logps(self, batch: Batch) -> Tensor:
        """The same under the model as it was before training, without gradient."""

    def outputs(self, batch: Batch) -> Tensor:
        """What the head of the model in training says of each sample: [B, K], float32."""


@dataclass(frozen=True)
class Outcome:
    """What a batch of B samples is worth.

    Attributes:
        loss: total and count; the total carries the gradient.
        columns: one row per sample, [B] or [B, K], in the order of `batch.samples`, without gradient.
        scored: bool [B]; which samples have what the problem needs. The others are in no loss and no metric.
    """

    loss: Loss
    columns: Mapping[str, Tensor]
    scored: Tensor


@dataclass(frozen=True)
class Problem(ABC):
    """A problem type: a frozen object without weights, so that worker processes may have it.

    Attributes:
        loss: the loss function with its knobs filled in.
    """

    loss: Callable[..., Any]
    uses_reference: bool = field(default=False, init=False)

    targets: ClassVar[Literal["text", "classes", "numbers"]] = "text"
    """What stands in the answer column."""
    generates: ClassVar[bool] = False
    """Whether a prediction is generated text."""
    always: ClassVar[tuple[Function, ...]] = ()
    """Metrics that are computed whatever `metric` says."""
    logged: ClassVar[tuple[str, ...]] = ()
    """Columns whose mean is logged in training."""
    predicted: ClassVar[tuple[str, ...]] = ("loss",)
    """Columns that stand in the table of predictions."""
    offers: ClassVar[tuple[str, ...]] = ()
    """Columns that metrics may read, besides the texts of problems that generate."""

    @property
    def head(self) -> Head:
        """What stands on the backbone."""
        return Head()

    def fitted(self, labels: Labels | None) -> Problem:  # noqa: ARG002
        """The problem with what it takes from the labels of the training rows, such as the classes.

        Args:
            labels: of the rows to train on; None where answers are text.

        Raises:
            ConfigError: the loss or a knob does not go with them.
        """
        return self

    def restored(self, config: Mapping[str, Any]) -> Problem:  # noqa: ARG002
        """The problem as `fitted` made it in training.

        Args:
            config: of the saved model.
        """
        return self

    @property
    def output_names(self) -> Sequence[str]:
        """What each output of the head is called: a class, a label column, a target; none without a head."""
        return ()

    @property
    def classes_read(self) -> dict[str, Any]:
        """How labels of another table are read: `num_classes` and `class_names`, once they are known."""
        return {}

    @abstractmethod
    def build_tree(self, conversation: Conversation) -> Tree:
        """The token tree of one sample."""

    @abstractmethod
    def compute(self, scorer: Scorer, batch: Batch) -> Outcome:
        """Loss and columns of a batch, in training and in evaluation alike."""

    def tabulate(self, columns: Mapping[str, Tensor]) -> dict[str, Sequence[Cell]]:
        """Columns of the table of predictions, one cell per row of `columns`; empty where there is no number."""
        table: dict[str, Sequence[Cell]] = {name: cells(columns[name]) for name in self.predicted if name in columns}
        if {"logps", "counts"} <= columns.keys():
            table["score_perplexity"] = cells((-columns["logps"] / columns["counts"]).exp())
        return table


@dataclass(frozen=True)
class TextProblem(Problem):
    """A problem whose targets are tokens of the conversation itself.

    Attributes:
        mask_prompt_labels: answers are targets only; false: every token is.
        only_last_answer: of a conversation.
    """

    mask_prompt_labels: bool = True
    only_last_answer: bool = False


def token_scores(logps: Tensor, batch: Batch) -> TokenScores:
    """The log-probabilities of a batch's targets, [N], with where each belongs and what it weighs."""
    return TokenScores(logps, batch.target_sequences, batch.num_sequences, batch.target_weights)


def cross_entropy_outcome(loss: Callable[[TokenScores], Loss], scorer: Scorer, batch: Batch) -> Outcome:
    """A loss over target tokens; per sample their summed log-probability, their number and their mean loss."""
    scores = token_scores(scorer.logps(batch), batch)
    logps, counts = scores.sums().detach(), scores.counts()
    columns = {"logps": logps, "counts": counts, "loss": -logps / counts}
    return Outcome(loss(scores), columns, counts > 0)


def cells(column: Tensor) -> list[float | None]:
    """The numbers of a column [R] for a table; what is not finite is an empty cell."""
    return [value if math.isfinite(value) else None for value in column.to(torch.float64).tolist()]
