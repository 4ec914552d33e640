"""Number metrics against the values of the definition, scikit-learn and scipy, ties and constant targets included."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator

import pytest
import scipy.stats
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from leyden.problem.metrics import Metric, direction_of
from leyden.problem.number_metrics import mae, mse, r2, spearman

ALL = (mse, mae, r2, spearman)
NAN = float("nan")
Rows = tuple[Tensor, Tensor]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """The warnings so far; asked of the logger itself, since a run in the same process stops it from handing on."""
    logger = logging.getLogger("leyden")
    logger.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in dict.fromkeys(caplog.records)]
    logger.removeHandler(caplog.handler)


@st.composite
def values(draw: st.DrawFn) -> Rows:
    """Predictions and targets; few steps make many ties, and columns with one value."""
    rows, width, seed = draw(st.integers(1, 12)), draw(st.integers(1, 3)), draw(st.integers(0, 10**6))
    generator = torch.Generator().manual_seed(seed)
    steps, offset = draw(st.sampled_from([1, 3, 10**6])), draw(st.sampled_from([0.0, -3.5, 1e6]))
    first, second = (torch.randint(0, steps + 1, (rows, width), generator=generator).double() for _ in range(2))
    return first * 0.7 + offset, second * 0.7 + offset


def column(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def varying(target: Tensor) -> list[int]:
    return [place for place in range(target.shape[1]) if len(target[:, place].unique()) > 1]


def test_errors_of_known_rows() -> None:
    predicted = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    target = torch.tensor([[2.0, 3.0], [3.0, 3.0]], dtype=torch.float64)
    assert mse(predicted, target) == 0.75
    assert mae(predicted, target) == 0.75
    assert mse(column(0, 2), column(0, 0)) == 2.0
    assert mae(column(0, 2), column(0, 0)) == 1.0


@settings(max_examples=60, deadline=None)
@given(values())
def test_errors_are_those_of_scikit_learn(rows: Rows) -> None:
    predicted, target = rows
    expected = sklearn.metrics.mean_squared_error(target.numpy(), predicted.numpy())
    assert mse(predicted, target) == pytest.approx(expected, rel=1e-12)
    expected = sklearn.metrics.mean_absolute_error(target.numpy(), predicted.numpy())
    assert mae(predicted, target) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=100, deadline=None)
@given(values())
def test_r2_is_that_of_scikit_learn_over_targets_that_vary(rows: Rows) -> None:
    predicted, target = rows
    kept = varying(target)
    expected = sklearn.metrics.r2_score(target[:, kept].numpy(), predicted[:, kept].numpy()) if kept else NAN
    assert r2(predicted, target) == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True)


def test_r2_of_known_rows() -> None:
    target = column(1, 2, 3)
    assert r2(target, target) == 1.0
    assert r2(column(2, 2, 2), target) == 0.0
    assert r2(column(3, 2, 1), target) == -3.0


def test_r2_far_from_zero_keeps_its_digits() -> None:
    """The sum of squares less the squared sum has no digit left at an offset of 1e8."""
    predicted, target = column(0.1, 0.7, 0.8), column(0, 1, 0)
    assert r2(predicted, target) == pytest.approx(-0.11, rel=1e-12)
    assert r2(predicted + 1e8, target + 1e8) == pytest.approx(-0.11, rel=1e-6)


@settings(max_examples=100, deadline=None)
@given(values())
def test_spearman_is_that_of_scipy_over_targets_that_vary(rows: Rows) -> None:
    predicted, target = rows
    kept = varying(target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.ConstantInputWarning)
        each = [float(scipy.stats.spearmanr(predicted[:, at].numpy(), target[:, at].numpy())[0]) for at in kept]
    expected = sum(each) / len(each) if each else NAN
    assert spearman(predicted, target) == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True)


def test_spearman_of_known_rows() -> None:
    target = column(1, 2, 3, 4)
    assert spearman(column(0.1, 5, 6, 1e9), target) == 1.0
    assert spearman(-target, target) == -1.0
    assert spearman(column(1, 2, 2, 3), target) == pytest.approx(0.9486832980505138, rel=1e-12)


@pytest.mark.parametrize(("function", "name"), [(r2, "R²"), (spearman, "Spearman's correlation")])
def test_a_target_with_one_value_is_left_out_and_named(
    function: Callable[..., float], name: str, said: Callable[[], list[str]]
) -> None:
    predicted, target = column(1, 2, 4), column(1, 2, 3)
    constant = torch.full((3, 1), 0.1, dtype=torch.float64)  # its mean is not 0.1, by rounding
    both = function(torch.cat([predicted, predicted], 1), torch.cat([target, constant], 1))
    assert both == function(predicted, target)
    assert said() == [
        f"{name} of 3 rows is undefined for target 1 (counted from 0, of 2): all rows have one value. "
        "The mean leaves them out."
    ]
    assert math.isnan(function(predicted, constant))
    assert said()[1].endswith("(counted from 0, of 1): all rows have one value. The result is NaN.")


@pytest.mark.parametrize("function", [r2, spearman])
def test_one_row_has_errors_and_nothing_else(function: Callable[..., float]) -> None:
    assert math.isnan(function(column(1), column(3)))
    assert mse(column(1), column(3)) == 4.0
    assert mae(column(1), column(3)) == 2.0


def test_spearman_of_one_prediction_for_all_rows_is_undefined(said: Callable[[], list[str]]) -> None:
    target = torch.cat([column(1, 2, 3), column(3, 1, 2)], 1)
    assert math.isnan(spearman(torch.cat([column(5, 5, 5), column(3, 1, 2)], 1), target))
    assert said() == [
        "Spearman's correlation is NaN: all rows have one prediction for target 0 (counted from 0, of 2)."
    ]


@pytest.mark.parametrize("function", ALL)
def test_a_broken_model_has_no_score(function: Callable[..., float]) -> None:
    assert math.isnan(function(column(1, NAN, 3), column(1, 2, 3)))
    constant = torch.cat([column(1, 2, 3), column(1, 1, 1)], 1)
    assert math.isnan(function(torch.cat([column(1, 2, 3), column(1, NAN, 3)], 1), constant))


@pytest.mark.parametrize("function", ALL)
def test_float32_columns_are_compared_in_float64(function: Callable[..., float]) -> None:
    predicted, target = column(1, 2.5, 3), column(1, 2, 4)
    assert function(predicted.float(), target.float()) == function(predicted, target)


@pytest.mark.parametrize("function", ALL)
def test_what_does_not_fit_is_refused(function: Callable[..., float]) -> None:
    for predicted, target in ((torch.zeros(3, 1), torch.zeros(3)), (torch.zeros(3), torch.zeros(3))):
        with pytest.raises(ValueError, match=r"must both be \[R, K\]"):
            function(predicted, target)
    with pytest.raises(ValueError, match=r"\[3, 1\] and target_values \[3, 2\]"):
        function(torch.zeros(3, 1), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="nothing to score"):
        function(torch.zeros(0, 1), torch.zeros(0, 1))


def test_directions_and_columns() -> None:
    assert {function.__name__: direction_of(function) for function in ALL} == {
        "mse": "min", "mae": "min", "r2": "max", "spearman": "max"
    }  # fmt: skip
    assert {Metric("any", "max", function).reads for function in ALL} == {("predicted_values", "target_values")}
