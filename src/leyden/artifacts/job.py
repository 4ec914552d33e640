"""One job from settings to run folder: prepare, fit, predict, save."""

from __future__ import annotations

import logging
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

import leyden.artifacts.libraries  # noqa: F401  first, and for what it leaves out
from leyden.artifacts.export import check_disk, save_model
from leyden.artifacts.folder import RunFolder, created_folder, plan_folder
from leyden.artifacts.manifest import manifest_of, results_of, write_json
from leyden.artifacts.metrics_file import MetricsFile
from leyden.artifacts.predictions import prediction_table, write_predictions
from leyden.artifacts.run_log import RunLog, say
from leyden.artifacts.summary import summary
from leyden.artifacts.trackers import make_trackers
from leyden.artifacts.tracking import place_of, running
from leyden.artifacts.verification import verify_run
from leyden.data.dataset import TreeDataset
from leyden.settings.errors import ExportError, MetricError, TrainingError
from leyden.settings.read import dump
from leyden.settings.schema import Settings
from leyden.settings.wording import counted
from leyden.training.assembly import make_answerer
from leyden.training.devices import is_later_rank, world_size
from leyden.training.launch import meeting
from leyden.training.outcome import Run
from leyden.training.prepare import Material, prepare
from leyden.training.problems import writes
from leyden.training.reading import find_columns
from leyden.training.run import fit

log = logging.getLogger(__name__)

SEEDS = 1_000_000  # a drawn seed is below


def run_job(settings: Settings, job_folder: Path | None = None) -> float:
    """Do everything that `train.py` promises; return the metric of the weights that are kept.

    Faults of settings, data and checkpoint end it before the run folder is made; so nothing is left behind by them.

    Args:
        settings: checked.
        job_folder: the folder of this job inside a sweep; None: `output_directory/experiment_name`.
    """
    others = meeting()
    requested_seed = settings.seed
    if settings.seed == -1:
        settings = settings.model_copy(update={"seed": random.SystemRandom().randrange(SEEDS)})
    folder = plan_folder(settings, job_folder)
    with RunLog(rank=0 if others is not None and settings.log_all_ranks else None) as run_log:
        settings = find_columns(settings)
        if others is not None:
            others.share(yaml.safe_dump(dump(settings)), requested_seed)
        with prepared(settings, folder) as material:
            check_disk(settings, material, folder.path)
            if others is not None:
                others.gather()
            with created_folder(folder, settings):
                run_log.open(folder.log)
                if others is not None:
                    others.start()
                elif world_size(settings.trainer) > 1:
                    return _run_workers(folder, settings, requested_seed)
                return finish_job(settings, material, folder, requested_seed)


@contextmanager
def prepared(settings: Settings, folder: RunFolder) -> Iterator[Material]:
    """The material of a run; without a cache, a converted base stays in the run folder, since its adapter needs it."""
    if settings.cache == "on":
        yield prepare(settings)
        return
    with TemporaryDirectory(prefix="leyden-") as scratch:
        material = prepare(settings, conversions=Path(scratch))
        yield replace(material, checkpoint=replace(material.checkpoint, weights_root=folder.path / "base"))


def finish_job(settings: Settings, material: Material, folder: RunFolder, requested_seed: int) -> float:
    """Train on prepared material and write everything into the folder; on later ranks train only.

    Raises:
        ExportError: in the end, when the saved model is not what was trained.
        MetricError: in the end, when a metric has failed in an evaluation after training had begun.
    """
    clock, export = time.perf_counter(), dict[str, Any]()
    announce(material)
    trackers = [] if is_later_rank() else make_trackers(settings.logger, place_of(settings, material, folder.path))
    with running(trackers, dump(settings)):
        loggers = [MetricsFile(folder.path / "metrics.csv"), *trackers]
        run = fit(settings, material, loggers, folder.path, partial(_export, material, settings))
        results, settings = results_of(run), run.settings
        if not is_later_rank():
            save_run(run, material, settings, folder, results)
            write_json(folder.path / "manifest.json", manifest_of(settings, material, run, requested_seed, folder.path))
            save_predictions(run, material, settings, folder)
            export = verify_run(run, material, settings, folder)
    if not is_later_rank():
        run.seconds["in all"] = time.perf_counter() - clock + sum(material.seconds.values())
        manifest = manifest_of(settings, material, run, requested_seed, folder.path)
        manifest["trackers"] = {one.kind: one.state for one in trackers}
        write_json(folder.path / "manifest.json", {**manifest, "export": export or None})
        print(summary(results, folder.path, run, [one.failure for one in trackers if one.failure]))
    if export.get("faults"):
        raise ExportError(export["faults"])
    if run.module.failures:
        raise MetricError(
            [
                f"validation/{name} is NaN in {times} evaluations, the rest is saved in {folder.path}. Last: {error}"
                for name, (times, error) in run.module.failures.items()
            ]
        )
    return run.kept_point.metrics[f"validation/{material.metrics[0].name}"]


def save_run(
    run: Run, material: Material, settings: Settings, folder: RunFolder, results: Mapping[str, object]
) -> None:
    """Write results and model: what took longest to earn is safe first."""
    write_json(folder.path / "results.json", results)
    if settings.checkpoint.policy != "disable":
        clock = time.perf_counter()
        save_model(run, material, settings, folder.model, results)
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


def announce(material: Material) -> None:
    """Say what was read, what was cut and what is odd; every number that is not zero."""
    for name, counts in material.counts.items():
        log.info("%s: %s.", name, ", ".join(counted(count, what) for what, count in counts.items() if count))
    say(material.warnings)


def _run_workers(folder: RunFolder, settings: Settings, requested_seed: int) -> float:
    """Train in processes that are no Hydra apps, so that single runs and sweeps start them alike."""
    environment = {**os.environ, "LEYDEN_REQUESTED_SEED": str(requested_seed)}
    command = [sys.executable, "-m", "leyden.artifacts.worker", str(folder.path)]
    done = subprocess.run(command, env=environment, check=False)
    if done.returncode:
        raise TrainingError(f"The worker processes ended with code {done.returncode}; their words stand above.")
    results = yaml.safe_load((folder.path / "results.json").read_text(encoding="utf-8"))
    kept = results[settings.checkpoint.kept] or results["final"]
    value = kept[f"validation/{next(iter(settings.metric))}"]
    return math.nan if value is None else float(value)
