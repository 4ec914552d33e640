"""Signals outside of the updates: while a run begins, after it has trained, in a sweep, which can be gone on with."""

from __future__ import annotations

import csv
import importlib
import multiprocessing
import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from hydra._internal.utils import get_args_parser
from tests.effects.small_runs import CONF
from tests.integration.stopped_runs import assert_same_bits, run, stop_after, stopped
from tests.integration.test_resume import overrides_of

from leyden.artifacts import reporting
from leyden.artifacts.folder import status_of
from leyden.artifacts.sweep import finish_sweep
from leyden.report.report import FILE, write_report
from leyden.settings import sweeps
from leyden.settings.command import Entry, check_command
from leyden.settings.composition import compose_config
from leyden.settings.errors import ConfigError
from leyden.settings.read import read
from leyden.settings.resuming import continued
from leyden.settings.schema import Settings
from leyden.training.saved_states import read_state

Cli = Callable[..., "CompletedProcess[str]"]
TRAIN = Entry("train", CONF, Settings, read, finish_sweep, continued)
SHORT = ["trainer.epochs=1", "trainer.evaluation_epochs=1"]
# What is called then, and what the manifest says of the run that a signal has ended right behind it.
MOMENTS = {
    "the weights are loaded": ("leyden.training.run.load_backbone", None),
    "the answers are written": ("leyden.training.answers.Answerer.generate", "saved"),
    "the model is half saved": ("leyden.artifacts.job.save_model", None),
}


def signal_behind(monkeypatch: pytest.MonkeyPatch, place: str, signum: int) -> None:
    """Have this process get a signal as soon as a function has done its work."""
    owner, _, name = place.rpartition(".")
    parent: Any = importlib.import_module(owner) if owner.islower() else None
    if parent is None:
        module, _, kind = owner.rpartition(".")
        parent = getattr(importlib.import_module(module), kind)
    original = getattr(parent, name)

    def interrupted(*arguments: Any, **more: Any) -> Any:
        found = original(*arguments, **more)
        os.kill(os.getpid(), signum)
        return found

    monkeypatch.setattr(parent, name, interrupted)


def left_behind(folder: Path) -> list[str]:
    """Files and folders that are no part of a run that has ended."""
    return [path.name for path in folder.rglob(".*") if path.name not in (".lock", ".gitattributes")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    run(*overrides_of(folder, "whole", *SHORT))
    return folder / "whole"


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_ends_it_in_order_whatever_it_does(
    moment: str, whole: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    place, status = MOMENTS[moment]
    folder = whole.parent / moment.replace(" ", "-")
    with monkeypatch.context() as patch:
        signal_behind(patch, place, signal.SIGINT)
        end = stopped(*overrides_of(whole.parent, folder.name, *SHORT))
    said = capfd.readouterr().err
    assert end.code == 130
    assert "SIGINT: this ends here." in said
    assert f": python train.py resume={folder}" in said
    assert status_of(folder) == status
    assert not left_behind(folder)
    assert not multiprocessing.active_children()
    run(f"resume={folder}")
    assert_same_bits(whole, folder)


def test_a_signal_before_there_is_a_folder_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signal_behind(monkeypatch, "leyden.artifacts.job.check_disk", signal.SIGTERM)
    assert stopped(*overrides_of(tmp_path, "none", *SHORT)).code == 143
    assert [path.name for path in tmp_path.iterdir()] == ["table.jsonl"]


def sweep_of(folder: Path, values: str) -> list[str]:
    """A sweep over a length that no text has, so that all its jobs are the same training."""
    key = "tokenizer.max_length="
    return ["-m", *(word for word in overrides_of(folder, "grid", *SHORT) if key not in word), f"{key}{values}"]


def table(folder: Path) -> list[tuple[str, str, str]]:
    with (folder / "sweep.csv").open(encoding="utf-8", newline="") as file:
        return sorted((row["job"], row["status"], row["reason"]) for row in csv.DictReader(file))


def stopped_sweep(run_here: Cli, words: list[str], job: str, update: int) -> list[str]:
    """Stop a sweep in one of its jobs; return the command that it names for going on."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, update, name=job)
        done = run_here(words)
    assert done.returncode == 143, done.stderr
    assert "Traceback" not in done.stderr
    said = next(line for line in done.stdout.splitlines() if line.startswith("The sweep was stopped."))
    python, *command = shlex.split(said.partition(": ")[2])
    assert python == "python"
    return command


def test_a_sweep_that_was_stopped_goes_on_with_the_job_and_those_behind_it(
    whole: Path, run_here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Job 0 is stopped and gone on with by its folder, job 1 by the sweep: the bits of a run that is not stopped.

    Job 0 alone has a page, which nobody writes again.
    """
    grid = tmp_path / "grid"
    monkeypatch.setattr(reporting, "write_report", lambda run: write_report(run) if run.name == "0" else run)
    command = stopped_sweep(run_here, ["train.py", *sweep_of(tmp_path, "128,129")], "0", 2)
    assert table(grid) == [("0", "stopped", "SIGTERM")]
    assert not (grid / "1").exists()
    assert read_state(next((grid / "0" / "checkpoints").iterdir())).point.step == 2
    run(f"resume={grid / '0'}", pages=True)
    assert (grid / "0" / FILE).is_file()
    before = {path: path.stat().st_mtime_ns for path in (grid / "0").rglob("*") if path.name != ".lock"}
    command = stopped_sweep(run_here, command, "1", 4)
    assert table(grid) == [("0", "done", ""), ("1", "stopped", "SIGTERM")]
    done = run_here(command)
    assert done.returncode == 0, done.stderr
    assert "The run goes on after update 4" in (grid / "1" / "train.log").read_text(encoding="utf-8")
    assert table(grid) == [(job, "done", "") for job in "01"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for job in "01":
        assert_same_bits(whole, grid / job)
    other = [*sweep_of(tmp_path, "131")[1:], "resume=auto"]
    config, _ = compose_config("train", other, CONF)
    assert config is not None
    with pytest.raises(ConfigError, match="tokenizer.max_length=131 cannot change on the way: 1 was started with 129"):
        continued(config, other, grid / "1")


def test_a_sweep_without_a_name_is_named_after_its_folder(
    monkeypatch: pytest.MonkeyPatch, run_here: Cli, tmp_path: Path
) -> None:
    """The signal comes where no run listens."""
    monkeypatch.setattr("leyden.artifacts.job.run_job", lambda *rest: os.kill(os.getpid(), signal.SIGINT))
    done = run_here(["train.py", "backbone=tiny", "-m", "lora.r=2,4", "overwrite=true"], cwd=tmp_path)
    assert done.returncode == 130
    assert done.stderr.splitlines() == ["SIGINT: this ends here."]
    (folder,) = (tmp_path / "outputs").iterdir()
    assert table(folder) == [("0", "stopped", "SIGINT")]
    command = f"python train.py -m backbone=tiny lora.r=2,4 experiment_name={folder.name} resume=auto"
    assert done.stdout.splitlines()[-1].endswith(f": {command}")


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["resume=outputs/grid/1"], "goes on with one run, not with a sweep. Name the folder of a job without -m"),
        (["resume=auto", "overwrite=true", "experiment_name=grid"], "overwrite=true does not go with resume"),
        (["resume=auto"], "resume=auto looks for the sweep of an experiment_name"),
        (["experiment_name=grid"], "holds the runs of a sweep already.*set resume=auto to go on with that sweep"),
    ],
)
def test_what_does_not_go_with_a_sweep_that_goes_on(words: list[str], fault: str, tmp_path: Path) -> None:
    (tmp_path / "grid" / "0").mkdir(parents=True)
    (tmp_path / "grid" / "0" / sweeps.SAVED).touch()
    own = ["-m", "backbone=tiny", "lora.r=2,3", f"output_directory={tmp_path}", *words]
    with pytest.raises(ConfigError, match=fault) as caught:
        check_command(get_args_parser().parse_args(own), TRAIN)
    assert len(caught.value.faults) == 1


def test_ctrl_c_before_a_run_is_a_line_and_no_traceback(
    run_here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leyden.artifacts.job.run_job", lambda *rest: os.kill(os.getpid(), signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    done = run_here(["train.py", "backbone=tiny"], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (130, "SIGINT: this ends here.\n")
    assert signal.getsignal(signal.SIGINT) is before
    assert not list(tmp_path.iterdir())
