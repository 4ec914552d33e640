"""Metrics against the definition, torch and torchmetrics."""

from __future__ import annotations

import math
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torchmetrics.text import Perplexity

from leyden.problem.metrics import (
    Metric,
    Rated,
    direction_of,
    perplexity,
    preference_accuracy,
    reward_margin,
)
from leyden.problem.scores import TokenScores


@pytest.mark.parametrize("vocabulary", [2, 50, 49152])
def test_perplexity_of_uniform_logits_is_the_vocabulary(vocabulary: int) -> None:
    logps = torch.zeros(5, vocabulary).log_softmax(-1)[:, 0]
    scores = TokenScores(logps, torch.tensor([0, 0, 0, 1, 1]), 2)
    assert perplexity(scores.sums(), scores.counts()) == pytest.approx(vocabulary, rel=1e-6)


def test_perplexity_is_the_mean_of_row_perplexities() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 7, 13, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 13, (3, 7), generator=generator)
    labels[0, 2:], labels[2, 5:] = -100, -100
    losses = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")
    rows = []
    for row in range(3):
        library = Perplexity(ignore_index=-100)
        library.update(logits[row : row + 1].float(), labels[row : row + 1])
        rows.append(library.compute().item())
    ours = perplexity(-losses.sum(1), (labels != -100).sum(1))
    assert ours == pytest.approx(sum(rows) / 3, rel=1e-5)
    assert ours == pytest.approx((losses.sum(1) / torch.tensor([2, 7, 5])).exp().mean().item(), rel=1e-12)
    pooled = math.exp(losses.sum().item() / 14)
    assert abs(ours - pooled) > 0.1, "the data cannot tell a mean of rows from a mean of tokens"


def test_perplexity_leaves_rows_without_a_target_out() -> None:
    assert perplexity(torch.tensor([-2.0, 0.0]), torch.tensor([2, 0])) == pytest.approx(math.e)
    with pytest.raises(ValueError, match="none of 2 rows"):
        perplexity(torch.zeros(2), torch.zeros(2, dtype=torch.int64))


def test_perplexity_neither_overflows_nor_hides_a_broken_model() -> None:
    assert perplexity(torch.tensor([-200.0]), torch.tensor([1])) == pytest.approx(math.exp(200))
    assert math.isnan(perplexity(torch.tensor([float("nan"), -1.0]), torch.tensor([1, 1])))


def test_preference_metrics() -> None:
    margins = torch.tensor([2.0, -1.0, 0.0, 0.5])
    assert preference_accuracy(margins) == 0.5
    assert reward_margin(margins) == 0.375
    assert preference_accuracy(torch.tensor([float("nan"), 1.0])) == 0.5
    assert preference_accuracy(torch.tensor([3.0])) == 1.0
    for function in (preference_accuracy, reward_margin):
        with pytest.raises(ValueError, match="nothing to score"):
            function(torch.zeros(0))


def named(function) -> Metric:
    return Metric(function.__name__, direction_of(function), function)


def test_a_function_says_which_way_is_better_also_with_its_knobs_filled_in() -> None:
    assert direction_of(perplexity) == "min"
    assert direction_of(preference_accuracy) == direction_of(reward_margin) == "max"
    assert direction_of(partial(perplexity)) == "min"
    assert direction_of(lambda margins: 0.0) is None


def test_a_metric_picks_its_columns() -> None:
    columns = {"margins": torch.tensor([1.0]), "counts": torch.tensor([2]), "logps": torch.tensor([-4.0])}
    assert named(perplexity).reads == ("logps", "counts")
    assert named(perplexity).compute(columns).value == pytest.approx(math.exp(2))
    assert named(reward_margin).compute(columns).value == 1.0
    with pytest.raises(KeyError, match="perplexity reads logps, but"):
        named(perplexity).compute({"counts": torch.tensor([2])})


def test_a_parameter_with_a_default_is_a_knob_and_no_column() -> None:
    def tokens(counts, *, scale=1.0):
        return Rated(scale * float(counts.sum()), {"remark": ["a"]})

    found = Metric("tokens", "max", partial(tokens, scale=3.0))
    assert found.reads == ("counts",)
    assert found.compute({"counts": torch.tensor([2])}) == Rated(6.0, {"remark": ["a"]})


def test_better_is_what_the_direction_says() -> None:
    falling, rising = named(perplexity), named(preference_accuracy)
    assert falling.improves(1.0, 2.0)
    assert not falling.improves(2.0, 1.0)
    assert rising.improves(2.0, 1.0)
    assert not rising.improves(1.0, 2.0)
    for metric in (falling, rising):
        assert metric.improves(1.0, None)
        assert metric.improves(1.0, math.nan)
        assert not metric.improves(1.0, 1.0)
        assert not metric.improves(math.nan, None)


def test_a_metric_crosses_processes() -> None:
    metric = pickle.loads(pickle.dumps(named(perplexity)))
    assert isinstance(metric, Metric)
    assert metric == named(perplexity)
