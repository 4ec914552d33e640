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
from leyden.training.assembly import load_backbone, make_collator, make_data, make_module
from leyden.training.callbacks import History, ProgressDisplay
from leyden.training.checkpoints import Checkpoints
from leyden.training.devices import is_later_rank, world_size
from leyden.training.evaluation import EvaluationSchedule, due_updates
from leyden.training.outcome import Run, keep_best
from leyden.training.prepare import Material
from leyden.training.progress import make_display
from leyden.training.quiet import filtered_warnings, quiet_libraries
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
        with compile_errors(on=settings.backbone.compile):
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
    collator = make_collator(settings, material.tokenizer, backbone, attention)
    settings, found = settled(settings, material, backbone, collator, folder)
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
    trainer = make_trainer(
        settings.trainer, [history, shown, EvaluationSchedule(due), *stops, checkpoints], loggers, folder
    )
    run = Run(
        module, trainer, history, checkpoints, attention, dtype, updates,
        module.reference.kind if material.problem.uses_reference else "none", display, settings, found, seconds,
    )  # fmt: skip
    return run, data


def _train(run: Run, data: TreeDataModule, settings: Trainer) -> None:
    clock = time.perf_counter()
    if settings.evaluate_before_training or not run.updates:
        run.trainer.validate(run.module, datamodule=data, verbose=False)
        run.seconds["evaluate before training"] = time.perf_counter() - clock
    clock = time.perf_counter()
    if run.updates:
        run.trainer.fit(run.module, datamodule=data)
        run.seconds["train, with evaluations"] = time.perf_counter() - clock
        run.seconds["train alone"] = run.history.seconds
        run.seconds["wait for batches"] = run.history.waiting
        run.seconds["save checkpoints"] = run.checkpoints.seconds
        callbacks: list[Callback] = run.trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
        why = why_stopped(callbacks, settings, run.trainer.global_step, run.updates)
        if why is not None:
            log.info("%s", why)
    run.module.gather()
