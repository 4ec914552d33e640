"""The command line as a user meets it: fast answers, exit codes, sweeps, and a saved config that repeats."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.effects.small_runs import write_table

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
HEAVY = ("torch", "lightning", "transformers", "peft", "pandas", "numpy")
LIMIT_S = 1.5
LOADED_MACHINE = 3  # other processes share the cores and their caches, also while a test runs
TINY = ["backbone=tiny", "generation.max_length_inference=4", "trainer.progress=none", "checkpoint.verify=false"]
BAD = ["problem=dpo", "lora.rnak=8", "optimizer.learning_rate=0", "dataset.train_dataframe=nix.csv", "foo"]


def imports_and_time(project_root: Path, folder: Path, script: str, *arguments: str) -> tuple[set[str], float, str]:
    """Top-level modules that a command loads, its processor time, and what it says."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(project_root / script), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(project_root / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    modules = set(re.findall(r"^import time: +\d+ \| +\d+ \| +([\w]+)", done.stderr, re.MULTILINE))
    said = "\n".join(line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("import time"))
    return modules, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, said


@pytest.mark.parametrize(
    ("script", "arguments", "part"),
    [
        ("train.py", ["--help"], "python train.py problem=dpo"),
        ("train.py", BAD, "4 config errors"),
        ("train.py", ["--cfg", "job", "lora.r=7"], "r: 7"),
        ("predict.py", ["--help"], "run=outputs/NAME"),
        ("predict.py", [], "2 config errors"),
    ],
)
def test_an_answer_comes_at_once_and_loads_no_heavy_library(
    project_root: Path, tmp_path: Path, script: str, arguments: list[str], part: str
) -> None:
    modules, seconds, said = imports_and_time(project_root, tmp_path, script, *arguments)
    assert "hydra" in modules, "the list of imports was not read"
    assert not modules & set(HEAVY)
    assert part in said
    assert "Traceback" not in said
    assert seconds < LIMIT_S * LOADED_MACHINE
    assert not list(tmp_path.iterdir()), "an answer left something behind"


def test_debug_shows_the_traceback_of_a_fault(run_cli: Cli) -> None:
    done = run_cli(["train.py", "lora.rnak=8", "debug=true"])
    assert done.returncode not in (0, 2)
    assert "Traceback" in done.stderr
    assert "lora.rnak is not a setting" in done.stderr


def test_cfg_prints_what_runs(run_cli: Cli) -> None:
    done = run_cli(["train.py", "--cfg", "job", "--resolve", "problem=dpo", "lora.r=7"])
    assert done.returncode == 0, done.stderr
    tree = yaml.safe_load(done.stdout)
    assert tree["lora"]["r"] == 7
    assert tree["problem"]["loss"]["_target_"].endswith("losses.dpo")
    assert tree["trainer"]["gradient_clip"] == 10.0


def test_a_sweep_with_a_bad_value_starts_no_job(run_cli: Cli, tmp_path: Path) -> None:
    done = run_cli(["train.py", "-m", *TINY, "lora.r=4,0"], cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("lora.r=0 is not allowed") == 1
    assert not list(tmp_path.iterdir())


def test_a_sweep_named_like_a_run_is_refused_before_anything_is_made(run_cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "outputs" / "mine"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("kept", encoding="utf-8")
    done = run_cli(["train.py", "-m", *TINY, "experiment_name=mine", "lora.r=4,8"], cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("is a run, so no sweep goes into it") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["outputs", "mine", "config.yaml"]


def test_a_sweep_runs_and_a_saved_config_repeats_its_run(run_here: Cli, tmp_path: Path) -> None:
    rows = [f"text {number}" for number in range(8)]
    write_table(tmp_path / "rows.jsonl", {"p": rows, "a": rows})
    table = ["dataset=table", "dataset.train_dataframe=rows.jsonl", "dataset.prompt_column=p",
             "dataset.answer_column=a", "dataset.validation_size=0.5"]  # fmt: skip
    done = run_here(["train.py", "-m", *TINY, *table, "experiment_name=sweep", "lora.r=2,3"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    jobs = sorted((tmp_path / "outputs" / "sweep").iterdir())
    saved = [yaml.safe_load((job / "config.yaml").read_text(encoding="utf-8")) for job in jobs if job.is_dir()]
    assert [tree["lora"]["r"] for tree in saved] == [2, 3]
    job = next(job for job in jobs if job.is_dir())
    again = run_here(
        ["train.py", "--config-dir", str(job), "--config-name", "config", "experiment_name=again"], cwd=tmp_path
    )
    assert again.returncode == 0, again.stderr
    repeated = yaml.safe_load((tmp_path / "outputs" / "again" / "config.yaml").read_text(encoding="utf-8"))
    assert {**repeated, "experiment_name": None} == {**saved[0], "experiment_name": None}
    numbers = [
        (folder / "results.json").read_text(encoding="utf-8") for folder in (job, tmp_path / "outputs" / "again")
    ]
    assert numbers[0] == numbers[1]
