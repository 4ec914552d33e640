"""What every problem answers: which tree a conversation becomes, what a batch is worth, how rows are scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor

from leyden.data.batches import Batch
from leyden.data.trees import Tree
from leyden.data.truncation import Conversation
from leyden.problem.metrics import METRICS
from leyden.problem.scores import Loss


class Scorer(Protocol):
    """What a problem asks of the backbone; a reference that nobody asks for costs nothing."""

    def logps(self, batch: Batch) -> Tensor:
        """Log-probability of each target under the model in training: [N], float32, nats."""

    def reference_logps(self, batch: Batch) -> Tensor:
        """The same under the model as it was before training, without gradient."""


@dataclass(frozen=True)
class Outcome:
    """What a batch of B samples is worth.

    Attributes:
        loss: total and count; the total carries the gradient.
        columns: one value per sample, [B], in the order of `batch.samples`, without gradient.
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
        mask_prompt_labels: answers are targets only; false: every token is.
        only_last_answer: of a conversation.
    """

    loss: Callable[..., Any]
    mask_prompt_labels: bool = True
    only_last_answer: bool = False
    uses_reference: bool = field(default=False, init=False)

    generates: ClassVar[bool] = False
    """Whether a prediction is generated text."""
    always: ClassVar[tuple[str, ...]] = ()
    """Metrics that are computed whatever `metric` says."""
    logged: ClassVar[tuple[str, ...]] = ()
    """Columns whose mean is logged in training."""
    predicted: ClassVar[tuple[str, ...]] = ("loss",)
    """Columns that stand in the table of predictions."""

    @abstractmethod
    def build_tree(self, conversation: Conversation) -> Tree:
        """The token tree of one sample."""

    @abstractmethod
    def compute(self, scorer: Scorer, batch: Batch) -> Outcome:
        """Loss and columns of a batch, in training and in evaluation alike."""

    def score(self, columns: Mapping[str, Tensor], metrics: tuple[str, ...]) -> dict[str, float]:
        """Metrics over the scored rows of a whole evaluation, by name.

        Args:
            columns: one value per row, all scored.
            metrics: names to compute besides those that always are.
        """
        return {name: METRICS[name].compute(columns) for name in dict.fromkeys((*metrics, *self.always))}
