"""Settings against what they became in a run, each with its reason."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import torch

from leyden.settings.schema import Settings
from leyden.settings.sweeps import SHARE, THREADS, available_cores
from leyden.training.devices import world_size
from leyden.training.outcome import Run

Found = dict[str, dict[str, Any]]


def effective_values(settings: Settings, run: Run, requested_seed: int) -> Found:
    """What was asked for, what it became, and why, by key: what was left to the program, and what it changed.

    Args:
        settings: of the run.
        run: as it ended.
        requested_seed: the seed as it was asked for.
    """
    found: Found = {
        "backbone.dtype": asdict(run.dtype),
        "backbone.attention_implementation": {
            "requested": settings.backbone.attention_implementation,
            "effective": run.attention.engine,
            "implementation": run.attention.implementation,
            "reason": run.attention.reason,
        },
        "threads": _threads(),
    }
    if requested_seed != settings.seed:
        found["seed"] = _entry(requested_seed, settings.seed, "drawn, since seed=-1; config.yaml has the drawn one")
    for key, why in run.found.items():
        group, name = key.split(".")
        found[key] = _entry("auto", getattr(getattr(run.settings, group), name), why)
    return _trainer(settings, run) | _generation(settings) | found


def _trainer(settings: Settings, run: Run) -> Found:
    asked, trainer = settings.trainer, run.trainer
    kind = trainer.strategy.root_device.type
    best = "the best device there is" if asked.accelerator == "auto" else "as asked"
    found: Found = {"trainer.accelerator": _entry(asked.accelerator, kind, best)}
    if asked.devices == "auto":
        found["trainer.devices"] = _entry("auto", world_size(asked) // asked.num_nodes, "the devices of this machine")
    precision = str(trainer.precision)
    if precision != asked.precision:
        found["trainer.precision"] = _entry(asked.precision, precision, f"what Lightning does on {kind}")
    batches, processes = asked.grad_accumulation, world_size(asked)
    if batches * processes > 1:
        why = f"rows of one update: {asked.rows} x {batches} batches x {processes} processes"
        found["trainer.batch_size"] = _entry(asked.rows, asked.rows * batches * processes, why)
    if run.final.step < run.updates:
        epochs = round(asked.epochs * run.final.step / run.updates, 4)
        why = f"the training ended after {run.final.step} of {run.updates} updates"
        found["trainer.epochs"] = _entry(asked.epochs, epochs, why)
    return found


def _generation(settings: Settings) -> Found:
    if settings.generation.batch_size_inference:
        return {}
    why = "0 stands for trainer.batch_size"
    return {"generation.batch_size_inference": _entry(0, settings.trainer.rows, why)}


def _threads() -> dict[str, Any]:
    """Threads of this process: all cores, unless the environment or the other jobs of a sweep want some."""
    asked = os.environ.get(THREADS)
    why = os.environ.get(SHARE) or (f"{THREADS}={asked}" if asked else "torch's own choice")
    return _entry(available_cores(), torch.get_num_threads(), why)


def _entry(requested: Any, effective: Any, reason: str) -> dict[str, Any]:
    return {"requested": requested, "effective": effective, "reason": reason}
