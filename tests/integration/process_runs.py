"""Runs of several processes on a small table, and whether two of them are the same training."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.effects.small_runs import without_pages

from leyden.artifacts.job import run_job
from leyden.settings.composition import compose_config
from leyden.settings.read import read

ROOT = Path(__file__).resolve().parent.parent.parent
WORDS = ["why", "a longer question", "so?", "is the answer longer than the question", "what of it"]


def write_rows(path: Path) -> Path:
    """Fourteen rows; with eleven for training the last step has three samples, one rank one of them."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["instruction", "output", "rejected", "kind"])
        for row in range(14):
            answer = f"{WORDS[(row * 3 + 1) % 5]} {row}" * (1 + row % 3)
            writer.writerow([f"{row} {WORDS[row % 5]}", answer, f"no {WORDS[(row + 2) % 5]}", "xyz"[row % 3]])
    return path


def overrides_of(table: Path, folder: Path, *overrides: str) -> list[str]:
    return [
        "backbone=tiny", "backbone.dtype=float32", "dataset=table",
        f"dataset.train_dataframe={table}", "dataset.prompt_column=instruction",
        "trainer.epochs=2", "trainer.evaluation_epochs=0.5", "checkpoint.verify=false",
        f"output_directory={folder.parent}", f"experiment_name={folder.name}", *overrides,
    ]  # fmt: skip


def train(table: Path, folder: Path, *overrides: str, extra: Path | None = None) -> Path:
    """A whole job, started from this process: what it starts itself are processes of their own."""
    config, faults = compose_config("train", overrides_of(table, folder, *overrides), ROOT / "conf", extra)
    assert not faults
    assert config is not None
    with without_pages():
        run_job(read(config))
    return folder


def numbers(folder: Path) -> dict[tuple[int, int, str], float]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {(int(row["step"]), int(row["samples"]), row["name"]): float(row["value"]) for row in rows}
    assert len(found) == len(rows), "a number was logged twice"
    # what goes through the model depends on the cut: ghosts of idle ranks, beginnings that samples share
    other = ("train/tokens_per_second", "train/peak_memory_gib", "train/tokens")
    return {key: value for key, value in found.items() if key[2] not in other}


def assert_same_run(one: Path, two: Path, *, tolerance: float = 1e-6) -> None:
    ours, theirs = numbers(two), numbers(one)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key
    weights = [load_file(next((folder / "model").glob("*.safetensors"))) for folder in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")
    adapted = [weight.abs().max() for name, weight in weights[0].items() if "lora_B" in name]
    assert not adapted or max(adapted) > 1e-3
    assert json.loads((two / "manifest.json").read_text(encoding="utf-8"))
