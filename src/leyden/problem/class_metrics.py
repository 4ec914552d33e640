"""Metrics of classes: binary, multi-class and multi-label.

The labels say which of the three it is. [R], class numbers: multi-class, `probabilities` is a softmax over C classes.
[R, K], columns of 0 and 1: binary (K = 1) or multi-label, `probabilities` is a sigmoid for each column. Legend: `R`
rows, `C` columns of `probabilities`.

All is counted in float64; torchmetrics ends in float32 here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from leyden.problem.metrics import listed_outputs, metric

log = logging.getLogger(__name__)


@metric("max")
def auc(probabilities: Tensor, labels: Tensor, output_names: Sequence[str] = ()) -> float:
    """Area under the ROC curve: chance that a row of the class is ranked above a row that is not; a tie counts half.

    Multi-class: mean over classes of one against the rest; multi-label: mean over columns. A class that no row has, or
    every row, has no area: it is left out, and named in a warning.

    Args:
        probabilities: [R, C], 0 to 1.
        labels: [R] or [R, C].
        output_names: of the C columns, for the warning.

    Returns:
        0 to 1; NaN if no class has an area, or if a probability is NaN.

    Raises:
        ValueError: no row, shapes that do not fit, labels that are no classes, or logits in place of probabilities.

    Source: Hanley and McNeil 1982, Radiology 143.
    """
    probabilities, classes = _checked(probabilities, labels)
    if probabilities.isnan().any():
        return math.nan
    areas = [_area(*column) for column in zip(probabilities.T, _indicators(classes, probabilities).T, strict=True)]
    return _mean_of_defined("AUC", torch.stack(areas), classes, "every row has it, or none", output_names)


@metric("max")
def accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Share of right classes. Binary: p > 0.5; multi-class: the likeliest, the first of equals.

    Multi-label: share of right columns of each row, then the mean over rows.

    Args:
        probabilities: [R, C], 0 to 1.
        labels: [R] or [R, C].

    Returns:
        0 to 1; NaN if a probability is.

    Raises:
        ValueError: as `auc`.
    """
    probabilities, classes = _checked(probabilities, labels)
    if probabilities.isnan().any():
        return math.nan
    return (_predicted(probabilities, classes) == classes).double().mean().item()


@metric("min")
def log_loss(probabilities: Tensor, labels: Tensor) -> float:
    """Mean of the negative log-probability of what is true, nats.

    Multi-label: mean over columns of the binary log loss. Probabilities are kept a machine epsilon (2.2e-16) away from
    0 and 1, so one sure mistake costs 36 and not infinity.

    Args:
        probabilities: [R, C], 0 to 1.
        labels: [R] or [R, C]; a column with one value only is no difficulty.

    Returns:
        0 to 36.1; log C for a uniform guess among C classes; NaN if a probability is.

    Raises:
        ValueError: as `auc`.
    """
    probabilities, classes = _checked(probabilities, labels)
    if probabilities.isnan().any():
        return math.nan
    epsilon = torch.finfo(torch.float64).eps
    clipped = probabilities.clamp(epsilon, 1 - epsilon)
    if classes.ndim == 1:
        return F.nll_loss(clipped.log(), classes).item()
    return F.binary_cross_entropy(clipped, classes.double()).item()


@metric("max")
def f1(probabilities: Tensor, labels: Tensor, output_names: Sequence[str] = ()) -> float:
    """Harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN), of the predictions that `accuracy` counts.

    Binary: of class 1. Multi-class and multi-label: mean over classes, each counting the same. A class that no row has
    and none was given has no F1 (0/0): it is left out, and named in a warning; one that was given or missed has 0.

    Args:
        probabilities: [R, C], 0 to 1.
        labels: [R] or [R, C].
        output_names: of the C columns, for the warning.

    Returns:
        0 to 1; NaN if no class has an F1, or if a probability is NaN.

    Raises:
        ValueError: as `auc`.
    """
    probabilities, classes = _checked(probabilities, labels)
    if probabilities.isnan().any():
        return math.nan
    true = _indicators(classes, probabilities)
    given = _indicators(_predicted(probabilities, classes), probabilities)
    values = 2 * (true & given).sum(0) / (true.sum(0) + given.sum(0)).double()
    return _mean_of_defined("F1", values, classes, "no row has it, true or predicted", output_names)


def _checked(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The columns on the CPU, float64 [R, C] and int64 [R] or [R, C]; refused where they do not fit together."""
    probabilities, labels = probabilities.detach().cpu().double(), labels.detach().cpu()
    if not len(labels):
        raise ValueError("Class metrics have nothing to score: there is no row.")
    wanted = probabilities.shape[: labels.ndim]
    if probabilities.ndim != 2 or labels.shape != wanted or (labels.ndim == 1 and probabilities.shape[1] == 1):  # noqa: PLR2004
        raise ValueError(
            f"probabilities {list(probabilities.shape)} and labels {list(labels.shape)} do not fit: they are [R, C] "
            "and [R] for C > 1 classes, or both [R, K] for columns of 0 and 1."
        )
    if ((probabilities < 0) | (probabilities > 1)).any():
        raise ValueError("probabilities must lie from 0 to 1; these look like logits.")
    classes, most = labels.long(), probabilities.shape[1] - 1 if labels.ndim == 1 else 1
    wrong = labels[(classes != labels) | (classes < 0) | (classes > most)]
    if len(wrong):
        raise ValueError(f"labels must be whole numbers from 0 to {most}, but {len(wrong)} are not: {wrong[0].item()}.")
    return probabilities, classes


def _predicted(probabilities: Tensor, classes: Tensor) -> Tensor:
    """The classes that probabilities amount to, in the shape of the true ones."""
    return probabilities.argmax(1) if classes.ndim == 1 else (probabilities > 0.5).long()  # noqa: PLR2004


def _indicators(classes: Tensor, probabilities: Tensor) -> Tensor:
    """Which row has which class, [R, C]."""
    return (F.one_hot(classes, probabilities.shape[1]) if classes.ndim == 1 else classes).bool()


def _area(scores: Tensor, positive: Tensor) -> Tensor:
    """Pairs of a positive and a negative row in the right order, ties half, over all pairs; NaN without a pair."""
    negatives = scores[~positive].sort().values
    below = torch.searchsorted(negatives, scores[positive]).sum()
    not_above = torch.searchsorted(negatives, scores[positive], right=True).sum()
    return (below + not_above) / (2 * positive.sum() * len(negatives)).double()


def _mean_of_defined(name: str, values: Tensor, classes: Tensor, why: str, names: Sequence[str]) -> float:
    """Mean of the values that are not NaN; one warning names the classes of the others."""
    missing = values.isnan().nonzero().flatten().tolist()
    if missing:
        kind = "class" if classes.ndim == 1 else "label column"
        listed = listed_outputs(missing, len(values), names)
        result = "The mean leaves them out." if len(missing) < len(values) else "The result is NaN."
        log.warning(
            "%s of %d rows is undefined for %s %s: %s. %s", name, len(classes), kind, listed, why, result,
        )  # fmt: skip
    return values.nanmean().item()
