"""Figures of predictions against scikit-learn, and against the metrics of the problems themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    confusion_matrix,
    mean_absolute_error,
    mean_squared_error,
    precision_recall_fscore_support,
    r2_score,
)
from tests.unit.prediction_folders import classifier, own, regressor, run_folder, table_of, tabulated

from leyden.problem.class_metrics import accuracy, f1
from leyden.problem.number_metrics import mae, mse, r2
from leyden.report.class_figures import calibration, class_figures, confusion
from leyden.report.class_section import judged_labels, judged_rows
from leyden.report.number_figures import number_figures
from leyden.report.number_section import known_pairs

NAMES = ["a", "<b>", "prediction", "never"]
# what rows are and what they are taken for: one class is never there, and another never predicted by some tables
PLACES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=40)


@settings(max_examples=30)
@given(PLACES)
def test_each_class_is_what_scikit_learn_says(pairs: list[tuple[int, int]]) -> None:
    true, given_ = ([NAMES[one] for one in column] for column in zip(*pairs, strict=True))
    indicators = [np.array([[cell == name for name in NAMES] for cell in column]) for column in (true, given_)]
    figures = class_figures(indicators[0], indicators[1], NAMES)
    for average, weighted in ((None, False), ("macro", False), ("weighted", True)):
        expected = precision_recall_fscore_support(true, given_, labels=NAMES, average=average, zero_division=np.nan)
        found = (figures.precision, figures.recall, figures.f1) if average is None else figures.means(weighted=weighted)
        for one, other in zip(found, expected[:3], strict=True):
            if weighted and np.isnan(one):  # scikit-learn takes classes then that no row has
                assert not figures.support[~np.isnan(figures.precision)].sum()
            else:
                np.testing.assert_allclose(one, other, rtol=1e-12)
    np.testing.assert_array_equal(figures.support, [true.count(name) for name in NAMES])
    np.testing.assert_array_equal(confusion(true, given_, NAMES), confusion_matrix(true, given_, labels=NAMES))


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_calibration_is_what_scikit_learn_says(pairs: list[tuple[float, bool]]) -> None:
    said, true = [one for one, _ in pairs], [two for _, two in pairs]
    share, confidence = calibration_curve(true, said, n_bins=10, strategy="uniform")
    found = calibration(said, true)
    np.testing.assert_allclose(found.share, share, rtol=1e-12)
    np.testing.assert_allclose(found.confidence, confidence, rtol=1e-12)
    expected = sum(
        count / len(said) * abs(one - other) for count, one, other in zip(found.counts, share, confidence, strict=True)
    )
    assert found.counts.sum() == len(said)
    assert found.error == pytest.approx(expected, abs=1e-12)


def test_a_calibration_error_by_hand() -> None:
    """Two bins: 0.1 and 0.2 said of what never is, 0.9 of what is in one of two cases."""
    found = calibration([0.05, 0.05, 0.9, 0.9], [False, False, True, False])
    assert found.error == pytest.approx(0.5 * 0.05 + 0.5 * 0.4)


@pytest.mark.parametrize("kind", ["multiclass", "binary"])
def test_classes_are_judged_as_the_metrics_do(tmp_path: Path, kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    names = NAMES if kind == "multiclass" else ["no <b>", "yes"]
    outputs = torch.rand(50, len(names) if kind == "multiclass" else 1, generator=generator, dtype=torch.float64)
    chances = outputs / outputs.sum(1, keepdim=True) if kind == "multiclass" else outputs
    labels = torch.randint(0, len(names), (50,), generator=generator)
    wanted = labels if kind == "multiclass" else labels[:, None].double()
    columns = tabulated(classifier(kind, names), {"probabilities": chances, "labels": wanted})
    predictions = table_of(run_folder(tmp_path, {**own(50), **columns}))
    assert predictions.kind == "classes"
    judged = judged_rows(predictions)
    assert judged is not None
    assert list(judged.names) == list(names)
    assert judged.accuracy == pytest.approx(accuracy(chances, wanted), abs=1e-12)
    figures = class_figures(judged.true, judged.given, judged.names)
    found = figures.means()[2] if kind == "multiclass" else figures.f1[1]
    assert found == pytest.approx(f1(chances, wanted), abs=1e-12)
    sure = chances.max(1).values if kind == "multiclass" else chances[:, 0]
    right = (chances.argmax(1) == labels) if kind == "multiclass" else labels == 1
    assert judged.said == pytest.approx(sure.tolist())
    assert list(judged.came_true) == right.tolist()


def test_labels_are_judged_as_the_metrics_do(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    chances = torch.rand(40, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (40, 3), generator=generator).double()
    columns = tabulated(classifier("multilabel", NAMES[:3]), {"probabilities": chances, "labels": labels})
    predictions = table_of(run_folder(tmp_path, {**own(40), **columns}))
    assert predictions.kind == "labels"
    judged = judged_labels(predictions)
    assert judged is not None
    assert judged.accuracy == pytest.approx(accuracy(chances, labels), abs=1e-12)
    figures = class_figures(judged.true, judged.given, judged.names)
    assert figures.means()[2] == pytest.approx(f1(chances, labels), abs=1e-12)
    assert len(judged.said) == 120


def test_rows_without_a_target_are_not_judged(tmp_path: Path) -> None:
    chances = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]], dtype=torch.float64)
    labels = torch.tensor([0, -1, 1])
    columns = tabulated(classifier("multiclass", ["a", "b"]), {"probabilities": chances, "labels": labels})
    judged = judged_rows(table_of(run_folder(tmp_path, {**own(3), **columns})))
    assert judged is not None
    assert len(judged.true) == 2
    assert judged.accuracy == 1


def test_numbers_are_what_scikit_learn_and_the_metrics_say(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    target, found = (torch.randn(30, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    columns = tabulated(regressor(["x", "y y"]), {"predicted_values": found, "target_values": target})
    predictions = table_of(run_folder(tmp_path, {**own(30), **columns}))
    assert predictions.kind == "numbers"
    assert predictions.outputs == ["x", "y y"]
    figures = [number_figures(*known_pairs(predictions, name)) for name in predictions.outputs]
    for place, one in enumerate(figures):
        pair = (target[:, place].numpy(), found[:, place].numpy())
        assert one.mse == pytest.approx(mean_squared_error(*pair))
        assert one.mae == pytest.approx(mean_absolute_error(*pair))
        assert one.r2 == pytest.approx(r2_score(*pair))
        assert one.bias == pytest.approx(float((pair[1] - pair[0]).mean()))
    assert np.mean([one.mse for one in figures]) == pytest.approx(mse(found, target))
    assert np.mean([one.mae for one in figures]) == pytest.approx(mae(found, target))
    assert np.mean([one.r2 for one in figures]) == pytest.approx(r2(found, target))


def test_targets_that_do_not_vary_have_no_r2() -> None:
    assert np.isnan(number_figures([2.0, 2.0], [1.0, 3.0]).r2)
