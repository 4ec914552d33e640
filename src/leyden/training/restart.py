"""A training that goes on where a checkpoint was written: what Lightning's checkpoints leave out, and what it misreads.

Lightning saves weights, optimizer, schedule, scaler, its counters and the loader's position. Its own way of going on
depends on the hook in which a checkpoint was written, and leaves the model in evaluation mode inside an epoch; so every
checkpoint here is given one form, that of a batch that is over, and the rest is done when the training starts.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch.optim.lr_scheduler import LambdaLR

from leyden.settings.errors import MetricError, TrainingError
from leyden.training.callbacks import Point
from leyden.training.checkpoints import Checkpoints
from leyden.training.evaluation import Evaluation, EvaluationSchedule
from leyden.training.module import FineTuner
from leyden.training.position import Epochs, Position, loader_of
from leyden.training.stopping import NoImprovement

log = logging.getLogger(__name__)

OURS = "leyden"  # what a checkpoint holds besides what Lightning saves
COUNTERS = ("bad_steps", "skipped_updates", "empty_updates")
TOTALS = ("samples", "tokens", "computed", "shared", "seconds", "waiting")


class Restart(Callback):
    """Puts into each checkpoint what Lightning leaves out, and goes on from one. Must be the last of the callbacks.

    Args:
        schedule: of the evaluations.
        epochs: of this run.
        checkpoints: that there are.
        position: of the checkpoint to go on from; None: the training begins.
    """

    def __init__(
        self, schedule: EvaluationSchedule, epochs: Epochs, checkpoints: Checkpoints, position: Position | None
    ) -> None:
        self.schedule, self.epochs, self.checkpoints, self.position = schedule, epochs, checkpoints, position
        self.history = checkpoints.history

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add our own state, and write the counters as they are once the batch is over."""
        assert isinstance(pl_module, FineTuner)
        history = self.history
        checkpoint[OURS] = {
            "counters": {name: getattr(pl_module, name) for name in COUNTERS},
            "totals": {name: getattr(history, name) for name in TOTALS},
            "points": [{"step": p.step, "samples": p.samples, "metrics": dict(p.metrics)} for p in history.points],
            "evaluation": _plain_evaluation(pl_module.evaluation),
            "best_evaluation": _plain_evaluation(history.best_evaluation),
            "failures": {name: [times, error.faults] for name, (times, error) in pl_module.failures.items()},
        }
        loops = checkpoint["loops"]["fit_loop"]
        for counts in loops["epoch_loop.batch_progress"].values():
            if isinstance(counts, dict):
                counts["completed"] = counts["processed"]
        for counts in loops["epoch_loop.val_loop.batch_progress"].values():
            if isinstance(counts, dict):
                counts.update(dict.fromkeys(counts, 0))

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take our own state back, and say where in the epoch this is with the processes there are now."""
        assert isinstance(pl_module, FineTuner)
        assert self.position is not None
        ours = checkpoint[OURS]
        for name in COUNTERS:
            setattr(pl_module, name, ours["counters"][name])
        for name in TOTALS:
            setattr(self.history, name, ours["totals"][name])
        self.history.before = self.history.seconds, self.history.waiting
        self.history.points = [Point(**point) for point in ours["points"]]
        self.history.best_evaluation = _evaluation(ours["best_evaluation"])
        pl_module.evaluation = _evaluation(ours["evaluation"])
        self._forget_lost(pl_module.evaluation)
        pl_module.failures = {name: (times, MetricError(why)) for name, (times, why) in ours["failures"].items()}
        if self.position.processes != trainer.world_size:
            ready = self.epochs.batches_at(self.position)
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            progress["current"].update(dict.fromkeys(progress["current"], ready))
            progress["is_last_batch"] = ready == self.epochs.steps
            log.info("Processes: %d go on with what %d began.", trainer.world_size, self.position.processes)

    def _forget_lost(self, last: Evaluation | None) -> None:
        """Where the weights of the best evaluation are damaged, the best of those that are there takes its place."""
        if self.checkpoints.settings.policy != "best":
            return
        there = {state.point.step for state in self.checkpoints.saved}
        while (best := self.history.best()) is not None and best.step not in there:
            self.history.lost.add(best.step)
            log.warning("The weights of the best evaluation, after update %d, are lost.", best.step)
        if self.history.lost:
            is_last = best is not None and best is self.history.points[-1]
            self.history.best_evaluation = last if is_last else None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on inside an epoch as if it had not been left; make up for an evaluation that was due.

        Raises:
            TrainingError: the loader does not go on where the checkpoint was written.
        """
        pl_module.train()
        if self.position is None:
            return
        expected = (self.position.epoch, self.position.consumed)
        if (found := loader_of(trainer).resumed_at) != expected:
            raise TrainingError(
                f"The rows would go on at {found} (epoch, samples), and the checkpoint is at {expected}."
            )
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, LambdaLR):  # the number of all updates may be another one than it was
                _refresh(config.scheduler)
        evaluated = self.history.points[-1].step if self.history.points else -1
        if trainer.global_step in self.schedule.due and evaluated != trainer.global_step:
            loop = trainer.fit_loop.epoch_loop.val_loop
            loop.restarting = False
            trainer.validating = True
            loop.run()
            loop._has_run = False  # else an epoch that is over already would never be left
            trainer.training = True
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
        if any(isinstance(one, NoImprovement) and one.is_over for one in callbacks):
            trainer.should_stop = True  # as it was about to


def _refresh(scheduler: LambdaLR) -> None:
    """Set the rates that the curve has at the scheduler's place."""
    rates = [
        base * curve(scheduler.last_epoch) for base, curve in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates


def _plain_evaluation(evaluation: Evaluation | None) -> dict[str, Any] | None:
    """An evaluation in containers and tensors that load with `weights_only=True`."""
    if evaluation is None:
        return None
    return {
        "metrics": {name: float(value) for name, value in evaluation.metrics.items()},
        "samples": [int(sample) for sample in evaluation.samples],
        "columns": dict(evaluation.columns),
        "scored": evaluation.scored,
        "texts": {int(sample): text for sample, text in evaluation.texts.items()},
        "remarks": {name: [_plain(cell) for cell in cells] for name, cells in evaluation.remarks.items()},
        "failures": {name: list(error.faults) for name, error in evaluation.failures.items()},
    }


def _evaluation(plain: Mapping[str, Any] | None) -> Evaluation | None:
    if plain is None:
        return None
    failures = {name: MetricError(faults) for name, faults in plain["failures"].items()}
    return Evaluation(**{**plain, "failures": failures})


def _plain(cell: Any) -> Any:
    """A cell of a table as a number or text of Python."""
    value = cell.item() if hasattr(cell, "item") else cell
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
