"""Figures of classes: who was taken for whom, how far probabilities can be trusted, and each class by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 10
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClassFigures:
    """Each class, or label column, against the rest.

    Attributes:
        names: of the K classes.
        precision: [K], right ones among those predicted; NaN for a class that was never predicted.
        recall: [K], right ones among those that are; NaN for a class that no row has.
        f1: [K], 2 TP / (2 TP + FP + FN); NaN for a class that no row has and none was given.
        support: [K], rows that have it.
    """

    names: Sequence[str]
    precision: Floats
    recall: Floats
    f1: Floats
    support: NDArray[np.int64]

    def means(self, *, weighted: bool = False) -> tuple[float, float, float]:
        """Mean precision, recall and F1 over the classes that have them; NaN where none has.

        Args:
            weighted: each class counts as often as rows have it.
        """
        weights = self.support.astype(np.float64) if weighted else np.ones(len(self.support))
        precision, recall, f1 = (mean_of(column, weights) for column in (self.precision, self.recall, self.f1))
        return precision, recall, f1


@dataclass(frozen=True)
class Calibration:
    """How often what was said with some probability is true. Guo et al. 2017, arXiv:1706.04599.

    Attributes:
        confidence: [B], mean probability in each bin that has any.
        share: [B], share of those that were true.
        counts: [B], how many there are.
        error: expected calibration error: the mean distance of the two, each bin counting as often as it is full.
    """

    confidence: Floats
    share: Floats
    counts: NDArray[np.int64]
    error: float


def class_figures(true: NDArray[np.bool_], given: NDArray[np.bool_], names: Sequence[str]) -> ClassFigures:
    """Precision, recall, F1 and support.

    Args:
        true: [R, K], which row has which class.
        given: [R, K], which row was given which.
        names: of the K classes.
    """
    hits = (true & given).sum(axis=0)
    support, predicted = true.sum(axis=0), given.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return ClassFigures(names, hits / predicted, hits / support, 2 * hits / (support + predicted), support)


def confusion(targets: Sequence[str], predictions: Sequence[str], names: Sequence[str]) -> NDArray[np.int64]:
    """How many rows of each class, [K, K]: rows are what they are, columns what they were taken for.

    Args:
        targets: [R], all of `names`.
        predictions: [R], all of `names`.
        names: of the K classes.
    """
    place = {name: number for number, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(matrix, ([place[name] for name in targets], [place[name] for name in predictions]), 1)
    return matrix


def calibration(probabilities: Sequence[float], came_true: Sequence[bool], bins: int = BINS) -> Calibration:
    """Probabilities in bins of one width against what came true; a bound belongs to the bin below it.

    Args:
        probabilities: [R], 0 to 1.
        came_true: [R].
        bins: how many, from 0 to 1.
    """
    said, true = np.asarray(probabilities, dtype=np.float64), np.asarray(came_true, dtype=np.float64)
    bin_of = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], said)
    counts = np.bincount(bin_of, minlength=bins)
    full = counts > 0
    confidence = np.bincount(bin_of, weights=said, minlength=bins)[full] / counts[full]
    share = np.bincount(bin_of, weights=true, minlength=bins)[full] / counts[full]
    error = float((np.abs(confidence - share) * counts[full]).sum() / len(said)) if len(said) else float("nan")
    return Calibration(confidence, share, counts[full], error)


def mean_of(values: Floats, weights: Floats) -> float:
    """Weighted mean of the values that are numbers; NaN where none is, or all of them weigh nothing."""
    known = ~np.isnan(values)
    total = weights[known].sum()
    return float((values[known] * weights[known]).sum() / total) if total else float("nan")
