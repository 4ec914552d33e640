"""Checkpoints: when the full state of the training is written, and which of them are kept."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from leyden.problem.metrics import Metric
from leyden.settings.errors import ConfigError, TrainingError
from leyden.settings.resuming import CONFIG, identity
from leyden.settings.training_groups import Checkpoint
from leyden.training.after_update import AfterUpdate
from leyden.training.answers import Answerer
from leyden.training.callbacks import History, Point
from leyden.training.devices import agreed
from leyden.training.disk import refusal
from leyden.training.interrupts import Interrupts
from leyden.training.module import FineTuner
from leyden.training.position import Position
from leyden.training.saved_states import STATE, SavedState, about, delete_state, finish_state, partial_of

log = logging.getLogger(__name__)

GIB = 2**30
FINISH, SAVE, STOP = 0, 1, 2  # what follows an update; of several wishes the largest counts


@dataclass
class Checkpoints(AfterUpdate):
    """Writes a checkpoint after each evaluation and between them, and keeps those that the policy asks for.

    A checkpoint is a folder `step-N` with `state.ckpt` (what is trained, optimizer, schedule, position; Lightning's
    layout, readable with `weights_only=True`) and `manifest.json` (step, metrics, size and sha256 of each file). It is
    written beside its place, flushed, and renamed, so a folder of that name is whole. The newest one is never deleted:
    the training goes on from there. During the training the one before it stays too, until the next is written, since
    a disk may damage what is on it. Must stand behind `history` in the list of callbacks.

    Attributes:
        settings: policy, interval and size budget.
        folder: where the checkpoints go.
        metric: decides which one is best.
        history: the evaluations so far.
        interrupts: whether the training is to end after the update at hand.
        settled: what was found in place of settings that say `auto`.
        growing: files of the run that are only ever appended to.
        rows: sha256 of the table of each part.
        planned: updates of the whole run.
        export: writes the model for use; with `each_evaluation_epoch` it is called for each checkpoint.
        saved: what is kept now, oldest first.
        seconds: spent on all this.
        written: checkpoints so far.
    """

    settings: Checkpoint
    folder: Path
    metric: Metric
    history: History
    interrupts: Interrupts = field(default_factory=Interrupts)
    settled: Mapping[str, Any] = field(default_factory=dict)
    growing: Sequence[Path] = ()
    rows: Mapping[str, str] = field(default_factory=dict)
    planned: int = 0
    export: Callable[[Path], None] | None = None
    saved: list[SavedState] = field(default_factory=list)
    seconds: float = 0.0
    written: int = 0
    _last: float = field(default_factory=time.monotonic)
    _is_over_budget: bool = False
    _is_size_said: bool = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on a signal waits for the end of the update."""
        super().on_train_start(trainer, pl_module)
        self._last = time.monotonic()
        self.interrupts.wait()
        assert isinstance(pl_module, FineTuner)
        if isinstance(pl_module.answers, Answerer) and trainer.world_size == 1:
            pl_module.answers = replace(pl_module.answers, advance=lambda rows: self._leave(trainer))  # noqa: ARG005

    def on_update(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save where the time for it has come, or where the training has to end here."""
        minutes, wish = self.settings.every_minutes, FINISH
        if minutes is not None and trainer.is_global_zero and time.monotonic() - self._last >= 60 * minutes:
            wish = SAVE
        wish = agreed(STOP if self.interrupts.received else wish, trainer)
        if wish == STOP:
            self._end(trainer)
        elif wish == SAVE:  # also before an evaluation, which may take long
            self._keep(trainer)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:  # fmt: skip
        """Look for a signal."""
        self._leave(trainer)

    def _leave(self, trainer: L.Trainer) -> None:
        """Leave an evaluation that a signal has come into; it is made up for when the run goes on."""
        if trainer.state.fn == TrainerFn.FITTING and trainer.world_size == 1 and self.interrupts.received:
            self._end(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save, then delete what the policy does not keep."""
        policy = self.settings.policy
        before = trainer.state.fn != TrainerFn.FITTING
        if policy == "best" and before:
            self._check_metric()
        if not before or policy == "best":
            self._keep(trainer, self.history.points[-1], resumable=not before)
        if not before and agreed(STOP if self.interrupts.received else FINISH, trainer) == STOP:
            self.interrupts.end(self._newest())

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What follows can be done again from the last checkpoint, so a signal need not wait."""
        if self.saved:
            self._prune(trainer, spare=0)
        if agreed(STOP if self.interrupts.received else FINISH, trainer) == STOP:
            self.interrupts.end(self._newest())
        self.interrupts.wait(on=False)

    def best(self) -> SavedState | None:
        """The kept checkpoint with the best metric; None if none has one."""
        return self._best(self.saved)

    def _best(self, saved: list[SavedState]) -> SavedState | None:
        best: SavedState | None = None
        for one in saved:
            if self._key not in one.point.metrics:
                continue
            value = best.point.metrics[self._key] if best else None
            if self.metric.improves(one.point.metrics[self._key], value):
                best = one
        return best

    @property
    def _key(self) -> str:
        return f"validation/{self.metric.name}"

    def _check_metric(self) -> None:
        value = self.history.points[-1].metrics[self._key]
        if math.isnan(value):
            raise ConfigError(
                f"checkpoint=best needs a number to compare, and metric={self.metric.name} is {value} on the "
                "validation rows. Choose another first metric, other validation rows, or checkpoint=last."
            )

    def _end(self, trainer: L.Trainer) -> None:
        """Save what is not saved yet, and end the training."""
        if not self.saved or self.saved[-1].point.step != trainer.global_step:
            self._keep(trainer)
        self.interrupts.end(self._newest())

    def _newest(self) -> Path | None:
        return self.saved[-1].path if self.saved and self.saved[-1].resumable else None

    def _keep(self, trainer: L.Trainer, point: Point | None = None, *, resumable: bool = True) -> None:
        if self.settings.policy == "disable":
            return
        clock = time.perf_counter()
        self._prune(trainer, spare=0)  # the disk has to hold two of them at a time, not three
        self._save(trainer, point or Point(trainer.global_step, self.history.samples, {}), resumable=resumable)
        self._prune(trainer, spare=1)
        self._last = time.monotonic()
        self.seconds += time.perf_counter() - clock

    def _save(self, trainer: L.Trainer, point: Point, *, resumable: bool) -> None:
        path = self.folder / f"step-{point.step:08d}"
        partial, size = partial_of(path), 0
        try:
            if trainer.is_global_zero:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            trainer.strategy.barrier()
            trainer.save_checkpoint(partial / STATE, weights_only=not resumable)
            if self.settings.policy == "each_evaluation_epoch" and self.export is not None and point.metrics:
                self.export(partial / "model")
            if trainer.is_global_zero:
                where = asdict(Position.of(trainer, self.planned)) if resumable else {}
                said = about(
                    point, resumable=resumable, settled=self.settled, position=where, growing=self.growing,
                    run=identity(self.folder.parent / CONFIG), rows=self.rows,
                )  # fmt: skip
                size = finish_state(path, said)
        except Exception as error:
            if trainer.is_global_zero:
                shutil.rmtree(partial, ignore_errors=True)
            if not isinstance(error, OSError) and refusal(error) is None:
                raise
            whole = self._newest()
            last = f"{whole} is whole" if whole else "there is none yet"
            raise TrainingError(
                f"The checkpoint after update {point.step} cannot be written to {self.folder}: {error}. Of those "
                f"before, {last}. Free some space or mend the folder, then go on with resume={self.folder.parent}."
            ) from error
        if resumable and not self._is_size_said:  # the one before the first update holds weights alone
            self._is_size_said = True
            log.info("A checkpoint takes %.1f MiB: what is trained, and the optimizer's state of it.", size / 2**20)
        self.written += 1
        self.saved = [one for one in self.saved if one.path != path]
        self.saved.append(SavedState(path, point, int(trainer.strategy.broadcast(size)), resumable))

    def _prune(self, trainer: L.Trainer, *, spare: int) -> None:
        """Delete what the policy does not keep, but for so many before the newest, in case that one is damaged."""
        best = self._best(self.saved) if self.settings.policy == "best" else None
        needed = [one for one in self.saved if one is self.saved[-1] or one is best]
        each = self.settings.policy == "each_evaluation_epoch"
        kept = [one for one in self.saved if one in needed or (each and one.point.metrics)]
        budget = math.inf if self.settings.max_gib is None else self.settings.max_gib * GIB
        while sum(one.size for one in kept) > budget and len(kept) > len(needed):
            oldest = next(one for one in kept if one not in needed)
            kept.remove(oldest)
            log.info("checkpoint.max_gib=%s: %s is deleted.", self.settings.max_gib, oldest.path.name)
        if sum(one.size for one in kept) > budget and not self._is_over_budget:
            self._is_over_budget = True
            log.warning(
                "checkpoint.max_gib=%s is less than the %.3g GiB of the checkpoint that a resume needs; it stays.",
                self.settings.max_gib, sum(one.size for one in kept) / GIB,
            )  # fmt: skip
        for one in [one for one in self.saved[:-1] if one.resumable][::-1][:spare]:
            if one not in kept and one.size + sum(other.size for other in kept) <= budget:
                kept.append(one)
        kept.sort(key=lambda one: one.point.step)
        for one in self.saved:
            if one not in kept and trainer.is_global_zero:
                delete_state(one.path)
        self.saved = kept
