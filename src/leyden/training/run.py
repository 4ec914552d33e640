"""The wiring of a run, left to right: backbone, problem, data, module, trainer."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from leyden.backbone.compiled import compile_errors
from leyden.data.datamodule import TreeDataModule
from leyden.settings.schema import Settings
from leyden.settings.training_groups import Trainer
from leyden.training.assembly import load_backbone, longest_shared, make_collator, make_data, make_module
from leyden.training.callbacks import History, ProgressDisplay, shared_tokens
from leyden.training.checkpoints import Checkpoints
from leyden.training.devices import is_later_rank, world_size
from leyden.training.evaluation import EvaluationSchedule, due_updates
from leyden.training.memory import choose_budget, memory_errors, with_budget
from leyden.training.outcome import Run, keep_best
from leyden.training.prepare import Material
from leyden.training.progress import make_display
from leyden.training.quiet import filtered_warnings, quiet_libraries
from leyden.training.reference_scores import plan_scores
from leyden.training.reference_scoring import ReferenceScoring
from leyden.training.settled import settled
from leyden.training.start import keep_start
from leyden.training.stopping import make_stops, why_stopped
from leyden.training.trainer import make_trainer

log = logging.getLogger(__name__)


def fit(
    settings: Settings,
    material: Material,
    loggers: Sequence[Logger],
    folder: Path,
    export: Callable[[Run, Path], None] | None = None,
) -> Run:
    """Load the backbone, train it on the material, evaluate before, between and after.

    Args:
        settings: of the run; `seed` is a number by now.
        material: from `prepare`.
        loggers: where every number goes.
        folder: of the run.
        export: writes the model of a run for use; needed where each evaluation keeps one.
    """
    with filtered_warnings():
        run, data = _assemble(settings, material, loggers, folder)
        run.checkpoints.export = None if export is None else partial(export, run)
        with compile_errors(on=settings.backbone.compile), memory_errors(run.settings, material.problem.loss):
            _train(run, data, settings.trainer)
        keep_best(run)
    return run


def _assemble(
    settings: Settings, material: Material, loggers: Sequence[Logger], folder: Path
) -> tuple[Run, TreeDataModule]:
    """Build everything, left to right, on one screen."""
    quiet_libraries()
    L.seed_everything(settings.seed, workers=True, verbose=False)
    clock = time.perf_counter()
    kept = None if is_later_rank() else folder
    backbone, dtype, attention = load_backbone(settings, material, kept)
    seconds = {"load weights": time.perf_counter() - clock}
    budget = choose_budget(settings, backbone, material.problem.loss, longest_shared(settings, material))
    collator = make_collator(settings, material.tokenizer, backbone, attention, budget.tokens)
    with memory_errors(settings, material.problem.loss):
        settings, found = settled(settings, material, backbone, collator, folder)
    settings, found = with_budget(settings, budget, found)
    data = make_data(settings, material, collator)
    per_epoch = math.ceil(data.steps_per_epoch(world_size(settings.trainer)) / settings.trainer.grad_accumulation)
    updates = settings.trainer.epochs * per_epoch
    module = make_module(settings, material, backbone, updates, per_epoch)
    keep_start(settings, module.reference, kept)
    history = History(material.metrics[0])
    display = make_display(settings.trainer.progress, quiet=is_later_rank())
    due = due_updates(updates, per_epoch, settings.trainer.evaluation_epochs) if updates else frozenset({0})
    checkpoints = Checkpoints(settings.checkpoint, folder / "checkpoints", material.metrics[0], history)
    shown = ProgressDisplay(display, history, updates)
    stops = make_stops(settings.trainer, material.metrics[0])
    callbacks = [history, shown, EvaluationSchedule(due), *stops, checkpoints]
    if material.problem.uses_reference:  # in front: what it shows ends before an evaluation shows anything
        callbacks = [
            ReferenceScoring(plan_scores(settings, material.problem.loss), data, display, cache=settings.cache == "on"),
            *callbacks,
        ]
    trainer = make_trainer(settings.trainer, callbacks, loggers, folder)
    run = Run(
        module, trainer, history, checkpoints, attention, dtype, updates,
        module.reference.kind if material.problem.uses_reference else "none", display, settings, found, seconds,
    )  # fmt: skip
    return run, data


def _train(run: Run, data: TreeDataModule, settings: Trainer) -> None:
    clock, scores = time.perf_counter(), run.module.scores
    if settings.evaluate_before_training or not run.updates:
        run.trainer.validate(run.module, datamodule=data, verbose=False)
        run.seconds["evaluate before training"] = time.perf_counter() - clock - scores.seconds
        clock = time.perf_counter() - scores.seconds
    if run.updates:
        run.trainer.fit(run.module, datamodule=data)
        run.seconds["train, with evaluations"] = time.perf_counter() - clock - scores.seconds
        run.seconds["train alone"] = run.history.seconds
        run.seconds["wait for batches"] = run.history.waiting
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
