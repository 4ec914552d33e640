"""Figures of predicted numbers: how far they are from their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class NumberFigures:
    """Predictions of one target.

    Attributes:
        rows: with a target and a prediction.
        mse: mean squared error.
        mae: mean absolute error.
        bias: mean of prediction less target.
        r2: 1 - sum of squared errors / sum of squares around the mean; NaN where all targets are one value.
    """

    rows: int
    mse: float
    mae: float
    bias: float
    r2: float


def number_figures(targets: Sequence[float], predictions: Sequence[float]) -> NumberFigures:
    """How far predictions are from their targets.

    Args:
        targets: [R], R >= 1.
        predictions: [R].
    """
    target = np.asarray(targets, dtype=np.float64)
    errors = np.asarray(predictions, dtype=np.float64) - target
    spread = float(((target - target.mean()) ** 2).sum())
    r2 = 1 - float((errors**2).sum()) / spread if target.max() > target.min() else float("nan")
    return NumberFigures(len(target), float((errors**2).mean()), float(np.abs(errors).mean()), float(errors.mean()), r2)
