"""Class metrics against the values of the definition and scikit-learn, ties and absent classes included."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from leyden.problem.class_metrics import accuracy, auc, f1, log_loss
from leyden.problem.metrics import Metric, direction_of

ALL = (auc, accuracy, log_loss, f1)
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
def columns(draw: st.DrawFn, *, most: int = 4) -> Rows:
    """Binary (one column) or multi-label rows, with ties and with columns that hold one value only."""
    rows, width, seed = draw(st.integers(1, 12)), draw(st.integers(1, most)), draw(st.integers(0, 10**6))
    generator = torch.Generator().manual_seed(seed)
    steps = draw(st.sampled_from([2, 4, 1000]))  # few steps make many ties
    probabilities = torch.randint(0, steps + 1, (rows, width), generator=generator).double() / steps
    return probabilities, torch.randint(0, 2, (rows, width), generator=generator)


@st.composite
def classes(draw: st.DrawFn) -> Rows:
    """Multi-class rows with ties; often some class is absent."""
    rows, width, seed = draw(st.integers(1, 12)), draw(st.integers(2, 5)), draw(st.integers(0, 10**6))
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-2, 3, (rows, width), generator=generator).double()
    return logits.softmax(1), torch.randint(0, width, (rows,), generator=generator)


def binary(probabilities: list[float], labels: list[int]) -> Rows:
    return torch.tensor(probabilities, dtype=torch.float64)[:, None], torch.tensor(labels)[:, None]


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [([0.1, 0.4, 0.6, 0.9], 1.0), ([0.9, 0.6, 0.4, 0.1], 0.0), ([0.5] * 4, 0.5), ([0.1, 0.6, 0.4, 0.9], 0.75)],
)
def test_auc_of_known_rows(probabilities: list[float], expected: float) -> None:
    assert auc(*binary(probabilities, [0, 0, 1, 1])) == expected


@settings(max_examples=150, deadline=None)
@given(st.one_of(columns(), classes()))
def test_auc_is_the_macro_mean_of_scikit_learn_over_classes_that_have_an_area(rows: Rows) -> None:
    probabilities, labels = rows
    truth = torch.nn.functional.one_hot(labels, probabilities.shape[1]) if labels.ndim == 1 else labels
    areas = [
        sklearn.metrics.roc_auc_score(truth[:, place].numpy(), probabilities[:, place].numpy())
        for place in range(truth.shape[1])
        if len(truth[:, place].unique()) == 2
    ]
    expected = sum(areas) / len(areas) if areas else NAN
    assert auc(probabilities, labels) == pytest.approx(expected, rel=1e-12, abs=1e-12, nan_ok=True)


def test_multiclass_auc_is_one_against_the_rest_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(60, 5, generator=generator, dtype=torch.float64).softmax(1)
    labels = torch.randint(0, 5, (60,), generator=generator)
    expected = sklearn.metrics.roc_auc_score(labels.numpy(), probabilities.numpy(), multi_class="ovr", average="macro")
    assert auc(probabilities, labels) == pytest.approx(expected, rel=1e-12)


def test_multiclass_auc_ranks_probabilities_and_refuses_logits() -> None:
    """Column 0 of the logits ties; the softmax does not: 0.5 against 1."""
    logits, labels = torch.tensor([[1.0, 0.0], [1.0, 5.0]], dtype=torch.float64), torch.tensor([0, 1])
    assert sklearn.metrics.roc_auc_score([1, 0], logits[:, 0].numpy()) == 0.5
    assert auc(logits.softmax(1), labels) == 1.0
    for function in ALL:
        with pytest.raises(ValueError, match="these look like logits"):
            function(logits, labels)


def test_one_warning_names_the_classes_that_auc_leaves_out(said: Callable[[], list[str]]) -> None:
    probabilities = torch.tensor([[0.4, 0.2, 0.3, 0.1], [0.1, 0.2, 0.6, 0.1]], dtype=torch.float64)
    assert auc(probabilities, torch.tensor([0, 2])) == 1.0
    assert said() == [
        "AUC of 2 rows is undefined for class 1, 3 (counted from 0, of 4): every row has it, or none. "
        "The mean leaves them out."
    ]


@pytest.mark.parametrize("label", [0, 1])
def test_auc_of_one_class_is_undefined(label: int, said: Callable[[], list[str]]) -> None:
    assert math.isnan(auc(*binary([0.2, 0.7], [label, label])))
    assert said() == [
        "AUC of 2 rows is undefined for label column 0 (counted from 0, of 1): every row has it, or none. "
        "The result is NaN."
    ]
    assert math.isnan(auc(torch.full((3, 2), 0.5), torch.full((3,), label)))
    assert len(said()) == 2


def test_accuracy_of_known_rows() -> None:
    labels = torch.tensor([[1, 0, 1]])
    assert accuracy(torch.tensor([[0.9, 0.8, 0.7]]), labels) == pytest.approx(0.667, abs=4e-4)
    assert accuracy(*binary([0.5, 0.51, 0.2, 0.9], [0, 1, 1, 1])) == 0.75
    assert accuracy(torch.tensor([[0.5, 0.5], [0.1, 0.9]]), torch.tensor([0, 1])) == 1.0


@settings(max_examples=60, deadline=None)
@given(st.one_of(columns(), classes()))
def test_accuracy_is_that_of_scikit_learn(rows: Rows) -> None:
    probabilities, labels = rows
    if labels.ndim == 1:
        expected = sklearn.metrics.accuracy_score(labels.numpy(), probabilities.numpy().argmax(1))
    else:
        shares = [
            sklearn.metrics.accuracy_score(true.numpy(), row.numpy() > 0.5)
            for row, true in zip(probabilities, labels, strict=True)
        ]
        expected = sum(shares) / len(shares)
    assert accuracy(probabilities, labels) == pytest.approx(expected, rel=1e-12)


def test_log_loss_of_known_rows() -> None:
    assert log_loss(*binary([0.8, 0.3], [1, 0])) == pytest.approx(0.28991, abs=1e-5)
    assert log_loss(torch.full((6, 77), 1 / 77, dtype=torch.float64), torch.arange(6)) == pytest.approx(math.log(77))


@settings(max_examples=60, deadline=None)
@given(st.one_of(columns(), classes()))
def test_log_loss_is_that_of_scikit_learn_also_where_a_column_has_one_value(rows: Rows) -> None:
    probabilities, labels = rows
    if labels.ndim == 1:
        names = list(range(probabilities.shape[1]))
        expected = sklearn.metrics.log_loss(labels.numpy(), probabilities.numpy(), labels=names)
    else:
        losses = [
            sklearn.metrics.log_loss(labels[:, place].numpy(), probabilities[:, place].numpy(), labels=[0, 1])
            for place in range(labels.shape[1])
        ]
        expected = sum(losses) / len(losses)
    assert log_loss(probabilities, labels) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_sure_mistake_costs_the_logarithm_of_epsilon() -> None:
    epsilon = np.finfo(np.float64).eps
    assert log_loss(*binary([0.0], [1])) == pytest.approx(-math.log(epsilon), rel=1e-12)
    assert log_loss(*binary([1.0], [0])) == pytest.approx(-math.log(epsilon), rel=1e-12)
    assert log_loss(torch.tensor([[0.0, 1.0]]), torch.tensor([0])) == pytest.approx(-math.log(epsilon), rel=1e-12)
    assert 0 <= log_loss(*binary([1.0], [1])) < 1e-15


@settings(max_examples=100, deadline=None)
@given(st.one_of(columns(), classes()))
def test_f1_is_that_of_scikit_learn_with_undefined_classes_left_out(rows: Rows) -> None:
    probabilities, labels = rows
    if labels.ndim == 1:
        names, predicted = list(range(probabilities.shape[1])), probabilities.numpy().argmax(1)
        expected = sklearn.metrics.f1_score(
            labels.numpy(), predicted, labels=names, average="macro", zero_division=np.nan
        )
    else:
        values = [
            sklearn.metrics.f1_score(
                labels[:, place].numpy(), probabilities[:, place].numpy() > 0.5, zero_division=np.nan
            )
            for place in range(labels.shape[1])
        ]
        expected = np.nanmean(values) if not np.isnan(values).all() else NAN
    assert f1(probabilities, labels) == pytest.approx(expected, rel=1e-12, abs=1e-12, nan_ok=True)


def test_f1_of_known_rows(said: Callable[[], list[str]]) -> None:
    assert f1(*binary([0.9, 0.9, 0.1, 0.1], [1, 0, 1, 0])) == 0.5
    assert f1(*binary([0.1, 0.1, 0.1], [0, 0, 1])) == 0.0
    assert f1(torch.eye(3), torch.tensor([0, 1, 1])) == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert not said()
    assert math.isnan(f1(*binary([0.1, 0.2], [0, 0])))
    assert said() == [
        "F1 of 2 rows is undefined for label column 0 (counted from 0, of 1): no row has it, true or predicted. "
        "The result is NaN."
    ]
    assert f1(torch.eye(3)[:2], torch.tensor([0, 1])) == 1.0
    assert "for class 2 (counted from 0, of 3)" in said()[1]


def test_two_classes_agree_with_one_column() -> None:
    """A softmax over two classes and the probability of class 1 are one model."""
    probabilities, labels = binary([0.1, 0.45, 0.8, 0.3, 0.66], [0, 1, 1, 0, 0])
    both, numbers = torch.cat([1 - probabilities, probabilities], 1), labels[:, 0]
    for function in (auc, accuracy, log_loss):
        assert function(both, numbers) == pytest.approx(function(probabilities, labels), rel=1e-12)


@pytest.mark.parametrize("function", ALL)
def test_labels_may_be_whole_floats_and_probabilities_float32(function: Callable[..., float]) -> None:
    probabilities, labels = binary([0.25, 0.75, 0.5], [0, 1, 0])
    assert function(probabilities.float(), labels.double()) == function(probabilities, labels)
    both = torch.cat([1 - probabilities, probabilities], 1)
    assert function(both, labels[:, 0].double()) == function(both, labels[:, 0])


@pytest.mark.parametrize("function", ALL)
def test_a_broken_model_has_no_score(function: Callable[..., float], said: Callable[[], list[str]]) -> None:
    assert math.isnan(function(*binary([NAN, 0.9, 0.1], [0, 1, 0])))
    assert math.isnan(function(torch.tensor([[0.5, NAN], [0.5, 0.5]]), torch.tensor([0, 1])))
    assert not said()


@pytest.mark.parametrize("function", ALL)
def test_what_does_not_fit_is_refused(function: Callable[..., float]) -> None:
    column = torch.full((3, 1), 0.5)
    for labels in (torch.zeros(3), torch.zeros(2, 1), torch.zeros(3, 2), torch.zeros(3, 1, 1)):
        with pytest.raises(ValueError, match="do not fit"):
            function(column, labels)
    with pytest.raises(ValueError, match="from 0 to 1, but 2 are not: 2"):
        function(column, torch.tensor([[0], [2], [-1]]))
    with pytest.raises(ValueError, match="from 0 to 3, but 1 are not: 4"):
        function(torch.full((2, 4), 0.25), torch.tensor([3, 4]))
    with pytest.raises(ValueError, match="whole numbers"):
        function(column, torch.tensor([[0.0], [0.5], [1.0]]))
    with pytest.raises(ValueError, match="nothing to score"):
        function(torch.zeros(0, 2), torch.zeros(0))


def test_directions_and_columns() -> None:
    assert {function.__name__: direction_of(function) for function in ALL} == {
        "auc": "max", "accuracy": "max", "log_loss": "min", "f1": "max"
    }  # fmt: skip
    assert {Metric("any", "max", function).reads for function in ALL} == {("probabilities", "labels")}


def test_a_class_without_an_area_is_called_by_its_name(said: Callable[[], list[str]]) -> None:
    found = Metric("auc", "max", auc)
    columns = {"probabilities": torch.eye(3)[:2], "labels": torch.tensor([0, 1]), "output_names": ["red", "blue", "x"]}
    assert found.compute(columns).value == 1.0
    assert "is undefined for class 'x': every row has it, or none." in said()[0]
