"""Ends of a training before its last update: no improvement any more, or no time."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.trainer.states import TrainerFn

from leyden.problem.metrics import Metric
from leyden.settings.training_groups import Trainer
from leyden.training.after_update import AfterUpdate


class TimeLimit(AfterUpdate):
    """Ends the training after the update during which the time is up; an evaluation follows, as after the last one.

    Rank 0 has the clock, so all ranks end at the same update. Lightning's own timer ends in the middle of an
    accumulation window, whose gradient would be lost.

    Args:
        seconds: since the start of the training, evaluations included.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.reached = False
        self._start = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self._start = time.monotonic()

    def on_update(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Look at the clock."""
        self.reached = trainer.strategy.broadcast(time.monotonic() - self._start >= self.seconds)
        trainer.should_stop = trainer.should_stop or self.reached


class NoImprovement(EarlyStopping):
    """Lightning's early stopping, which also knows how good the metric was before training."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare; an evaluation before training is where the comparison starts."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            before = trainer.callback_metrics[self.monitor]
            self.best_score = before if torch.isfinite(before) else self.best_score
        super().on_validation_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting, with the patience of the settings that hold now."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    @property
    def is_over(self) -> bool:
        """Whether the patience is at its end."""
        return bool(self.wait_count >= self.patience)


def make_stops(settings: Trainer, metric: Metric) -> list[Callback]:
    """The callbacks that may end a training early; none by default.

    Args:
        settings: of the loop.
        metric: that has to improve.
    """
    stops: list[Callback] = []
    if settings.max_minutes is not None:
        stops.append(TimeLimit(60 * settings.max_minutes))
    if settings.early_stopping_patience is not None:
        stops.append(
            NoImprovement(
                monitor=f"validation/{metric.name}",
                mode=metric.direction,
                patience=settings.early_stopping_patience,
                min_delta=settings.early_stopping_min_delta,
                check_finite=False,  # a metric without a value is no improvement, and no reason to give up at once
                check_on_train_epoch_end=False,
            )
        )
    return stops


def why_stopped(callbacks: list[Callback], settings: Trainer, done: int, updates: int) -> str | None:
    """One sentence about a training that ended before its last update; None for one that did not.

    Args:
        callbacks: of the trainer.
        settings: of the loop.
        done: updates.
        updates: that were planned.
    """
    if done >= updates:
        return None
    for callback in callbacks:
        if isinstance(callback, TimeLimit) and callback.reached:
            return f"Stopped after {done} of {updates} updates: trainer.max_minutes={settings.max_minutes} are over."
        if isinstance(callback, NoImprovement) and callback.is_over:
            return (
                f"Stopped after {done} of {updates} updates: {callback.monitor} did not improve in "
                f"{callback.wait_count} evaluations (trainer.early_stopping_patience="
                f"{settings.early_stopping_patience})."
            )
    return None
