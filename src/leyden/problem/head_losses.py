"""Losses of heads: each one equation over the outputs of a head, with no knowledge of models, batches or loops.

Notation: B samples, K outputs, z output, y label. A loss gives one number per entry, [B, K], or per sample, [B, 1]; the
loss of an update is their mean, weighted where rows or classes are.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from leyden.problem.scores import HeadScores


def cross_entropy(scores: HeadScores) -> Tensor:
    """Cross-entropy of one class among K: -log softmax(z)[y], with y one class number per sample: [B, 1]."""
    return F.cross_entropy(scores.outputs, scores.labels[:, 0].long(), reduction="none")[:, None]


def binary_cross_entropy(scores: HeadScores) -> Tensor:
    """Cross-entropy of K yes-or-no questions: max(z, 0) - z y + log(1 + exp(-|z|)): [B, K]."""
    return F.binary_cross_entropy_with_logits(scores.outputs, scores.labels, reduction="none")


def label_cross_entropy(scores: HeadScores) -> Tensor:
    """Cross-entropy of the labels: of one class among several, or of yes-or-no questions, as the labels are."""
    one_of_many = scores.outputs.shape[1] > 1 and scores.labels.shape[1] == 1
    return cross_entropy(scores) if one_of_many else binary_cross_entropy(scores)


def squared_error(scores: HeadScores) -> Tensor:
    """Squared error (z - y)^2: [B, K]; several targets weigh equally."""
    return (scores.outputs - scores.labels) ** 2


def absolute_error(scores: HeadScores) -> Tensor:
    """Absolute error |z - y|: [B, K]; several targets weigh equally."""
    return (scores.outputs - scores.labels).abs()
