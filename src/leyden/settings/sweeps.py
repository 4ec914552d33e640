"""Sweeps before their first job: which way the metric is better, where the jobs go, how they share the cores."""

from __future__ import annotations

import ast
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from leyden.settings.config_files import definition
from leyden.settings.errors import USER_FAULT, ConfigError, LeydenError
from leyden.settings.overrides import as_list, read_overrides, sizes
from leyden.settings.paths import user_path
from leyden.settings.side_by_side import ENDED, RECORDS, end_jobs, forget, on_this_machine
from leyden.settings.stops import before_the_end
from leyden.settings.studies import StoredStudy, go_on, stored_study

SAVED = "config.yaml"  # a folder with this file is a run
THREADS = "OMP_NUM_THREADS"
SHARE = "LEYDEN_CORE_SHARE"  # says to the jobs, and so to their manifests, why they have so many threads
WORDS = {"min": "minimize", "max": "maximize"}
_started: list[tuple[Path, StoredStudy | None]] = []
_by: list[int] = []  # processes that have started a sweep: a fork of one has not


def metric_direction(metrics: Mapping[str, Any]) -> str:
    """Which way the first metric is better, "min" or "max": as the settings say, else as the code is marked.

    Args:
        metrics: the group `metric` of a config.
    """
    first = next(iter(metrics.values()))
    if said := first.get("direction"):
        return str(said)
    node = definition(str(first["_target_"]))
    for mark in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
        if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "metric":
            return str(ast.literal_eval(mark.args[0]))
    module, _, name = str(first["_target_"]).rpartition(".")
    return str(getattr(getattr(import_module(module), name), "direction", "min"))


OmegaConf.register_new_resolver("sweep_direction", lambda metrics: WORDS[metric_direction(metrics)], replace=True)


class SweepStart(Callback):
    """Hydra's callback at the start of a sweep: it remembers the folder and shares the cores out."""

    def on_multirun_start(self, config: DictConfig, **options: Any) -> None:  # noqa: ARG002
        """Take away what an earlier sweep in this folder left of its jobs, and set the threads of parallel jobs.

        Of a search whose study is stored the trials that have ended are not asked for again, so their records stay.
        """
        folder = Path(str(config.hydra.sweep.dir))
        study = _study(config, folder / RECORDS)
        _started.append((folder, study))
        _by.append(os.getpid())
        (folder / ENDED).unlink(missing_ok=True)
        before_the_end[:] = [partial(end_jobs, folder)] if on_this_machine(config.hydra) else []
        jobs, cores = parallel_jobs(config.hydra), available_cores()
        if jobs > 1 and THREADS not in os.environ:
            os.environ[THREADS] = str(max(1, cores // jobs))
            os.environ[SHARE] = f"{cores} cores shared by {jobs} jobs at a time"


def _study(config: DictConfig, records: Path) -> StoredStudy | None:
    """The stored study of a sweep, which goes on or is begun; a fault of it ends the command.

    Hydra makes a warning of what a callback raises, and goes on.
    """
    from leyden.settings.command import report  # late: it imports this module

    try:
        study = stored_study(config.hydra, records)
        if study is not None and config.get("resume") == "auto" and study.first() is not None and study.load():
            forget(records.parent)
            print(go_on(study, config.hydra), flush=True)
            return study
        shutil.rmtree(records, ignore_errors=True)
        if study is not None:
            study.begin()
    except LeydenError as error:
        report(error)
    except Exception as error:
        said = " ".join(str(error).split())
        report(ConfigError(f"hydra.sweeper.storage: the study cannot be used ({type(error).__name__}: {said})."))
    else:
        return study
    raise SystemExit(USER_FAULT)


def started_sweep() -> tuple[Path, StoredStudy | None] | None:
    """Folder and stored study of the sweep that this process has started and not yet finished; asking finishes it."""
    return _started.pop() if _started else None


def has_started_sweep() -> bool:
    """Whether the jobs of a sweep that are done in this process are those of its own command."""
    return os.getpid() in _by


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel_jobs(hydra: DictConfig) -> int:
    """How many jobs run at the same time on this machine, as far as the launcher says.

    Args:
        hydra: Hydra's own part of the config of a sweep.
    """
    launcher, sweeper = hydra.launcher, hydra.sweeper
    kind = str(launcher.get("_target_", ""))
    overrides, _ = read_overrides(hydra.overrides.task)
    jobs = math.prod(sizes(overrides))
    if "optuna" in str(sweeper.get("_target_", "")):
        jobs = int(sweeper.n_jobs)
    if "joblib" in kind:
        asked = int(launcher.n_jobs)
        return max(1, min(jobs, asked if asked > 0 else available_cores() + 1 + asked))
    return jobs if kind.endswith("LocalLauncher") else 1


def chooses_sweep(texts: list[str]) -> bool:
    """Whether a file of conf/sweep is chosen without `-m`, which it implies."""
    chosen = any(text.startswith("sweep=") and text != "sweep=null" for text in texts)
    return chosen and not {"-m", "--multirun"} & set(texts)


def flag_first(texts: list[str]) -> list[str]:
    """The command line with `-m` before all settings: the parser would not read those on both sides of it."""
    flags = {"-m", "--multirun"}
    if chooses_sweep(texts) or flags & set(texts):
        return ["-m", *(text for text in texts if text not in flags)]
    return texts


def count_faults(overrides: Iterable[Override]) -> list[str]:
    """Numbers of jobs that make no search."""
    keys = ("hydra.sweeper.n_trials", "hydra.sweeper.n_jobs")
    asked = [(one.input_line, one.value()) for one in overrides if one.key_or_group in keys and not one.is_delete()]
    return [
        f"{text} asks for no job. Allowed: a whole number, at least 1."
        for text, value in asked
        if isinstance(value, int) and value < 1
    ]


def taken(config: DictConfig) -> list[str]:
    """The fault of a sweep whose folder holds a run or an earlier sweep, or of one that goes on and has no name."""
    name = config.get("experiment_name")
    if name is None and config.get("resume") == "auto":
        return ["resume=auto looks for the sweep of an experiment_name. Set it to the name of that folder."]
    if name is None:
        return []  # it will be named after the time
    folder = user_path(Path(str(config.output_directory), str(name)))
    if (folder / SAVED).is_file():
        return [f"experiment_name={name}: {folder} is a run, so no sweep goes into it. Choose another experiment_name."]
    if config.overwrite is not True and config.get("resume") is None and any(folder.glob(f"*/{SAVED}")):
        return [
            f"experiment_name={name}: {folder} holds the runs of a sweep already. Choose another experiment_name, set "
            "resume=auto to go on with that sweep, or overwrite=true to replace the runs of the same number."
        ]
    return []


def sweep_fault(override: Override) -> str:
    """What to say of several values without `-m`."""
    return (
        f"{override.input_line} lists several values. For one run per value add -m; for one run with a list write "
        f"{as_list(override)}."
    )
