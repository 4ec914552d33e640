"""`torchrun train.py`: two processes of one host equal one process, and a fault is told once and ends both."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.integration.forked_workers import run_forked
from tests.integration.process_runs import ROOT, assert_same_run, overrides_of, write_rows

RunCli = Callable[..., subprocess.CompletedProcess[str]]
TEXTS = ["lora.dropout=0", "dataset.answer_column=output", "generation.max_length_inference=3", "optimizer.eps=0.01"]
DDP = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
RATES = ["optimizer.learning_rate=0.05", "dataset.validation_size=0.2"]
PAIRS = ["problem=dpo", "dataset.rejected_answer_column=rejected", "trainer.gradient_clip=0.5"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(ROOT / "train.py")]


def test_e8_b7_b74_a_drawn_seed_is_shared_saved_and_replayed_and_equals_one_process(
    run_here: RunCli, tmp_path: Path
) -> None:
    """Pairs; answers alone are trained on two hosts in test_hosts.py, and in other cuts in test_processes.py."""
    table = write_rows(tmp_path / "rows.csv")
    own = [*TEXTS, *RATES, *PAIRS]
    cut = ["trainer.batch_size=1", "trainer.grad_accumulation=2"]
    drawn = overrides_of(table, tmp_path / "drawn", *own, *DDP, *cut, "seed=-1", "log_all_ranks=true")
    done = subprocess.run(
        [*TORCHRUN, *drawn], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True,
        text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("status\tdone") == 1
    assert "Warning" not in done.stderr
    assert [done.stderr.count(f"[{rank}] train: ") for rank in (0, 1)] == [1, 1]
    manifest = json.loads((tmp_path / "drawn" / "manifest.json").read_text())
    saved = yaml.safe_load((tmp_path / "drawn" / "config.yaml").read_text())
    assert manifest["seed"] == {"requested": -1, "effective": saved["seed"]}
    assert 0 <= saved["seed"] < 1_000_000
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump({**saved, "log_all_ranks": False}))  # of one there is no all
    saved_run = ["--config-dir", str(tmp_path), "--config-name", "alone", "experiment_name=one"]
    whole = ["trainer.strategy=auto", "trainer.devices=1", "trainer.batch_size=4", "trainer.grad_accumulation=1"]
    again = run_here(["train.py", *saved_run, *whole], cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "one" / "manifest.json").read_text())["seed"]["effective"] == saved["seed"]
    assert_same_run(tmp_path / "one", tmp_path / "drawn")


def test_a_fault_is_told_once_and_ends_both_with_code_2(tmp_path: Path) -> None:
    """An existing folder: only rank 0 can see it, after the settings were checked. All three processes are forked."""
    table = write_rows(tmp_path / "rows.csv")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    done = run_forked([*TORCHRUN, *overrides_of(table, tmp_path / "there", *TEXTS, *DDP)], cwd=tmp_path, timeout=400)
    assert done.returncode == 1, "torchrun itself"
    assert done.stderr.count("config error:") == 1
    assert done.stderr.count("is there already") == 1
    assert set(re.findall(r"exitcode\s*: (-?\d+)", done.stderr)) == {"2"}
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["file"]
