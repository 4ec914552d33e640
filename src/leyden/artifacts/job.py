"""One job from settings to run folder: prepare, fit, predict, save."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import yaml

import leyden.artifacts.libraries  # noqa: F401  first, and for what it leaves out
from leyden.artifacts.continuation import note, reopen, requested_seed
from leyden.artifacts.endings import (
    disk_errors,
    faults_of,
    finished_metric,
    kept_metric,
    raise_faults,
    where_to_go_on,
)
from leyden.artifacts.evaluation_tables import forget_last
from leyden.artifacts.export import check_disk, save_model
from leyden.artifacts.folder import DONE, FAILED, SAVED, STOPPED, RunFolder, created_folder, plan_folder
from leyden.artifacts.lock import locked
from leyden.artifacts.look import look
from leyden.artifacts.manifest import manifest_of, results_of, write_json
from leyden.artifacts.metrics_file import MetricsFile
from leyden.artifacts.predictions import prediction_table, write_predictions
from leyden.artifacts.preparation import announce, prepared, with_seed
from leyden.artifacts.reporting import Reports, goes_on_again
from leyden.artifacts.run_log import RunLog
from leyden.artifacts.summary import summary_of
from leyden.artifacts.trackers import make_trackers
from leyden.artifacts.tracking import place_of, running
from leyden.artifacts.verification import verify_run
from leyden.artifacts.whole import whole_folder
from leyden.artifacts.workers import run_workers
from leyden.data.dataset import TreeDataset
from leyden.settings.command import typed_overrides
from leyden.settings.read import dump
from leyden.settings.resuming import CONFIG, is_look
from leyden.settings.schema import Settings
from leyden.training.assembly import make_answerer
from leyden.training.devices import is_later_rank, world_size
from leyden.training.interrupts import Interrupts
from leyden.training.launch import meeting
from leyden.training.outcome import Run
from leyden.training.position import check_position
from leyden.training.prepare import Material
from leyden.training.problems import writes
from leyden.training.reading import find_columns
from leyden.training.run import fit
from leyden.training.saved_states import SavedState


def run_job(settings: Settings, job_folder: Path | None = None) -> float:
    """Train, or look at what would be trained (mode=inspect, dry_run=true); return the metric, NaN for a look.

    Args:
        settings: checked.
        job_folder: the folder of this job inside a sweep; None: `output_directory/experiment_name`.
    """
    if settings.mode == "inspect" or settings.dry_run:
        return look(settings, job_folder)
    return _train(settings, job_folder)


def _train(settings: Settings, job_folder: Path | None) -> float:
    """Do everything that `train.py` promises; return the metric of the weights that are kept.

    Faults of settings, data and checkpoint end it before the run folder is made; so nothing is left behind by them.

    Args:
        settings: checked.
        job_folder: the folder of this job inside a sweep; None: `output_directory/experiment_name`.

    Raises:
        Stopped: a signal has ended it; what was trained is in a checkpoint.
    """
    others, interrupts, terse = meeting(), Interrupts(), settings.trainer.progress == "none"
    folder = plan_folder(settings, job_folder)
    goes_on = settings.resume is not None and (folder.path / CONFIG).exists() and not is_look(folder.path)
    seed, settings = requested_seed(folder, settings, goes_on=goes_on), with_seed(settings)
    with (
        disk_errors(folder.path),
        interrupts.listening(),
        RunLog(terse=terse, rank=0 if others is not None and settings.log_all_ranks else None) as run_log,
        ExitStack() as stack,
    ):
        start = list[SavedState]()
        if goes_on:
            stack.enter_context(locked(folder.path))
            if (metric := finished_metric(folder, settings)) is not None:
                return metric
            start = reopen(folder, settings)
        settings = find_columns(settings)
        if others is not None:
            others.share(yaml.safe_dump(dump(settings)), seed, str(start[-1].path) if start else None)
        with prepared(settings, folder) as material:
            check_disk(settings, material, folder.path)
            if start:
                check_position(start[-1], settings, material)
            if others is not None:
                others.gather()
            if goes_on:
                note(folder, settings, start)
                goes_on_again(folder.path)
            else:
                stack.enter_context(created_folder(folder, settings, typed_overrides()))
            run_log.open(folder.log)
            if others is not None:
                others.start()
            elif world_size(settings.trainer) > 1:
                with where_to_go_on(folder):
                    run_workers(folder, seed, interrupts, goes_on=bool(start))
                return known(kept_metric(folder, settings))
            return finish_job(settings, material, folder, seed, interrupts, start)


def known(metric: float | None) -> float:
    """A metric, NaN where it could not be read."""
    return math.nan if metric is None else metric


def finish_job(  # noqa: PLR0913, PLR0917
    settings: Settings,
    material: Material,
    folder: RunFolder,
    seed: int,
    interrupts: Interrupts,
    start: Sequence[SavedState] = (),
) -> float:
    """Train on prepared material and write everything into the folder; on later ranks train only.

    Args:
        settings: of the run.
        material: from `prepare`.
        folder: that is there.
        seed: what the settings said before one was drawn.
        interrupts: what signals have come.
        start: checkpoints of an earlier part of the run.

    Raises:
        ExportError: in the end, when the saved model is not what was trained.
        MetricError: in the end, when a metric has failed in an evaluation after training had begun.
        Stopped: a signal has ended the training; results so far are written.
    """
    clock, verdict = time.perf_counter(), dict[str, Any]()
    announce(material, settings, folder)
    trackers = [] if is_later_rank() else make_trackers(settings.logger, place_of(settings, material, folder.path))
    config, reports = {**dump(settings), "resume": None}, Reports(folder.path, material, settings, seed)
    with reports.watching(), running(trackers, config), where_to_go_on(folder), disk_errors(folder.path):
        frame = [MetricsFile(folder.path / "metrics.csv"), *trackers], folder.path, partial(_export, material, settings)
        run = fit(settings, material, *frame, reports.evaluated, interrupts=interrupts, start=start)
        results, settings = results_of(run), run.settings
        write = partial(_write_manifest, settings, material, run, seed, folder)
        if run.stopped is not None:
            if not is_later_rank():
                write_json(folder.path / "results.json", results)
                write(STOPPED, report=reports.record())
                summary_of(results, folder.path, run, STOPPED).show()
            raise run.stopped
        if not is_later_rank():
            save_run(run, material, settings, folder, results)
            write(SAVED)
            save_predictions(run, material, settings, folder)
            verdict = verify_run(run, material, settings, folder)
    if not is_later_rank():  # rank 0 says what was wrong, once it has written everything
        run.seconds["in all"] = time.perf_counter() - clock + sum(material.seconds.values())
        faults = faults_of(run, verdict, folder)
        more = {"faults": faults, "trackers": {one.kind: one.state for one in trackers}, "export": verdict or None}
        status = FAILED if any(faults.values()) else DONE
        reports.finish(status, run, partial(write, **more))
        summary_of(results, folder.path, run, status, [one.failure for one in trackers if one.failure]).show()
        raise_faults(folder)
    return run.kept_point.metrics[f"validation/{material.metrics[0].name}"]


def _write_manifest(  # noqa: PLR0913, PLR0917
    settings: Settings, material: Material, run: Run, seed: int, folder: RunFolder, status: str, **more: Any
) -> None:
    manifest = manifest_of(settings, material, run, seed, folder.path, status)
    write_json(folder.path / "manifest.json", {**manifest, **more})


def save_run(
    run: Run, material: Material, settings: Settings, folder: RunFolder, results: Mapping[str, object]
) -> None:
    """Write results and model: what took longest to earn is safe first."""
    write_json(folder.path / "results.json", results)
    if settings.checkpoint.policy != "disable":
        clock = time.perf_counter()
        with whole_folder(folder.model) as partial_model:  # there may be one of an earlier end of the same run
            save_model(run, material, settings, partial_model, results)
        run.seconds["save the model"] = time.perf_counter() - clock


def _export(material: Material, settings: Settings, run: Run, folder: Path) -> None:
    """Write the model of an evaluation into its checkpoint."""
    if not is_later_rank():
        save_model(run, material, settings, folder, results_of(run))


def save_predictions(run: Run, material: Material, settings: Settings, folder: RunFolder) -> None:
    """Predict every validation row with the trained model and write the table."""
    clock = time.perf_counter()
    trees = material.validation.trees
    prompts, texts = predict_texts(run, material, settings, trees)
    table = prediction_table(trees, prompts, texts, material.problem, run.kept_evaluation)
    write_predictions(table, folder.path)
    forget_last(folder.path)
    run.seconds["predict"] = time.perf_counter() - clock


def predict_texts(
    run: Run, material: Material, settings: Settings, trees: TreeDataset
) -> tuple[dict[int, str], dict[int, str]]:
    """What the model is shown and, for problems that generate, what it answers, by sample."""
    answerer = make_answerer(settings, material, run.module.backbone, run.display.advance)
    samples = range(len(trees))
    shown = answerer.shown(samples)
    evaluation = run.kept_evaluation
    if not writes(settings, material.problem):
        return shown, {}
    if evaluation is not None and evaluation.texts:
        return shown, dict(evaluation.texts)  # of the evaluation that saw the same weights
    with run.display.phase("predict", len(trees)):
        return shown, answerer.generate(samples)
