"""Callbacks: every number to every logger, counted in updates and samples; and the display."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from leyden.problem.metrics import Metric
from leyden.training.after_update import AfterUpdate
from leyden.training.evaluation import Evaluation
from leyden.training.module import FineTuner
from leyden.training.progress import Display
from leyden.training.used_memory import peak_memory_gib


@dataclass(frozen=True)
class Point:
    """The metrics of one evaluation, and when it was."""

    step: int
    samples: int
    metrics: Mapping[str, float]


@dataclass
class History(Callback):
    """Sends the numbers of each update and evaluation to the loggers, and keeps the evaluations.

    Attributes:
        metric: the metric that says which evaluation is best.
        points: the evaluations so far.
        best_evaluation: what the best of them said of each row.
        samples: samples that all ranks have trained on.
        tokens: tokens that all ranks have trained on.
        computed: tokens that went through the model on this rank.
        shared: tokens that did not, because other samples of their batch begin with them.
        seconds: time spent in training batches, evaluations and loading left out.
        waiting: time between them: loading, logging and the like, evaluations left out.
        first_update: when the first batch of this process began, in seconds since 1970; None before that.
        latest: the numbers of the last update.
        lost: updates whose weights are damaged, so that none of them can be the best.
        before: `seconds` and `waiting` of an earlier part of the run, in a process that has ended.
    """

    metric: Metric
    points: list[Point] = field(default_factory=list)
    best_evaluation: Evaluation | None = None
    samples: int = 0
    tokens: int = 0
    computed: int = 0
    shared: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    first_update: float | None = None
    latest: dict[str, float] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
    before: tuple[float, float] = (0.0, 0.0)
    _clock: float = 0.0
    _idle_since: float = 0.0
    _window_seconds: float = 0.0
    _seen: int = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the first wait."""
        self._idle_since = time.perf_counter()
        self._seen = trainer.global_step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock of this batch."""
        self._clock = time.perf_counter()
        self.waiting += self._clock - self._idle_since
        if self.first_update is None:
            self.first_update = time.time()

    def on_train_batch_end(  # noqa: PLR0913
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log an update once it is complete."""
        self._idle_since = time.perf_counter()
        self._window_seconds += self._idle_since - self._clock
        assert isinstance(pl_module, FineTuner)
        self.computed += sum(part.num_tokens for part in batch)
        self.shared += sum(part.num_shared for part in batch)
        if trainer.global_step == self._seen or pl_module.record is None:
            return
        self._seen, record = trainer.global_step, pl_module.record
        self.samples += record.samples
        self.tokens += record.tokens
        self.seconds += self._window_seconds
        speed = record.tokens / max(self._window_seconds, 1e-9)
        values = {
            **record.values, "train/tokens": float(record.tokens), "train/tokens_per_second": speed,
            "train/peak_memory_gib": peak_memory_gib(),
        }  # fmt: skip
        self._window_seconds = 0.0
        self.latest = values
        self._log(trainer, values)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log an evaluation."""
        assert isinstance(pl_module, FineTuner)
        assert pl_module.evaluation is not None
        point = Point(trainer.global_step, self.samples, dict(pl_module.evaluation.metrics))
        self.points.append(point)
        if self.best() is point:
            self.best_evaluation = pl_module.evaluation
        self._log(trainer, pl_module.evaluation.metrics)
        self._idle_since = time.perf_counter()

    def best(self) -> Point | None:
        """The evaluation with the best value of the metric; the earliest of equals."""
        best: Point | None = None
        name = f"validation/{self.metric.name}"
        for point in self.points:
            if point.step in self.lost:
                continue
            if self.metric.improves(point.metrics[name], best.metrics[name] if best else None):
                best = point
        return best

    def _log(self, trainer: L.Trainer, values: Mapping[str, float]) -> None:
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics({**values, "samples": float(self.samples)}, step=trainer.global_step)


class AfterEvaluation(Callback):
    """Calls a function after each evaluation, once its numbers are logged.

    Args:
        call: what to do then.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """An evaluation is complete."""
        self._call()


@dataclass
class ProgressDisplay(AfterUpdate):
    """Shows training and evaluation on a display.

    Attributes:
        display: where to.
        history: which numbers.
        updates: of the whole run.
    """

    display: Display
    history: History
    updates: int

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the phase of the training."""
        super().on_train_start(trainer, pl_module)
        self.display.start("train", self.updates - trainer.global_step)

    def on_update(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show an update."""
        values, metric = self.history.latest, self.history.metric.name
        points = self.history.points
        evaluated = {metric: points[-1].metrics[f"validation/{metric}"]} if points else {}
        rates = {"lr": values["train/learning_rate"], "tokens/s": values["train/tokens_per_second"]}
        self.display.advance(1, {"loss": values["train/loss"], **evaluated, **rates, "peak GiB": peak_memory_gib()})

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the phase of an evaluation, before or after the training; inside it the bar just waits."""
        if trainer.state.fn != TrainerFn.FITTING:
            self.display.start("evaluate", int(sum(trainer.num_val_batches)))

    def on_validation_batch_end(  # noqa: PLR0913, PLR0917
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """One batch was scored."""
        if trainer.state.fn != TrainerFn.FITTING:
            self.display.advance(1)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the phase."""
        self.display.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Close the phase, so that the message stands below it."""
        self.display.stop()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the phase of an evaluation."""
        if trainer.state.fn != TrainerFn.FITTING:
            self.display.stop()


def shared_tokens(history: History) -> str:
    """How many tokens were not computed again, in a line for the log."""
    every = history.computed + history.shared
    return (
        f"{history.shared:,} of {every:,} training tokens ({history.shared / every:.0%}) were common beginnings of "
        "samples in one batch, which are computed once."
    )
