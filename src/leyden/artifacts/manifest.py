"""`manifest.json` and `results.json`: what the run was, and what came of it."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from leyden import __version__
from leyden.artifacts.continuation import resumes
from leyden.artifacts.effective import effective_values
from leyden.artifacts.whole import write_whole
from leyden.backbone.lora import base_location
from leyden.settings.schema import Settings
from leyden.training.callbacks import Point
from leyden.training.devices import world_size
from leyden.training.outcome import Run
from leyden.training.prepare import Material
from leyden.training.used_memory import peak_memory_gib

PACKAGES = (  # whatever can move a number or a file; those that are not there are left out
    "torch", "lightning", "transformers", "tokenizers", "peft", "safetensors", "gguf", "hydra-core", "omegaconf",
    "numpy", "pandas", "pyarrow", "pydantic", "torchmetrics", "sacrebleu", "jinja2", "bitsandbytes", "deepspeed",
    "flash-attn", "datasets", "openai", "tensorboard", "wandb", "neptune", "mlflow", "mlflow-skinny",
    "hydra-optuna-sweeper", "optuna", "hydra-joblib-launcher", "hydra-submitit-launcher",
)  # fmt: skip


def write_json(path: Path, content: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Write JSON that every reader takes: numbers that are not finite become null.

    Args:
        path: of the file.
        content: what to write.
        indent: spaces before what is inside something else; None: all in one line.
    """
    text = json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False)
    write_whole(path, text + "\n")


def results_of(run: Run) -> dict[str, dict[str, float] | None]:
    """Metrics before training, at their best and at the end, each with step and samples."""
    return {
        name: _flat(point)
        for name, point in (
            ("before", run.before),
            ("best", run.history.best()),
            ("final", None if run.stopped else run.final),
        )
    }


def manifest_of(  # noqa: PLR0913, PLR0917
    settings: Settings, material: Material, run: Run, requested_seed: int, folder: Path, status: str
) -> dict[str, Any]:
    """How it ended, versions, command, data, requested and effective values, device, timings and memory."""
    tables = {name: part.trees.part.source.table for name, part in _parts(material).items()}
    module = run.module
    return {
        "status": status,
        "resumes": resumes(folder),
        "leyden": __version__,
        "python": platform.python_version(),
        "packages": versions(),
        "platform": platform.platform(),
        "command": shlex.join(sys.argv),
        "repeat": f"python train.py --config-dir {shlex.quote(str(folder))} --config-name config "
        f"experiment_name={shlex.quote(f'{folder.name}-again')}",
        "git_commit": _commit(),
        "seed": {"requested": requested_seed, "effective": settings.seed},
        "data": {name: {"path": str(table.path), "sha256": table.sha256} for name, table in tables.items()},
        "counts": material.counts,
        "warnings": material.warnings,
        "backbone": {
            "name": settings.backbone.name,
            "location": base_location(module.backbone) or material.checkpoint.location,
            "start": settings.backbone.pretrained_weights
            or ("checkpoint" if settings.backbone.pretrained else "random"),
            "remote_code": settings.backbone.trust_remote_code,
        },
        "effective": effective_values(settings, run, requested_seed),
        **_training(settings, run),
        **_performance(material, run),
    }


def _training(settings: Settings, run: Run) -> dict[str, Any]:
    """What the training was made of, and how far it came."""
    module = run.module
    return {
        "reference": run.reference,
        "reference_scores": module.scores.report or None,
        "processes": world_size(settings.trainer),
        "threads": torch.get_num_threads(),
        "updates": run.updates,
        "training_tokens": {"computed": run.history.computed, "shared": run.history.shared},
        "updates_done": run.trainer.global_step,
        "checkpoints": {"written": run.checkpoints.written, "bytes": [one.size for one in run.checkpoints.saved]},
        "skipped_updates": module.skipped_updates,
        "empty_updates": module.empty_updates,
        "unscored_validation_samples": module.evaluation.unscored if module.evaluation else 0,
        "parameters": {
            "all": sum(p.numel() for p in module.backbone.parameters()),
            "trained": sum(p.numel() for p in module.backbone.parameters() if p.requires_grad),
        },
    }


def _performance(material: Material, run: Run) -> dict[str, Any]:
    """Seconds of each step, when the first batch began, tokens per second of the training, peak memory."""
    history = run.history
    return {
        "seconds": {name: round(value, 3) for name, value in {**material.seconds, **run.seconds}.items()},
        "first_update": _moment(history.first_update),
        "tokens_per_second": history.tokens / history.seconds if history.seconds else None,
        "peak_memory_gib": round(peak_memory_gib(), 3),
    }


@cache
def versions() -> dict[str, str]:
    """Versions of the packages that a run may rest on, of those that are installed."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _moment(seconds: float | None) -> str | None:
    """A time since 1970 as ISO 8601 in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _parts(material: Material) -> dict[str, Any]:
    return {"train": material.train, "validation": material.validation}


def _flat(point: Point | None) -> dict[str, float] | None:
    return None if point is None else {**point.metrics, "step": point.step, "samples": point.samples}


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


@cache
def _commit() -> str | None:
    """The commit of the checkout that the command was run from, if it is one."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--verify", "HEAD"],
            capture_output=True, text=True, check=False, timeout=10, env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
