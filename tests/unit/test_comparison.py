"""What counts as rounding, and what as another model, at large logits and in every type of weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from leyden.artifacts.comparison import TOLERANCES, Saved, Verification, compare
from leyden.artifacts.differences import difference_of, share_of
from leyden.artifacts.probe import Answers, Probe

ROWS, POSITIONS, VOCABULARY = 4, 4, 300
NOTHING: dict[str, Any] = {"tokens": [], "texts": [], "prompts": []}


def drawn(seed: int, size: float) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [size * torch.randn(POSITIONS, VOCABULARY, generator=generator) for _ in range(ROWS)]


def plus(*each: list[Tensor]) -> list[Tensor]:
    return [sum(parts[1:], parts[0]) for parts in zip(*each, strict=True)]


def compared(outputs: list[Tensor], expected: Answers, dtype: str = "float32") -> Verification:
    saved = Saved("model", Path("model"), "AutoModelForCausalLM", head=False, dtype=dtype)
    probe = Probe(rows=[{}] * len(expected.outputs), answers=expected)
    return compare(saved, probe, expected, outputs, NOTHING)


FAULTS = {"lost": 0.0, "half": 0.5, "twice": 2.0}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_without_its_training_is_found_below_what_rounding_may_be(fault: str, dtype: str) -> None:
    """Logits of 10 and more, a change of a fifth of what is allowed, and rounding of a quarter of that."""
    allowed = TOLERANCES[dtype] * 30
    base, change, rounding = drawn(0, 8.0), drawn(1, allowed / 20), drawn(2, allowed / 80)
    trained = plus(base, change)
    good = compared(plus(trained, rounding), Answers(trained, base), dtype)
    assert good.faults() == []
    assert good.share_of_training == pytest.approx(1, abs=0.05)
    wrong = plus(base, [FAULTS[fault] * one for one in change], rounding)
    found = compared(wrong, Answers(trained, base), dtype)
    assert found.max_logit_difference < found.allowed
    (said,) = found.faults()
    assert f"its outputs have {round(100 * (found.share_of_training or 0))} % of what the training has changed" in said
    assert found.share_of_training == pytest.approx(FAULTS[fault], abs=0.05)


def test_a_change_that_is_lost_in_rounding_is_told_and_no_fault() -> None:
    base, change, rounding = drawn(0, 8.0), drawn(1, 1e-3), drawn(2, 0.05)
    trained = plus(base, change)
    for outputs in (plus(trained, rounding), plus(base, rounding)):
        found = compared(outputs, Answers(trained, base), "bfloat16")
        assert found.faults() == []
        assert any("cannot be told from its base" in line for line in found.sentences())


def test_a_change_that_may_be_the_rounding_of_another_order_is_no_change() -> None:
    """Nothing was trained: the model differs from its base by rounding, and the saved one is the base to the bit."""
    base = drawn(0, 8.0)
    found = compared(base, Answers(plus(base, drawn(1, 1e-6)), base))
    assert found.share_of_training is None
    assert found.faults() == []
    assert any("cannot be told from its base" in line for line in found.sentences())


def test_a_whole_model_has_no_base_to_be_told_from() -> None:
    outputs = drawn(0, 8.0)
    found = compared(outputs, Answers(outputs, []))
    assert found.share_of_training is None
    assert not any("base" in line for line in found.sentences())


def test_an_infinite_output_excuses_no_other_one() -> None:
    expected = drawn(0, 8.0)
    expected[0][0, 0] = -math.inf
    assert compared(expected, Answers(expected, [])).faults() == []
    wrong = [one.clone() for one in expected]
    wrong[1][0, 0] += 100
    found = compared(wrong, Answers(expected, []))
    assert found.largest_logit < 100
    assert "its outputs differ" in found.faults()[0]


@pytest.mark.parametrize("values", [(math.inf, 1.0), (1.0, math.inf), (-math.inf, math.inf), (math.nan, math.nan)])
def test_infinite_outputs_have_to_be_equal(values: tuple[float, float]) -> None:
    one, other = (torch.tensor([0.0, value]) for value in values)
    assert difference_of(one, other) == math.inf
    assert difference_of(other, one) == math.inf


@pytest.mark.parametrize("outputs", [[], [torch.zeros(0, VOCABULARY)]])
def test_nothing_to_compare_is_a_fault(outputs: list[Tensor]) -> None:
    (said,) = compared(outputs, Answers(outputs, [])).faults()
    assert "no row has an output to compare" in said


def test_the_share_is_that_of_least_squares() -> None:
    base, change, rest = drawn(0, 8.0), drawn(1, 0.5), drawn(2, 0.5)
    outputs = plus(base, [0.3 * one for one in change], rest)
    share = share_of(outputs, Answers(plus(base, change), base), 0.01)
    assert share is not None
    columns = torch.cat([one.flatten() for one in change]).double()[:, None]
    target = (torch.cat([one.flatten() for one in outputs]) - torch.cat([one.flatten() for one in base])).double()
    assert share.found == pytest.approx(float(torch.linalg.lstsq(columns, target[:, None]).solution), abs=1e-5)
