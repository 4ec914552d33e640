"""The LightningModule. Written once: it knows loops, not problems."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.backbone.heads import head_outputs
from leyden.backbone.noise import embedding_noise
from leyden.backbone.reference import Reference
from leyden.backbone.scoring import target_logps
from leyden.data.batches import Batch
from leyden.problem.base import Outcome, Problem
from leyden.problem.metrics import Metric
from leyden.settings.errors import LeydenError, TrainingError
from leyden.training.evaluation import Answers, Collected, Evaluation, finish
from leyden.training.optimizer import set_mode
from leyden.training.reference_scores import ReferenceScores
from leyden.training.scheduling import Driven, Scheduler
from leyden.training.shared_weights import SharedWeights
from leyden.training.update import (
    UpdateRecord,
    Window,
    drop_gradients,
    gradient_norm,
    mean_of_step,
    samples_of_ranks,
    scale_gradients,
    sum_over_ranks,
    update_values,
)

log = logging.getLogger(__name__)


class FineTuner(SharedWeights):
    """A backbone that learns a problem.

    An update is the mean over all its targets, however it is cut into rows, batches and ranks: losses are summed, and
    the gradient is divided once, by the number of all targets, before clipping. A loss or gradient that is not finite
    never reaches the weights.

    Args:
        backbone: a causal language model, adapter or not.
        problem: says what a batch is worth.
        make_optimizer: from the backbone.
        make_schedule: from the optimizer.
        metrics: computed in every evaluation.
        seed: of dropout and the like; each step of each rank draws from (seed, step, rank).
        max_bad_steps: end the run after so many updates in a row that could not be applied.
        places: where training samples stand in their table, for messages.
        answers: generates texts for metrics that read them; None where none does.
        noise_alpha: strength of the noise on the embeddings in training.
        learned: whether the adapter starts from an earlier training, so that the reference is not the bare backbone.
        scores: what is known of the reference's; None: nothing yet.
    """

    def __init__(  # noqa: PLR0913
        self,
        backbone: nn.Module,
        problem: Problem,
        *,
        make_optimizer: Callable[[nn.Module], Optimizer],
        make_schedule: Callable[[Optimizer], Scheduler],
        metrics: tuple[Metric, ...],
        seed: int,
        max_bad_steps: int,
        places: Callable[[Sequence[int]], str],
        answers: Answers | None = None,
        noise_alpha: float = 0.0,
        learned: bool = False,
        scores: ReferenceScores | None = None,
    ) -> None:
        super().__init__()
        self.strict_loading = False  # a checkpoint holds what is trained alone; that it is all of that is checked
        self.backbone, self.problem = backbone, problem
        self.make_optimizer, self.make_schedule = make_optimizer, make_schedule
        self.metrics, self.seed, self.max_bad_steps, self.places = metrics, seed, max_bad_steps, places
        self.answers, self.noise_alpha = answers, noise_alpha
        self.reference = Reference(backbone, learned=learned)
        if problem.uses_reference:
            self.reference.prepare()
        self.scores = scores or ReferenceScores()
        self.window = Window()
        self.record: UpdateRecord | None = None
        self.collected = Collected()
        self.evaluation: Evaluation | None = None
        self.bad_steps = 0
        self.skipped_updates = 0
        self.empty_updates = 0
        self.failures: dict[str, tuple[int, LeydenError]] = {}

    def logps(self, batch: Batch) -> Tensor:
        """Log-probability of each target under the model in training: [N]."""
        with embedding_noise(self.backbone, batch.noise, self.noise_alpha):
            return target_logps(self.backbone, batch)

    def outputs(self, batch: Batch) -> Tensor:
        """What the head of the model in training says of each sample: [B, K]."""
        with embedding_noise(self.backbone, batch.noise, self.noise_alpha):
            return head_outputs(self.backbone, batch)

    def reference_logps(self, batch: Batch) -> Tensor:
        """Log-probability of each target under the starting point: [N]; looked up where it is known."""
        return self.scores.of(batch, self.reference, training=self.training)

    def on_train_epoch_start(self) -> None:
        """Switch training mode on: neither the library nor Lightning does, and dropout would stay off."""
        self.train()

    def on_train_batch_start(self, batch: list[Batch], batch_idx: int) -> None:  # noqa: ARG002
        """Draw this step's randomness from seed, step and rank, so that none of it needs saving."""
        set_mode(self.trainer.optimizers, training=True)
        step = self.trainer.fit_loop.epoch_loop.total_batch_idx
        mixed = np.random.SeedSequence((self.seed, step, self.global_rank)).generate_state(1, np.uint64)
        torch.manual_seed(int(mixed[0] >> 1))  # 63 bits: what every device takes

    def training_step(self, batch: list[Batch], batch_idx: int) -> Tensor:  # noqa: ARG002
        """The summed loss of a batch's last pass; those before have their gradients by then.

        Gradients add up over passes, batches and ranks alike. Lightning divides by the accumulation count, which is
        undone here. Only the last pass of a batch is one that ranks synchronise after.
        """
        if not self.window.passes:
            self.zero_grad(set_to_none=True)
        *before, last = batch
        for part in before:
            self.trainer.strategy.backward(self._added(part).loss.total, None)
        outcome = self._added(last)
        if self.trainer.strategy.handles_gradient_accumulation:
            return outcome.loss.total * mean_of_step(self.window, self.device, self.trainer.world_size)
        return outcome.loss.total * self.trainer.accumulate_grad_batches

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Nothing: Lightning asks for it after the forward pass, when the passes before have left their gradients."""

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Make the gradient the mean over all targets of all ranks, or drop the update if it is not finite.

        Lightning clips after this, so a clipping threshold is about that mean, and the norm in the log is before it.
        """
        window, self.window = self.window, Window()
        summed = sum_over_ranks(window, self.device)
        if self.trainer.strategy.handles_gradient_accumulation:  # an engine steps after this; its norm is not known
            values = update_values(summed, optimizer)
            self.record = UpdateRecord(values, summed.samples, summed.tokens, applied=True)
            return
        if summed.count:
            scale_gradients(self.backbone, self.trainer.world_size / summed.count)  # ranks average; this is their sum
        norm = float(gradient_norm(self.backbone))
        applied = bool(summed.count) and math.isfinite(summed.total) and math.isfinite(norm)
        if not applied:
            drop_gradients(self.backbone)
        if not summed.count and summed.scored:
            self.empty_updates += 1  # there are targets, and all of them weigh nothing
        elif not applied:
            self._count_bad(window, *summed.fault(norm))
        else:
            self.bad_steps = 0
        values = update_values(summed, optimizer, {"train/grad_norm": norm})
        self.record = UpdateRecord(values, summed.samples, summed.tokens, applied)

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:  # noqa: ARG002
        """Advance the schedule by one applied update; one that was dropped does not count."""
        if self.record is not None and self.record.applied:
            scheduler.step()

    def on_validation_epoch_start(self) -> None:
        """Begin a new evaluation, of the weights that would be saved."""
        set_mode(self.trainer.optimizers, training=False)
        self.collected = Collected()

    def validation_step(self, batch: list[Batch], batch_idx: int) -> None:  # noqa: ARG002
        """Score one batch."""
        for part in batch:
            self.collected.add(part, self.problem.compute(self, part))

    def on_validation_epoch_end(self) -> None:
        """Score the whole part."""
        answers = self.answers
        if answers is not None and self.sharded is not None:  # ranks that write answers of unequal length cannot share
            answers = answers.of(self.sharded.whole())
        training = self.trainer.state.fn == TrainerFn.FITTING  # what was earned so far is worth more than a metric
        self.evaluation = finish(
            self.collected, self.metrics, answers, output_names=self.problem.output_names, strict=not training
        )
        for name, error in self.evaluation.failures.items():
            log.error("validation/%s is NaN after update %d: %s", name, self.trainer.global_step, error)
            self.failures[name] = (self.failures.get(name, (0, error))[0] + 1, error)
        # for Lightning's own callbacks; the loggers get the numbers from ours, with step and samples
        self.log_dict({name: float(value) for name, value in self.evaluation.metrics.items()}, logger=False)
        for config in self.trainer.lr_scheduler_configs:
            scheduler: Any = config.scheduler
            if isinstance(scheduler, Driven):
                scheduler.evaluated(self.evaluation.metrics.get(f"validation/{self.metrics[0].name}", math.nan))

    def on_train_end(self) -> None:
        """Leave the weights that are to be saved and used."""
        set_mode(self.trainer.optimizers, training=False)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer and its schedule, stepped once per update."""
        optimizer = self.make_optimizer(self.backbone)
        schedule: Any = self.make_schedule(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _added(self, batch: Batch) -> Outcome:
        outcome = self.problem.compute(self, batch)
        self.window.add(batch, outcome, self.problem.logged)
        return outcome

    def _count_bad(self, window: Window, what: str, cure: str) -> None:
        self.bad_steps += 1
        self.skipped_updates += 1
        log.warning(
            "Update %d was not applied: %s. It was made of %s of the training table.",
            self.trainer.global_step + 1, what, self.places(samples_of_ranks(window)),
        )  # fmt: skip
        if self.bad_steps >= self.max_bad_steps:
            raise TrainingError(
                f"{self.bad_steps} updates in a row could not be applied (trainer.max_bad_steps={self.max_bad_steps}): "
                f"{what}. {cure}"
            )
