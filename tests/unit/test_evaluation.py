"""When evaluations are due, and how their batches come together."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from leyden.data.batches import Batch
from leyden.data.collation import pack
from leyden.data.trees import Segment, build_tree
from leyden.problem.base import Outcome
from leyden.problem.causal_lm import CausalLM
from leyden.problem.dpo import DPO
from leyden.problem.losses import dpo, token_averaged_cross_entropy
from leyden.problem.scores import Loss
from leyden.training.evaluation import Collected, due_updates, finish

CLM = CausalLM(loss=token_averaged_cross_entropy)


@pytest.mark.parametrize(
    ("total", "per_epoch", "every", "expected"),
    [
        (10, 10, 0.3, {3, 6, 9, 10}),
        (10, 10, 0.25, {2, 5, 8, 10}),
        (20, 10, 1.0, {10, 20}),
        (20, 10, 1.5, {15, 20}),
        (30, 10, 2.0, {20, 30}),
        (10, 10, 5.0, {10}),
        (3, 3, 0.01, {1, 2, 3}),
        (1, 1, 1.0, {1}),
        (7, 7, 1 / 3, {2, 5, 7}),
        (6, 3, 1 / 3, {1, 2, 3, 4, 5, 6}),
    ],
)
def test_due_updates(total: int, per_epoch: int, every: float, expected: set[int]) -> None:
    assert due_updates(total, per_epoch, every) == expected


def batch(*samples: int) -> Batch:
    return pack([build_tree([Segment([1, 2, 3], True)]) for _ in samples], samples)


def outcome(logps: list[float], counts: list[int]) -> Outcome:
    sums, numbers = torch.tensor(logps), torch.tensor(counts)
    columns = {"logps": sums, "counts": numbers, "loss": -sums / numbers}
    return Outcome(Loss(-sums.sum(), int(numbers.sum())), columns, numbers > 0)


def test_batches_come_together_in_the_order_of_the_samples() -> None:
    collected = Collected()
    collected.add(batch(5, 0), outcome([-4.0, -1.0], [2, 1]))
    collected.add(batch(3, 9), outcome([-6.0, 0.0], [3, 0]))
    collected.add(batch(~1), outcome([], []))  # a ghost
    found = finish(collected, CLM, ("perplexity",))
    assert found.samples == [0, 3, 5]
    assert found.columns["logps"].tolist() == [-1.0, -6.0, -4.0]
    assert found.unscored == 1
    perplexity = (math.exp(1) + math.exp(2) + math.exp(2)) / 3
    assert found.metrics == {"validation/loss": 11 / 6, "validation/perplexity": pytest.approx(perplexity)}


def test_an_evaluation_without_a_scored_row_has_no_metric_and_no_fault() -> None:
    collected = Collected()
    collected.add(batch(0), outcome([0.0], [0]))
    found = finish(collected, CLM, ("perplexity",))
    assert math.isnan(found.metrics["validation/loss"])
    assert found.metrics.keys() == {"validation/loss"}
    assert found.unscored == 1
    assert finish(Collected(), CLM, ("perplexity",)).samples == []


def test_the_metrics_of_a_problem_are_always_there() -> None:
    collected = Collected()
    columns = {name: torch.tensor([0.5, -0.5]) for name in ("margins", "logps", "counts")}
    collected.add(batch(0, 1), Outcome(Loss(torch.tensor(1.0), 2), columns, torch.tensor([True, True])))
    found = finish(collected, DPO(loss=partial(dpo, beta=0.1)), ())
    assert found.metrics == {
        "validation/loss": 0.5,
        "validation/preference_accuracy": 0.5,
        "validation/reward_margin": 0.0,
    }
