"""Learning-rate curves against the specified table, their formula and transformers' own schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from leyden.training.schedule import constant, cosine, linear

Curve = Callable[[int], float]


def optimizer_at(rate: float) -> Optimizer:
    return SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def rates(optimizer: Optimizer, scheduler: LambdaLR, updates: int) -> list[float]:
    """The rate that each update is made with."""
    used = []
    for _ in range(updates):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return used


TABLE = {
    "cosine": [0, 0.5, 1, 0.9619, 0.8536, 0.6913, 0.5, 0.3087, 0.1464, 0.1],
    "linear": [0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125],
    "constant": [0, 0.5, 1, 1, 1, 1, 1, 1, 1, 1],
}
CURVES: dict[str, Callable[..., float]] = {
    "cosine": partial(cosine, floor=0.1),
    "linear": partial(linear, floor=0.1),
    "constant": constant,
}


@pytest.mark.parametrize("name", TABLE)
def test_every_update_of_the_specified_table(name: str) -> None:
    optimizer = optimizer_at(3e-4)
    scheduler = LambdaLR(optimizer, partial(CURVES[name], total=10, warmup=2))
    expected = [3e-4 * factor for factor in TABLE[name]]
    assert rates(optimizer, scheduler, 10) == pytest.approx(expected, abs=3e-4 * 5e-5)


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("warmup", [0, 0.3, 1, 2.5, 9.6, 10, 25])
@pytest.mark.parametrize("total", [1, 2, 10])
def test_curve_is_its_formula(name: str, warmup: float, total: int) -> None:
    for step in range(total + 1):
        left = max(1, total - warmup)
        if step < warmup:
            expected = step / max(1, warmup)
        elif name == "cosine":
            expected = max(0.1, (1 + math.cos(math.pi * (step - warmup) / left)) / 2)
        elif name == "linear":
            expected = max(0.1, (total - step) / left)
        else:
            expected = 1
        assert CURVES[name](step, total=total, warmup=warmup) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", CURVES)
def test_without_warmup_the_first_update_has_the_peak_rate(name: str) -> None:
    assert CURVES[name](0, total=1, warmup=0) == 1
    assert CURVES[name](0, total=10, warmup=0) == 1


@pytest.mark.parametrize("name", CURVES)
def test_warmup_is_a_straight_line_below_the_floor_too(name: str) -> None:
    factors = [CURVES[name](step, total=100, warmup=40) for step in range(41)]
    assert factors == pytest.approx([step / 40 for step in range(41)])
    assert factors[1] < 0.1
    assert CURVES[name](20, total=100, warmup=40) == 0.5


@pytest.mark.parametrize("name", CURVES)
def test_a_warmup_that_outlasts_the_run_never_reaches_the_peak(name: str) -> None:
    factors = [CURVES[name](step, total=4, warmup=8) for step in range(4)]
    assert factors == [0, 1 / 8, 2 / 8, 3 / 8]


@pytest.mark.parametrize("curve", [linear, cosine])
def test_floor_clips_and_does_not_scale(curve: Callable[..., float]) -> None:
    for step in range(20):
        free = curve(step, total=20, warmup=0, floor=0.0)
        assert curve(step, total=20, warmup=0, floor=0.3) == max(0.3, free)


@pytest.mark.parametrize("curve", [linear, cosine])
@pytest.mark.parametrize("warmup", [0, 2.5])
def test_after_the_last_update_the_factor_stays_at_its_floor(curve: Callable[..., float], warmup: float) -> None:
    for floor in (0.0, 0.2):
        factors = [curve(step, total=10, warmup=warmup, floor=floor) for step in range(10, 31)]
        assert factors == pytest.approx([floor] * 21, abs=1e-12)


@pytest.mark.parametrize("name", CURVES)
def test_a_run_without_updates_has_a_factor(name: str) -> None:
    assert 0 <= CURVES[name](0, total=0, warmup=0) <= 1


@pytest.mark.parametrize("warmup", [0, 1, 3])
@pytest.mark.parametrize("name", CURVES)
def test_curves_without_floor_are_those_of_transformers(name: str, warmup: int) -> None:
    total = 12
    theirs, ours = optimizer_at(1e-3), optimizer_at(1e-3)
    schedulers: dict[str, Callable[[], LambdaLR]] = {
        "constant": lambda: get_constant_schedule_with_warmup(theirs, warmup),
        "linear": lambda: get_linear_schedule_with_warmup(theirs, warmup, total),
        "cosine": lambda: get_cosine_schedule_with_warmup(theirs, warmup, total),
    }
    free = {"constant": constant, "linear": partial(linear, floor=0.0), "cosine": partial(cosine, floor=0.0)}[name]
    curve = LambdaLR(ours, partial(free, total=total, warmup=warmup))
    assert rates(ours, curve, total) == pytest.approx(rates(theirs, schedulers[name](), total), rel=1e-12, abs=1e-18)
