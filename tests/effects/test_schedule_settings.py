"""Each setting of `schedule` and what it does, through the real module: R9, R10, R11 of the specification, B2."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.effects.small_runs import material_of, settings_of, trained
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, CyclicLR, OneCycleLR, ReduceLROnPlateau, StepLR
from transformers import get_inverse_sqrt_schedule, get_wsd_schedule

from leyden.settings.checks_training import training_advice
from leyden.settings.errors import ConfigError
from leyden.settings.training_groups import Schedule
from leyden.training.schedule import inverse_sqrt, wsd
from leyden.training.scheduling import Driven, Plan

# 10 rows, 2 per batch, 2 epochs: S = 10 updates, W = 0.4 epochs = 2 updates.
ROWS = {"p": [f"word {number}" for number in range(10)], "a": ["yes", "no"] * 5}
SHAPE = ["trainer.batch_size=2", "trainer.epochs=2", "schedule.warmup_epochs=0.4", "optimizer.learning_rate=0.5",
         "optimizer.differential_learning_rate_layers=[lora_B]", "optimizer.differential_learning_rate=0.125",
         "lora.target_modules=[q_proj]", "trainer.max_bad_steps=20"]  # fmt: skip
TABLE = {
    "cosine": [0, 0.5, 1, 0.9619, 0.8536, 0.6913, 0.5, 0.3087, 0.1464, 0.1],
    "linear": [0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125],
    "constant": [0, 0.5, 1, 1, 1, 1, 1, 1, 1, 1],
    "wsd": [0, 0.5, 1, 1, 1, 1, 1, 1, 1, 1 - math.sqrt(0.5)],
    "inverse_sqrt": [0, 0.5, *((2 / k) ** 0.5 for k in range(2, 10))],
}


def logged(run: Path, name: str) -> list[float]:
    lines = [line.split(",") for line in (run / "metrics.csv").read_text(encoding="utf-8").splitlines()]
    place = lines[0].index("name"), lines[0].index("value")
    return [float(line[place[1]]) for line in lines[1:] if line[place[0]] == name]


@pytest.mark.parametrize("name", TABLE)
def test_r9_r11_every_update_of_a_run_has_the_rate_of_the_table_in_both_groups(name: str, tmp_path: Path) -> None:
    floor = [] if name == "constant" else ["schedule.min_learning_rate_ratio=0.1"]
    run = trained(tmp_path, ROWS, f"schedule={name}", *SHAPE, *floor)
    rates = logged(run, "train/learning_rate")
    assert [rate / 0.5 for rate in rates] == pytest.approx(TABLE[name], abs=5e-5)
    assert logged(run, "train/learning_rate_differential") == pytest.approx([rate / 4 for rate in rates], rel=1e-12)


def test_b2_the_schedule_counts_updates_and_not_batches(tmp_path: Path) -> None:
    run = trained(tmp_path, ROWS, "schedule=linear", *SHAPE, "trainer.grad_accumulation=2", "schedule.warmup_epochs=0")
    assert logged(run, "train/learning_rate") == pytest.approx([0.5 * (6 - k) / 6 for k in range(6)])


def test_r10_the_floor_is_the_least_rate_after_the_warmup(tmp_path: Path) -> None:
    run = trained(tmp_path, ROWS, "schedule=linear", *SHAPE, "schedule.min_learning_rate_ratio=0.3")
    assert min(logged(run, "train/learning_rate")[2:]) == pytest.approx(0.3 * 0.5)
    with pytest.raises(ConfigError, match="min_learning_rate_ratio=0.2 has no effect with constant"):
        settings_of(tmp_path, ROWS, "schedule=constant", "+schedule.min_learning_rate_ratio=0.2")
    with pytest.raises(ConfigError, match="min_learning_rate_ratio has no effect with torch.optim"):
        material_of(tmp_path, ROWS, "schedule=plateau", "+schedule.min_learning_rate_ratio=0.2")
    with pytest.raises(ConfigError, match="schedule.min_learning_rate_ratio=1.0 is not allowed"):
        settings_of(tmp_path, ROWS, "schedule=wsd", "schedule.min_learning_rate_ratio=1.0")


def test_r11_a_warmup_as_long_as_the_run_is_warned_about(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, ROWS, "schedule.warmup_epochs=2.0", "trainer.epochs=2")
    assert "the peak learning rate is never reached" in " ".join(training_advice(settings))
    assert not list(training_advice(settings_of(tmp_path, ROWS, "schedule.warmup_epochs=1.9", "trainer.epochs=2")))
    bare = settings_of(tmp_path, ROWS, "schedule=inverse_sqrt", "schedule.warmup_epochs=0")
    assert "falls from the first update on" in " ".join(training_advice(bare))


@pytest.mark.parametrize(("warmup", "decay"), [(0, 2), (3, 4), (4, 8)])
def test_wsd_is_that_of_transformers(warmup: int, decay: int) -> None:
    total = 12
    theirs = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_wsd_schedule(theirs, warmup, decay, num_training_steps=total, decay_type="1-sqrt")
    for step in range(total + 1):
        ours = wsd(step, total=total, warmup=warmup, floor=0.0, decay_share=decay / total)
        assert ours == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-12)
        theirs.step()
        schedule.step()
    assert wsd(11, total=12, warmup=0, floor=0.3, decay_share=0.5) == 0.3
    assert wsd(9, total=10, warmup=9.5, floor=0.0, decay_share=1.0) == 9 / 9.5


def test_inverse_sqrt_is_that_of_transformers() -> None:
    theirs = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_inverse_sqrt_schedule(theirs, 4)
    for step in range(20):
        ours = inverse_sqrt(step, total=20, warmup=4, floor=0.0)
        assert ours == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)
        theirs.step()
        schedule.step()
    assert inverse_sqrt(100, total=200, warmup=1, floor=0.2) == 0.2


def settings(target: str, warmup: float = 0.0, **knobs: Any) -> Schedule:
    path = f"torch.optim.lr_scheduler.{target}"
    return Schedule.model_validate({"_target_": path, "warmup_epochs": warmup, **knobs})


def two_groups(make: Callable[..., Optimizer], peak: float = 0.1) -> Optimizer:
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    return make([{"params": weights[:1]}, {"params": weights[1:], "lr": peak / 10}], lr=peak)


SCHEDULERS: dict[str, tuple[dict[str, Any], Callable[[Optimizer], Any]]] = {
    "OneCycleLR": (
        {"max_lr": 0.1, "total_steps": "updates", "cycle_momentum": True},
        lambda optimizer: OneCycleLR(optimizer, max_lr=0.1, total_steps=20),
    ),
    "CyclicLR": (
        {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3, "cycle_momentum": False},
        lambda optimizer: CyclicLR(optimizer, base_lr=0.01, max_lr=0.1, step_size_up=3, cycle_momentum=False),
    ),
    "StepLR": ({"step_size": "updates_per_epoch"}, lambda optimizer: StepLR(optimizer, step_size=5)),
    "CosineAnnealingWarmRestarts": (
        {"T_0": "updates_per_epoch", "eta_min": 0.001},
        lambda optimizer: CosineAnnealingWarmRestarts(optimizer, T_0=5, eta_min=0.001),
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_r9_any_scheduler_of_torch_moves_every_group_alike(name: str) -> None:
    knobs, make = SCHEDULERS[name]
    alone = Adam([nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs, ours = make(alone), two_groups(Adam)
    schedule = Plan(settings(name, **knobs), "min", updates=20, per_epoch=5)(ours)
    for _ in range(19):
        assert ours.param_groups[0]["lr"] == pytest.approx(alone.param_groups[0]["lr"], rel=1e-12)
        assert ours.param_groups[1]["lr"] == pytest.approx(ours.param_groups[0]["lr"] / 10, rel=1e-12)
        assert ours.param_groups[1]["betas"] == alone.param_groups[0]["betas"]
        ours.step()
        schedule.step()
        alone.step()
        theirs.step()


def test_r11_a_scheduler_begins_after_a_linear_warmup() -> None:
    optimizer = two_groups(AdamW)
    schedule = Plan(settings("StepLR", 0.5, step_size=1, gamma=0.5), "min", updates=10, per_epoch=5)(optimizer)
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        schedule.step()
    assert rates == pytest.approx([0, 0.1 / 2.5, 0.2 / 2.5, 0.1, 0.05, 0.025])
    whole = Plan(settings("LinearLR", 0.5, start_factor=1.0, end_factor=0.5, total_iters="updates"), "min", 10, 5)
    fall = whole(optimizer := two_groups(AdamW))
    for _ in range(10):
        fall.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)  # 7 updates after a warmup of 3


@pytest.mark.parametrize(("direction", "values"), [("min", [3, 2, 2, 2, 2]), ("max", [1, 2, 2, 2, 2])])
def test_r9_a_plateau_follows_the_first_metric_in_its_own_direction(direction: str, values: list[float]) -> None:
    optimizer, alone = two_groups(SGD), SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = Plan(settings("ReduceLROnPlateau", 0.2, patience=1, factor=0.5), direction, 10, 10)(optimizer)
    theirs = ReduceLROnPlateau(alone, mode=direction, patience=1, factor=0.5)
    assert isinstance(schedule, Driven)
    schedule.evaluated(-9.0 if direction == "min" else 9.0)  # in the warmup, nothing counts
    for _ in range(5):
        schedule.step()
    schedule.evaluated(math.nan)
    for value in values:
        schedule.evaluated(value)
        theirs.step(value)
        assert optimizer.param_groups[0]["lr"] == alone.param_groups[0]["lr"]
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.005)


def test_r9_a_plateau_is_stepped_at_evaluations_of_a_run(tmp_path: Path) -> None:
    run = trained(tmp_path, ROWS, "schedule=plateau", "schedule.patience=0", "schedule.threshold=0.9", *SHAPE,
                  "schedule.warmup_epochs=0", "trainer.evaluation_epochs=0.4")  # fmt: skip
    # evaluations after updates 2, 4, 6, 8, 10; none gets better by 90 percent, so each but the first halves the rate
    assert logged(run, "train/learning_rate") == [0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625, 0.0625]


def test_r9_a_function_of_your_own_is_a_curve(tmp_path: Path) -> None:
    material_of(tmp_path, ROWS, f"schedule._target_={__name__}.halved")


def halved(step: int, *, total: int, warmup: float) -> float:
    return 0.5


def test_r9_one_cycle_in_a_run(tmp_path: Path) -> None:
    run = trained(tmp_path, ROWS, "schedule=one_cycle", *SHAPE, "schedule.warmup_epochs=0")
    alone = SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    theirs = OneCycleLR(alone, max_lr=0.5, total_steps=10, cycle_momentum=False)
    expected = []
    for step in range(10):
        expected.append(alone.param_groups[0]["lr"])
        alone.step()
        if step < 9:
            theirs.step()
    assert logged(run, "train/learning_rate") == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", [*SCHEDULERS, "ReduceLROnPlateau"])
def test_r9_a_saved_schedule_goes_on_exactly(name: str, tmp_path: Path) -> None:
    knobs = SCHEDULERS[name][0] if name in SCHEDULERS else {"patience": 0, "factor": 0.5}
    plan = Plan(settings(name, 0.5, **knobs), "min", updates=23, per_epoch=5)

    def go(schedule: Any, updates: int) -> None:
        for number in range(updates):
            schedule.step()
            schedule.evaluated(float(number))

    first = two_groups(partial(SGD, momentum=0.9))
    whole = plan(first)
    go(whole, 8)
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    second = two_groups(partial(SGD, momentum=0.9))
    again = plan(second)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(6):
        assert [g["lr"] for g in first.param_groups] == [g["lr"] for g in second.param_groups]
        assert [g["momentum"] for g in first.param_groups] == [g["momentum"] for g in second.param_groups]
        go(whole, 1)
        go(again, 1)


def test_r9_a_cycle_shorter_than_the_run_ends_it_before_the_first_update() -> None:
    cycle = Schedule.model_validate(
        {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "warmup_epochs": 0.1, "max_lr": 1.0, "total_steps": 89}
    )
    assert Plan(cycle, "min", 99, 99)(two_groups(partial(SGD, momentum=0.9)))
    with pytest.raises(ConfigError, match=r"89 updates .* fewer than the 90 of this run. Set schedule.total_steps=up"):
        Plan(cycle, "min", 100, 100)(two_groups(partial(SGD, momentum=0.9)))


def test_r9_a_cycle_up_to_a_rate_that_is_found_goes_up_to_it(tmp_path: Path) -> None:
    rates = ["schedule=one_cycle", "optimizer.learning_rate=auto"]
    settings = settings_of(tmp_path, ROWS, *rates)
    assert material_of(tmp_path, ROWS, *rates)  # nothing is refused before the rate is known
    optimizer = two_groups(partial(SGD, momentum=0.9))
    peak = optimizer.defaults["lr"]
    schedule = Plan(settings.schedule, "min", 100, 100)(optimizer)
    seen = []
    for _ in range(100):
        seen.append(optimizer.param_groups[0]["lr"])
        schedule.step()
    assert seen[0] == pytest.approx(peak / 25)
    assert max(seen) == pytest.approx(peak, rel=1e-3)


def test_r9_a_curve_that_returns_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="returned 'x', and a curve returns a number"):
        material_of(tmp_path, ROWS, f"schedule._target_={__name__}.text_curve")


def text_curve(step: int, *, total: int, warmup: float, floor: float) -> str:  # noqa: ARG001
    return "x"


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["schedule=one_cycle", "schedule.pct_start=2.0"], "schedule: Expected float between 0 and 1 pct_start"),
        (["schedule=one_cycle", "+schedule.speed=1"], "schedule.speed: OneCycleLR has no such argument"),
        (["schedule=one_cycle", "schedule.total_steps=often"], "schedule: .*`updates` and `updates_per_epoch`"),
        (["schedule._target_=torch.optim.lr_scheduler.SequentialLR"], "schedule: .*missing"),
        (["schedule=plateau", "+schedule.mode=max"], "schedule.mode has no effect: the first metric says"),
        (["schedule=wsd", "+schedule.speed=1"], "schedule.speed: wsd has no such argument"),
        (["+schedule.total=5"], "schedule.total is filled by the updates of the run. Leave it out."),
        (["+schedule.step=5"], "schedule.step is filled by the updates done"),
        (["schedule=one_cycle", "+schedule.last_epoch=3"], "schedule.last_epoch is filled by the updates done"),
        (["schedule=wsd", "schedule.decay_share=0"], "schedule: decay_share=0, and it must be above 0, at most 1"),
        (["schedule=wsd", "schedule.decay_share=abc"], "schedule: .*leyden.training.schedule.wsd"),
        (["schedule._target_=torch.optim.lr_scheduler.StepLR", "+schedule.step_size=0"], "ZeroDivisionError"),
        (["schedule=one_cycle", "schedule.total_steps=5"], "schedule.total_steps: 5 updates .* fewer than the 10"),
        (["schedule._target_=math.floor"], "schedule.total: floor has no such argument"),
        (["schedule._target_=torch.optim.lr_scheduler.Nix"], "cannot be imported"),
        (["schedule._target_=math.pi"], "is no curve and no scheduler"),
    ],
)
def test_r9_what_a_schedule_refuses_is_said_before_weights_are_loaded(
    overrides: list[str], fault: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=fault):
        material_of(tmp_path, ROWS, *overrides)
