"""Runs that a real signal ends after a chosen update, and what they leave, to the bit."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning as L
import pytest
from tests.effects.small_runs import CONF, without_pages

from leyden.artifacts.job import run_job
from leyden.settings.composition import compose_config
from leyden.settings.read import read
from leyden.settings.resuming import continued
from leyden.training.checkpoints import Checkpoints
from leyden.training.interrupts import Stopped

BY_THE_CLOCK = ("train/tokens_per_second", "train/peak_memory_gib")


def stop_after(
    monkeypatch: pytest.MonkeyPatch, update: int, signum: int = signal.SIGTERM, name: str | None = None
) -> None:
    """Have this process get a signal while an update is at hand, once; of the run of that name, if there are more."""
    original = Checkpoints.on_train_batch_end
    sent: list[int] = []

    def on_train_batch_end(self: Checkpoints, trainer: L.Trainer, *rest: Any) -> None:
        if trainer.global_step == update and not sent and name in (None, self.folder.parent.name):
            sent.append(signum)
            os.kill(os.getpid(), signum)
        original(self, trainer, *rest)

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", on_train_batch_end)


def run(*overrides: str, pages: bool = False) -> None:
    """What `train.py` does with these overrides, with or without a page of the run."""
    config, faults = compose_config("train", overrides, CONF)
    assert not faults, faults
    assert config is not None
    with (
        patch("leyden.artifacts.job.typed_overrides", lambda: list(overrides)),
        nullcontext() if pages else without_pages(),
    ):
        run_job(read(continued(config, overrides)))


def stopped(*overrides: str, pages: bool = False) -> Stopped:
    with pytest.raises(Stopped) as caught:
        run(*overrides, pages=pages)
    return caught.value


def logged(folder: Path) -> list[tuple[str, ...]]:
    """Every line of metrics.csv but those that say how fast it was, and how large the process was."""
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [tuple(row) for row in csv.reader(file) if row[2] not in BY_THE_CLOCK]


def weights(folder: Path) -> dict[str, str]:
    """Hash of every file of weights in the model of a run."""
    files = sorted((folder / "model").rglob("*.safetensors"))
    assert files
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def assert_same_bits(one: Path, two: Path) -> None:
    """Both runs logged the same numbers and hold the same weights, results and predictions."""
    assert logged(two) == logged(one)
    assert weights(two) == weights(one)
    for name in ("results.json", "predictions.csv"):
        assert (two / name).read_bytes() == (one / name).read_bytes(), name
    manifests = [json.loads((folder / "manifest.json").read_text(encoding="utf-8")) for folder in (one, two)]
    assert [manifest["status"] for manifest in manifests] == ["done", "done"]
    assert manifests[0]["updates_done"] == manifests[1]["updates_done"] == manifests[0]["updates"]
