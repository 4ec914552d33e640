"""Two CPU processes against one: the same rows, cut in two, give the same weights and numbers."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from safetensors.torch import load_file

from leyden.artifacts.job import run_job
from leyden.settings.composition import compose_config
from leyden.settings.errors import TrainingError
from leyden.settings.read import read

ROOT = Path(__file__).resolve().parent.parent.parent
RunCli = Callable[..., CompletedProcess[str]]
WORDS = ["why", "a longer question", "so?", "is the answer longer than the question", "what of it"]
DDP = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def workers_find_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Fourteen rows; with eleven for training the last step has three samples, one rank one of them."""
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["instruction", "output", "rejected"])
        for row in range(14):
            answer = f"{WORDS[(row * 3 + 1) % 5]} {row}" * (1 + row % 3)
            writer.writerow([f"{row} {WORDS[row % 5]}", answer, f"no {WORDS[(row + 2) % 5]}"])
    return path


def overrides_of(table: Path, folder: Path, *overrides: str) -> list[str]:
    return [
        "backbone=tiny", "dataset=table", f"dataset.train_dataframe={table}", "dataset.prompt_column=instruction",
        "dataset.answer_column=output", "lora.dropout=0",
        "generation.max_length_inference=3", "trainer.epochs=2", "trainer.evaluation_epochs=0.5",
        f"output_directory={folder.parent}", f"experiment_name={folder.name}", *overrides,
    ]  # fmt: skip


def train(table: Path, folder: Path, *overrides: str, extra: Path | None = None) -> Path:
    """A whole job, started from this process: what it starts itself are processes of their own."""
    config, faults = compose_config("train", overrides_of(table, folder, *overrides), ROOT / "conf", extra)
    assert not faults
    assert config is not None
    run_job(read(config))
    return folder


def numbers(folder: Path) -> dict[tuple[int, int, str], float]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {(int(row["step"]), int(row["samples"]), row["name"]): float(row["value"]) for row in rows}
    assert len(found) == len(rows), "a number was logged twice"
    return {key: value for key, value in found.items() if key[2] != "train/tokens_per_second"}


def assert_same_run(one: Path, two: Path) -> None:
    ours, theirs = numbers(two), numbers(one)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key
    adapters = [load_file(folder / "model" / "adapter_model.safetensors") for folder in (one, two)]
    assert adapters[0].keys() == adapters[1].keys()
    for name, weight in adapters[0].items():
        torch.testing.assert_close(adapters[1][name], weight, rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    assert max(weight.abs().max() for name, weight in adapters[0].items() if "lora_B" in name) > 1e-3
    assert json.loads((two / "manifest.json").read_text(encoding="utf-8"))


# Pairs: one validation row leaves a rank without, and the last of thirteen training rows leaves one idle.
EXPERIMENTS = {
    "tokens": "dataset: {validation_size: 0.2}\noptimizer: {learning_rate: 0.1}\n",
    "pairs": (
        "defaults: [override /problem: dpo]\ntrainer: {gradient_clip: 0.5}\noptimizer: {learning_rate: 0.05}\n"
        "dataset: {validation_size: 0.08, rejected_answer_column: rejected}\n"
        "backbone: {attention_implementation: sdpa}\n"
    ),
}


def test_a_sweep_of_two_processes_each_equals_single_processes(
    run_here: RunCli, table: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Effective batches of four: 4 x 1, and 2 processes x 1 row x 2 batches; for pairs, packed against padded."""
    conf = tmp_path / "conf"
    (conf / "experiment").mkdir(parents=True)
    for name, text in EXPERIMENTS.items():
        (conf / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}", encoding="utf-8")
    # A large eps: without it AdamW turns the rounding of gradients near zero into steps of full size.
    common = ["optimizer.eps=0.01"]
    cut = ["trainer.batch_size=1", "trainer.grad_accumulation=2"]
    sweep = ["-m", "--config-dir", str(conf), f"experiment={','.join(EXPERIMENTS)}"]
    done = run_here(["train.py", *sweep, *overrides_of(table, tmp_path / "two", *common, *DDP, *cut)])
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr + capfd.readouterr().err
    whole = ["trainer=cpu", "trainer.batch_size=4", "backbone.attention_implementation=auto"]
    for job, name in enumerate(EXPERIMENTS):
        one = train(table, tmp_path / name, f"experiment={name}", *common, *whole, extra=conf)
        assert_same_run(one, tmp_path / "two" / str(job))
    rates = [numbers(tmp_path / "two" / job)[(1, 4, "train/learning_rate")] for job in ("0", "1")]
    assert rates == [0.1, 0.05]


def test_all_processes_give_up_together(table: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A rate that blows the weights up: no update can be applied any more, on both ranks; exit code 2."""
    bad = ["optimizer.learning_rate=1e30", "trainer.max_bad_steps=2", "trainer.epochs=5", "trainer.batch_size=1"]
    with pytest.raises(TrainingError, match="code 2"):
        train(table, tmp_path / "bad", *DDP, *bad)
    said = capfd.readouterr().err
    assert "2 updates in a row could not be applied (trainer.max_bad_steps=2)" in said
    assert "Traceback" not in said
    line = next(line for line in said.splitlines() if "was not applied" in line)
    assert "of the training table" in line
    assert "lines " in line, "the rows of both ranks are named"
