"""Metrics of numbers: predicted against true values, one column per target. Legend: `R` rows, `K` targets.

Where there are several targets, each counts the same. The two errors come from torchmetrics. Its R² subtracts two large
sums and loses all digits where values are far from zero, and its rank correlation ends in float32, so these are ours.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.functional import mean_absolute_error, mean_squared_error

from leyden.problem.metrics import listed_outputs, metric

log = logging.getLogger(__name__)


@metric("min")
def mse(predicted_values: Tensor, target_values: Tensor) -> float:
    """Mean squared error: over the targets of a row, then over rows; in squared units of the targets.

    Args:
        predicted_values: [R, K].
        target_values: [R, K].

    Returns:
        At least 0; NaN if a value is.

    Raises:
        ValueError: no row, or shapes that are not one [R, K].
    """
    return float(mean_squared_error(*_checked(predicted_values, target_values)))


@metric("min")
def mae(predicted_values: Tensor, target_values: Tensor) -> float:
    """Mean absolute error: over the targets of a row, then over rows; in units of the targets.

    Args:
        predicted_values: [R, K].
        target_values: [R, K].

    Returns:
        At least 0; NaN if a value is.

    Raises:
        ValueError: as `mse`.
    """
    return float(mean_absolute_error(*_checked(predicted_values, target_values)))


@metric("max")
def r2(predicted_values: Tensor, target_values: Tensor, output_names: Sequence[str] = ()) -> float:
    """Coefficient of determination, 1 - sum of squared errors / sum of squares around the mean; mean over targets.

    0 is as good as always predicting the mean of these rows. A target with one value in all rows has no R²: it is left
    out, and named in a warning.

    Args:
        predicted_values: [R, K].
        target_values: [R, K].
        output_names: of the K targets, for the warning.

    Returns:
        At most 1, no lower bound; NaN if no target has an R² (one row, for instance), or if a value is NaN.

    Raises:
        ValueError: as `mse`.
    """
    predicted, target = _checked(predicted_values, target_values)
    errors = (target - predicted).square().sum(0)
    spread = (target - target.mean(0)).square().sum(0)
    return _mean_over_targets("R²", 1 - errors / spread, predicted, target, output_names)


@metric("max")
def spearman(predicted_values: Tensor, target_values: Tensor, output_names: Sequence[str] = ()) -> float:
    """Spearman's rank correlation: Pearson's correlation of ranks, equal values sharing their mean rank.

    Mean over targets. A target with one value in all rows has none: it is left out, and named in a warning. Predictions
    that are all the same have none either, but that is the model's doing: the result is NaN.

    Args:
        predicted_values: [R, K].
        target_values: [R, K].
        output_names: of the K targets, for the warnings.

    Returns:
        -1 to 1; NaN where undefined, or if a value is NaN.

    Raises:
        ValueError: as `mse`.

    Source: Spearman 1904, American Journal of Psychology 15.
    """
    predicted, target = _checked(predicted_values, target_values)
    first, second = _centred_ranks(predicted), _centred_ranks(target)
    together = (first * second).sum(0)
    same = ((predicted == predicted[0]).all(0) & (target != target[0]).any(0)).nonzero().flatten().tolist()
    if same:
        log.warning(
            "%s is NaN: all rows have one prediction for target %s.",
            "Spearman's correlation", listed_outputs(same, predicted.shape[1], output_names),
        )  # fmt: skip
    values = together / (first.square().sum(0) * second.square().sum(0)).sqrt()
    return _mean_over_targets("Spearman's correlation", values.clamp(-1, 1), predicted, target, output_names)


def _checked(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both on the CPU in float64; unequal shapes are refused, since torch would broadcast them to a wrong number."""
    if predicted.shape != target.shape or predicted.ndim != 2:  # noqa: PLR2004
        raise ValueError(
            f"predicted_values {list(predicted.shape)} and target_values {list(target.shape)} must both be [R, K]."
        )
    if not target.numel():
        raise ValueError("Number metrics have nothing to score: there is no row.")
    return predicted.detach().cpu().double(), target.detach().cpu().double()


def _centred_ranks(values: Tensor) -> Tensor:
    """[R, K]: rank of each value in its column less the mean rank, so a constant column is exactly 0."""
    columns = []
    for column in values.T:
        _, places, counts = column.unique(return_inverse=True, return_counts=True)
        columns.append((counts.cumsum(0) - (counts - 1) / 2).double()[places] - (len(column) + 1) / 2)
    return torch.stack(columns, 1)


def _mean_over_targets(name: str, values: Tensor, predicted: Tensor, target: Tensor, names: Sequence[str]) -> float:
    """Mean over the targets that differ between rows; one warning names those that do not."""
    if predicted.isnan().any() or target.isnan().any():
        return math.nan
    varies = (target != target[0]).any(0)
    if not varies.all():
        missing = listed_outputs((~varies).nonzero().flatten().tolist(), len(varies), names)
        result = "The mean leaves them out." if varies.any() else "The result is NaN."
        log.warning(
            "%s of %d rows is undefined for target %s: all rows have one value. %s",
            name, len(target), missing, result,
        )  # fmt: skip
    return values[varies].mean().item()
