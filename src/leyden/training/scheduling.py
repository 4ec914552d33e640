"""What moves the rates of an optimizer: a curve of ours, or a scheduler of torch with a warmup in front."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from leyden.settings.errors import ConfigError
from leyden.settings.training_groups import Schedule
from leyden.training.problems import check_knobs, dotted

MOVED = ("betas", "momentum")  # what schedulers move besides the rate
PROBE = 10  # updates of the trial before the data is read
FILLED_CURVE = {"step": "the updates done", "total": "the updates of the run", "warmup": "schedule.warmup_epochs",
                "floor": "schedule.min_learning_rate_ratio"}  # fmt: skip
FILLED_CLASS = {"optimizer": "the optimizer", "last_epoch": "the updates done"}


class Scheduler(Protocol):
    """What the LightningModule asks of a schedule."""

    def step(self) -> None:
        """One more update was applied."""

    def state_dict(self) -> dict[str, Any]:
        """Plain containers to go on from."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""


class StandIn(Optimizer):
    """An optimizer of one weight that never moves: schedulers of torch set its rate, and others take it over.

    Args:
        settings: what the group and the defaults hold, `lr` among them.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__([nn.Parameter(torch.zeros(1))], dict(settings))

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Nothing."""


class Driven:
    """A scheduler of torch for every group of an optimizer, with a linear warmup in front.

    The scheduler moves a stand-in at the peak rate of the optimizer. Every group has its own peak times the same
    factor, so the rates of two groups keep their ratio. While k < W the factor is that of the scheduler's first update
    times k / max(1, W); the scheduler begins at update ceil(W).

    Args:
        optimizer: as it was built, with the peak rates.
        make: the scheduler from an optimizer.
        warmup: W, in updates.
    """

    def __init__(self, optimizer: Optimizer, make: Callable[[Optimizer], LRScheduler], warmup: float) -> None:
        self.optimizer, self.warmup, self.updates = optimizer, warmup, 0
        self.peak = float(optimizer.defaults["lr"])
        self.peaks = [float(group["lr"]) for group in optimizer.param_groups]
        self.stand_in = StandIn(optimizer.defaults)
        self.scheduler = make(self.stand_in)
        self._apply()

    def step(self) -> None:
        """One more update was applied."""
        self.updates += 1
        if self.updates > math.ceil(self.warmup) and not isinstance(self.scheduler, ReduceLROnPlateau):
            self.stand_in.step()
            with faults_of_keys(type(self.scheduler).__name__):
                self.scheduler.step()
        self._apply()

    def evaluated(self, value: float) -> None:
        """An evaluation gave this value of the first metric."""
        counts = self.updates >= self.warmup and math.isfinite(value)
        if counts and isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(value)
            self._apply()

    def state_dict(self) -> dict[str, Any]:
        """Plain containers to go on from."""
        group = {name: value for name, value in self.stand_in.param_groups[0].items() if name != "params"}
        return {"updates": self.updates, "scheduler": self.scheduler.state_dict(), "group": group}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.updates = state_dict["updates"]
        self.scheduler.load_state_dict(state_dict["scheduler"])
        self.stand_in.param_groups[0].update(state_dict["group"])
        self._apply()

    def _apply(self) -> None:
        moved = self.stand_in.param_groups[0]
        factor = float(moved["lr"]) / self.peak
        if self.updates < self.warmup:
            factor *= self.updates / max(1.0, self.warmup)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
            for name in MOVED:
                if name in group and name in moved and moved[name] != self.stand_in.defaults[name]:
                    group[name] = moved[name]


@dataclass(frozen=True)
class Plan:
    """How the rates of a run move.

    Attributes:
        schedule: the settings.
        direction: of the first metric, for schedulers that look at it.
        updates: of the whole run.
        per_epoch: updates of one epoch.
    """

    schedule: Schedule
    direction: str
    updates: int
    per_epoch: int

    def __call__(self, optimizer: Optimizer) -> Scheduler:
        """The schedule of an optimizer that was just built.

        Raises:
            ConfigError: the scheduler refuses a setting.
        """
        target = dotted(self.schedule.target, "schedule._target_")
        warmup = self.schedule.warmup_epochs * self.per_epoch
        if not _is_class(target):
            return LambdaLR(
                optimizer, partial(target, total=self.updates, warmup=warmup, **_knobs(self.schedule, target))
            )
        planned = max(1, self.updates - math.ceil(warmup))
        # a rate that refers to optimizer.learning_rate says auto as long as that does
        known = {"updates": planned, "updates_per_epoch": self.per_epoch, "auto": float(optimizer.defaults["lr"])}
        knobs = {name: _number(value, known) for name, value in self.schedule.knobs.items()}
        if issubclass(target, ReduceLROnPlateau):
            knobs["mode"] = self.direction
        with faults_of_keys(self.schedule.target):
            driven = Driven(optimizer, lambda stand_in: cast(LRScheduler, target(stand_in, **knobs)), warmup)
        steps = getattr(driven.scheduler, "total_steps", None)
        if isinstance(steps, int) and steps < planned:
            raise ConfigError(
                f"schedule.total_steps: {steps} updates of {self.schedule.target} are fewer than the "
                f"{planned} of this run. Set schedule.total_steps=updates."
            )
        return driven


def check_schedule(schedule: Schedule, factory: Callable[..., Optimizer], direction: str) -> None:
    """Try a schedule out before anything is read.

    Args:
        schedule: the settings.
        factory: of the optimizer.
        direction: of the first metric.

    Raises:
        ConfigError: the path leads nowhere, or a key that the curve or the scheduler does not take.
    """
    target = dotted(schedule.target, "schedule._target_")
    if not callable(target):
        raise ConfigError(f"schedule._target_={schedule.target!r} is no curve and no scheduler. Give module.function.")
    if _is_class(target):
        if schedule.min_learning_rate_ratio:
            raise ConfigError(
                f"schedule.min_learning_rate_ratio has no effect with {schedule.target}. Leave it out, and set the "
                "scheduler's own lowest rate, if it has one, such as eta_min or min_lr."
            )
        if issubclass(target, ReduceLROnPlateau) and "mode" in schedule.knobs:
            raise ConfigError("schedule.mode has no effect: the first metric says which way is better. Leave it out.")
        check_knobs(target, schedule.knobs, "schedule", FILLED_CLASS)
        tried = cast(Driven, Plan(schedule, direction, PROBE, PROBE)(factory([nn.Parameter(torch.zeros(1))])))
        for _ in range(PROBE):
            tried.step()
        return
    check_knobs(target, schedule.knobs, "schedule", FILLED_CURVE)
    knobs = {"total": PROBE, "warmup": min(1.0, schedule.warmup_epochs), **_knobs(schedule, target)}
    check_knobs(target, knobs, "schedule")
    with faults_of_keys(schedule.target):
        factors = [target(step, **knobs) for step in range(PROBE + 1)]
    odd = [factor for factor in factors if not (isinstance(factor, int | float) and math.isfinite(factor))]
    if odd:
        raise ConfigError(f"schedule: {schedule.target} returned {odd[0]!r}, and a curve returns a number.")


@contextmanager
def faults_of_keys(target: str) -> Iterator[None]:
    """Whatever a curve or scheduler raises is about the keys that it got.

    Args:
        target: what was called, for the message.

    Raises:
        ConfigError: in place of any other error.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        kind = "" if isinstance(error, TypeError | ValueError) else f"{type(error).__name__}: "
        said = f"{kind}{' '.join(str(error).split())}".rstrip(": .")
        raise ConfigError(
            f"schedule: {said}. Its keys must be arguments of {target}, with values that it takes; `updates` and "
            "`updates_per_epoch` as values become numbers."
        ) from error


def _is_class(target: Any) -> bool:
    return inspect.isclass(target) and issubclass(target, LRScheduler)


def _knobs(schedule: Schedule, curve: Callable[..., float]) -> dict[str, Any]:
    """The keyword arguments of a curve besides those that the run knows; a floor of 0 only where there is one."""
    floor = schedule.min_learning_rate_ratio
    said = floor is not None and (floor > 0 or "floor" in inspect.signature(curve).parameters)
    return ({"floor": floor} if said else {}) | schedule.knobs


def _number(value: Any, known: Mapping[str, float]) -> Any:
    """A value with the words for numbers of updates replaced, in lists too."""
    if isinstance(value, list):
        return [_number(item, known) for item in value]
    return known.get(value, value) if isinstance(value, str) else value
