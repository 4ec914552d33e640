"""The wiring of a run, left to right: backbone, problem, data, module, trainer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch import nn

from leyden.backbone.attention import AttentionChoice
from leyden.backbone.compiled import compile_errors
from leyden.data.collator import Collator
from leyden.data.datamodule import TreeDataModule
from leyden.settings.schema import Settings
from leyden.settings.training_groups import Trainer
from leyden.training.assembly import load_backbone, longest_shared, make_collator, make_data, make_module
from leyden.training.callbacks import AfterEvaluation, History, ProgressDisplay, shared_tokens
from leyden.training.checkpoints import Checkpoints
from leyden.training.devices import is_later_rank, world_size
from leyden.training.evaluation import EvaluationSchedule, due_updates
from leyden.training.interrupts import Interrupts, Stopped
from leyden.training.last_checkpoint import named_in_errors
from leyden.training.loaded_states import check_state, pickles_refused
from leyden.training.loading import worker_errors
from leyden.training.memory import choose_budget, memory_errors, with_budget
from leyden.training.outcome import Run, keep_best
from leyden.training.position import Epochs, Position, check_curve, rows_of
from leyden.training.prepare import Material
from leyden.training.progress import Display, make_display
from leyden.training.quiet import filtered_warnings, quiet_libraries
from leyden.training.reference_scores import plan_scores
from leyden.training.reference_scoring import ReferenceScoring
from leyden.training.restart import Restart
from leyden.training.saved_states import STATE, SavedState
from leyden.training.settled import settled, settled_values, with_settled
from leyden.training.start import keep_start
from leyden.training.stopping import make_stops, why_stopped
from leyden.training.trainer import make_trainer
from leyden.training.weight_types import Loaded, choose_weights

log = logging.getLogger(__name__)


def fit(  # noqa: PLR0913, PLR0917
    settings: Settings,
    material: Material,
    loggers: Sequence[Logger],
    folder: Path,
    export: Callable[[Run, Path], None] | None = None,
    evaluated: Callable[[Run], None] | None = None,
    *,
    interrupts: Interrupts | None = None,
    start: Sequence[SavedState] = (),
) -> Run:
    """Load the backbone, train it on the material, evaluate before, between and after.

    Args:
        settings: of the run; `seed` is a number by now.
        material: from `prepare`.
        loggers: where every number goes.
        folder: of the run.
        export: writes the model of a run for use; needed where each evaluation keeps one.
        evaluated: what else to do after each evaluation, on the first process alone.
        interrupts: what signals have come; None where nobody listens.
        start: the checkpoints of an earlier part of this run; it goes on from the last one.
    """
    with filtered_warnings():
        frame = Frame(loggers, folder, interrupts or Interrupts(), start, rows_of(material), evaluated)
        run, data = _assemble(settings, material, frame)
        run.checkpoints.export = None if export is None else partial(export, run)
        with (
            compile_errors(on=settings.backbone.compile),
            memory_errors(run.settings, material.problem.loss),
            worker_errors(settings.trainer.number_of_workers),
        ):
            try:
                _train(run, data, settings.trainer, start[-1].path / STATE if start else None)
            except Stopped as stop:
                run.stopped = stop
                return run
        keep_best(run)
    return run


@dataclass(frozen=True)
class Frame:
    """What a training is set in.

    Attributes:
        loggers: where every number goes.
        folder: of the run.
        interrupts: what signals have come.
        start: the checkpoints of an earlier part of this run; it goes on from the last one.
        rows: sha256 of the table of each part.
        evaluated: what to do after each evaluation; None: nothing.
    """

    loggers: Sequence[Logger]
    folder: Path
    interrupts: Interrupts
    start: Sequence[SavedState]
    rows: Mapping[str, str]
    evaluated: Callable[[Run], None] | None = None


def _assemble(settings: Settings, material: Material, frame: Frame) -> tuple[Run, TreeDataModule]:
    """Build everything, left to right, on one screen."""
    folder, start = frame.folder, frame.start
    quiet_libraries()
    L.seed_everything(settings.seed, workers=True, verbose=False)
    clock = time.perf_counter()
    kept = None if is_later_rank() else folder
    asked = settings.backbone.dtype
    settings, kept_values = with_settled(settings, start[-1].settled if start else {})
    load = partial(load_backbone, material=material, folder=kept)
    settings, loaded = choose_weights(settings, material, lambda one: Loaded(*load(one)), begun=bool(start))
    backbone, dtype, attention = loaded.backbone, replace(loaded.dtype, requested=asked), loaded.attention
    seconds = {"load weights": time.perf_counter() - clock}
    settings, found, collator = settle(settings, material, backbone, attention, folder)
    data = make_data(settings, material, collator)
    epochs = epochs_of(data, settings.trainer, len(material.train.trees))
    position = Position(**start[-1].position) if start else None
    updates = epochs.planned(position)
    if position is not None:
        check_curve(settings.schedule, position, updates)
    module = make_module(settings, material, backbone, updates, epochs.updates)
    keep_start(settings, module.reference, kept)
    due = due_updates(updates, epochs.updates, settings.trainer.evaluation_epochs)
    history = History(material.metrics[0])
    display = make_display(settings.trainer.progress, quiet=is_later_rank())
    checkpoints = make_checkpoints(settings, frame, history, updates)
    shown, schedule = ProgressDisplay(display, history, updates), EvaluationSchedule(due)
    stops = make_stops(settings.trainer, material.metrics[0])
    callbacks = [history, shown, schedule, *stops, checkpoints, Restart(schedule, epochs, checkpoints, position)]
    if material.problem.uses_reference:  # in front: what it shows ends before an evaluation shows anything
        callbacks.insert(0, make_scoring(settings, material.problem.loss, data, display))
    if (evaluated := frame.evaluated) is not None and not is_later_rank():  # last: a checkpoint is safe by then
        callbacks.append(AfterEvaluation(lambda: evaluated(run)))
    trainer = make_trainer(settings.trainer, callbacks, frame.loggers, folder)
    run = Run(
        module, trainer, history, checkpoints, attention, dtype, updates,
        module.reference.kind if material.problem.uses_reference else "none", display, settings,
        {**found, **kept_values}, seconds,
    )  # fmt: skip
    return run, data


def make_checkpoints(settings: Settings, frame: Frame, history: History, updates: int) -> Checkpoints:
    """What writes the checkpoints of a run."""
    return Checkpoints(
        settings.checkpoint, frame.folder / "checkpoints", history.metric, history, frame.interrupts,
        settled_values(settings), [frame.folder / "metrics.csv"], frame.rows, updates, saved=list(frame.start),
    )  # fmt: skip


def settle(
    settings: Settings, material: Material, backbone: nn.Module, attention: AttentionChoice, folder: Path
) -> tuple[Settings, dict[str, str], Collator]:
    """The settings with a number for every `auto`, why it is that, and what makes batches with them."""
    budget = choose_budget(settings, backbone, material.problem.loss, longest_shared(settings, material))
    collator = make_collator(settings, material.tokenizer, backbone, attention, budget.tokens)
    with memory_errors(settings, material.problem.loss):
        settings, found = settled(settings, material, backbone, collator, folder)
    return *with_budget(settings, budget, found), collator


def make_scoring(settings: Settings, loss: Any, data: TreeDataModule, display: Display) -> ReferenceScoring:
    """What scores the reference before the training."""
    return ReferenceScoring(plan_scores(settings, loss), data, display, cache=settings.cache == "on")


def epochs_of(data: TreeDataModule, settings: Trainer, samples: int) -> Epochs:
    """How the epochs of a run are cut."""
    world = world_size(settings)
    step = settings.rows * world
    whole_only = settings.drop_last_batch and samples >= step
    return Epochs(samples, step, data.steps_per_epoch(world), settings.grad_accumulation, settings.epochs, whole_only)


def _train(run: Run, data: TreeDataModule, settings: Trainer, state: Path | None) -> None:
    clock, scores = time.perf_counter(), run.module.scores
    if (settings.evaluate_before_training and state is None) or not run.updates:
        run.trainer.validate(run.module, datamodule=data, verbose=False)
        run.seconds["evaluate before training"] = time.perf_counter() - clock - scores.seconds
        clock = time.perf_counter() - scores.seconds
    if run.updates:
        with named_in_errors(run.checkpoints), pickles_refused(state):
            if state is not None:
                check_state(run.module, state.parent)
            try:
                run.trainer.fit(run.module, datamodule=data, ckpt_path=state, weights_only=True)
            finally:  # also of a run that a signal ends
                run.seconds["train, with evaluations"] = time.perf_counter() - clock - scores.seconds
                run.seconds["train alone"] = run.history.seconds - run.history.before[0]
                run.seconds["wait for batches"] = run.history.waiting - run.history.before[1]
                run.seconds["save checkpoints"] = run.checkpoints.seconds
        if run.history.shared:
            log.info("%s", shared_tokens(run.history))
        callbacks: list[Callback] = run.trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
        why = why_stopped(callbacks, settings, run.trainer.global_step, run.updates)
        if why is not None:
            log.info("%s", why)
    if scores.report:
        run.seconds["score the reference"] = scores.seconds
    run.module.gather()
    device = run.trainer.strategy.root_device
    if device.type != "cpu" and not is_later_rank():  # Lightning has moved it away; answers are written after this
        run.module.to(device)
