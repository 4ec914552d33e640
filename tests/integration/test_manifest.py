"""The manifest: what was asked for and what it became, versions, and a command that gives the same numbers again."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from subprocess import CompletedProcess

import torch
import yaml
from tests.effects.small_runs import write_table
from tests.integration.stopped_runs import BY_THE_CLOCK

Cli = Callable[..., "CompletedProcess[str]"]
TINY = ["backbone=tiny", "checkpoint.verify=false", "generation.max_length_inference=4", "trainer.progress=none",
        "dataset=table", "dataset.train_dataframe=rows.jsonl", "dataset.prompt_column=p", "dataset.answer_column=a",
        "dataset.validation_size=0.4"]  # fmt: skip


def numbers(run: Path) -> list[tuple[str, ...]]:
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return [tuple(row.values()) for row in csv.DictReader(file) if row["name"] not in BY_THE_CLOCK]


def test_b68_a_drawn_seed_is_saved_and_the_saved_command_repeats_the_run_bit_for_bit(
    run_here: Cli, tmp_path: Path
) -> None:
    words = [f"word {number}" * (1 + number % 4) for number in range(24)]
    write_table(tmp_path / "rows.jsonl", {"p": words, "a": words[::-1]})
    own = ["seed=-1", "trainer.grad_accumulation=2", "generation.batch_size_inference=0", "experiment_name=drawn"]
    assert run_here(["train.py", *TINY, *own], cwd=tmp_path).returncode == 0
    first = tmp_path / "outputs" / "drawn"
    manifest = json.loads((first / "manifest.json").read_text(encoding="utf-8"))
    seed = yaml.safe_load((first / "config.yaml").read_text(encoding="utf-8"))["seed"]
    assert manifest["seed"] == {"requested": -1, "effective": seed}
    assert seed >= 0
    changed = manifest["effective"]
    assert {key: (entry["requested"], entry["effective"]) for key, entry in changed.items()}.items() >= {
        "seed": (-1, seed), "trainer.batch_size": (2, 4), "generation.batch_size_inference": (0, 2),
        "trainer.accelerator": ("auto", "cpu" if not torch.cuda.is_available() else "cuda"),
    }.items()  # fmt: skip
    assert all(entry["reason"] for key, entry in changed.items() if entry["requested"] != entry["effective"])
    assert changed["threads"]["effective"] == manifest["threads"] == torch.get_num_threads()
    assert manifest["packages"]["numpy"] == metadata.version("numpy")
    assert {"torch", "lightning", "transformers", "peft", "tokenizers"} <= manifest["packages"].keys()
    python, *command = shlex.split(manifest["repeat"])
    assert python == "python"
    done = run_here(command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = tmp_path / "outputs" / "drawn-again"
    assert numbers(again) == numbers(first)
    weights = [(run / "model" / "adapter_model.safetensors").read_bytes() for run in (first, again)]
    assert weights[0] == weights[1]
