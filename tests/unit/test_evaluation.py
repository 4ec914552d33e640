"""When evaluations are due, and how their batches come together."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

from leyden.data.batches import Batch
from leyden.data.collation import pack
from leyden.data.trees import Segment, build_tree
from leyden.problem.base import Outcome
from leyden.problem.metrics import Metric, Rated, perplexity
from leyden.problem.scores import Loss
from leyden.settings.errors import MetricError
from leyden.training.evaluation import Collected, due_updates, finish

PERPLEXITY = (Metric("perplexity", "min", perplexity),)


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
        (3, 3, 1e-12, {1, 2, 3}),
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
    found = finish(collected, PERPLEXITY)
    assert found.samples == [0, 3, 5, 9]
    assert found.columns["logps"].tolist() == [-1.0, -6.0, -4.0, 0.0]
    assert found.scored.tolist() == [True, True, True, False]
    assert found.unscored == 1
    perplexity = (math.exp(1) + math.exp(2) + math.exp(2)) / 3
    assert found.metrics == {"validation/loss": 11 / 6, "validation/perplexity": pytest.approx(perplexity)}


def test_an_evaluation_over_no_target_is_a_fault_and_never_zero() -> None:
    collected = Collected()
    collected.add(batch(0), outcome([0.0], [0]))
    with pytest.raises(MetricError, match=r"the validation loss is over no target.*dataset\.weight_column"):
        finish(collected, PERPLEXITY)
    found = finish(collected, PERPLEXITY, strict=False)
    assert found.failures.keys() == {"loss"}
    assert math.isnan(found.metrics["validation/loss"])
    assert found.metrics.keys() == {"validation/loss"}
    assert found.unscored == 1
    assert not finish(collected, ()).failures, "a prediction may be of rows without answers"
    assert finish(Collected(), PERPLEXITY).samples == []


def boom(logps):
    raise KeyError("boom")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (boom, r"metric\.mine \(tests\.unit\.test_evaluation\.boom\) raised KeyError: 'boom' on 2 rows\. Mend"),
        (lambda logps: "much", "returned 'much', which is no number, on 2 rows"),
        (lambda logps: None, "returned None, which is no number, on 2 rows"),
        (lambda logps: logps, r"returned tensor\(.*, which is no number, on 2 rows"),
        (lambda logps: Rated(1.0, {"remark": ["one"]}), "returned 1 cells in the column remark on 2 rows"),
    ],
)
def test_a_metric_that_gives_no_number_is_named_with_its_setting(function, said: str) -> None:
    collected = Collected()
    collected.add(batch(5, 0), outcome([-4.0, -1.0], [2, 1]))
    metrics = [Metric("mine", "max", function), *PERPLEXITY]
    with pytest.raises(MetricError, match=said) as caught:
        finish(collected, metrics)
    assert caught.value.__cause__ is not None
    found = finish(collected, metrics, strict=False)
    assert math.isnan(found.metrics["validation/mine"])
    assert found.metrics["validation/perplexity"] > 1
    assert str(found.failures["mine"]) == str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # ranks send it to each other


class Written:
    """Answers of a model that says its sample's number."""

    def generate(self, samples):
        return {sample: f"says {sample}" for sample in samples}

    def columns(self, samples, texts):
        return {"predicted_texts": [texts[sample] for sample in samples], "rows": list(samples)}


def test_texts_are_generated_for_metrics_that_read_them_and_their_remarks_are_kept() -> None:
    def longest(predicted_texts, rows):
        return Rated(float(len(rows)), {"remark": [text.upper() for text in predicted_texts]}, {"words": 2.0})

    collected = Collected()
    collected.add(batch(5, 0, 3), outcome([-4.0, -1.0, 0.0], [2, 1, 0]))
    found = finish(collected, [Metric("longest", "max", longest)], Written())
    assert found.texts == {0: "says 0", 3: "says 3", 5: "says 5"}
    assert found.remarks == {"remark": ["SAYS 0", "SAYS 5"]}  # of the scored samples
    assert found.metrics["validation/longest"] == 2.0
    assert found.metrics["validation/words"] == 2.0
