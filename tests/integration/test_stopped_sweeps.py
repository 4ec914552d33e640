"""Sweeps that were stopped: a search whose study is stored goes on with it, jobs side by side end in order."""

from __future__ import annotations

import copy
import csv
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, read_write
from tests.effects.small_runs import CONF, without_pages
from tests.integration.stopped_runs import stop_after
from tests.integration.test_resume import overrides_of
from tests.reliability.children import Child, start

from leyden.settings.side_by_side import ENDED, RECORDS, end_if_ended, end_jobs, running
from leyden.settings.sweeps import SweepStart, started_sweep
from leyden.training.saved_states import read_state

optuna = pytest.importorskip("optuna")

Cli = Callable[..., "CompletedProcess[str]"]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of Optuna 2
RATE = "optimizer.learning_rate"
SPACE = [f"{RATE}=tag(log,interval(1e-4,1e-2))", "lora=lora", "lora.r=4", "schedule=cosine", "schedule.warmup_epochs=0"]
SHORT = ["trainer.epochs=1", "trainer.evaluation_epochs=1"]


def trials_of(folder: Path, study: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study, f"sqlite:///{folder / 'studies.db'}").trials  # type: ignore[no-any-return]


def states(folder: Path, study: str) -> list[str]:
    return [trial.state.name for trial in trials_of(folder, study)]


def test_a_search_that_was_stopped_keeps_what_is_done_and_goes_on_with_the_rest(
    run_here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two jobs is stopped in an update, and goes on in its folder; the first is not begun again."""
    monkeypatch.setattr("leyden.artifacts.sweep._compared", lambda folder: str(folder))
    stored = [f"hydra.sweeper.storage=sqlite:///{tmp_path / 'studies.db'}", "hydra.sweeper.n_trials=2"]
    words = ["train.py", "sweep=causal_lm", *overrides_of(tmp_path, "s", *SHORT, *SPACE, *stored)]
    with without_pages():
        with monkeypatch.context() as patch:
            stop_after(patch, 2, name="1")
            done = run_here(words)
        assert done.returncode == 143, done.stderr
        assert states(tmp_path, "s") == ["COMPLETE", "WAITING"]
        log = (tmp_path / "s" / "0" / "train.log").read_bytes()
        done = run_here([*words, "resume=auto"])
    assert done.returncode == 0, done.stderr
    assert "The study s goes on: 1 of 2 trials have ended and stay (0 without a number), 1 stopped and" in done.stdout
    assert "2 of 2 jobs are done" in done.stdout
    assert "The run goes on after update 2" in (tmp_path / "s" / "1" / "train.log").read_text(encoding="utf-8")
    assert (tmp_path / "s" / "0" / "train.log").read_bytes() == log
    with (tmp_path / "s" / "sweep.csv").open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["job"])
    assert states(tmp_path, "s") == ["COMPLETE"] * 2
    assert [(row["job"], row["status"], row["metric"], row["overrides"]) for row in rows] == [
        (str(trial.number), "done", repr(trial.value), f"{RATE}={trial.params[RATE]}")
        for trial in trials_of(tmp_path, "s")
    ]


class Jobs:
    """A launcher whose jobs have a result at once: one has none, and one is stopped.

    Attributes:
        begun: number and rate of each job.
        stop: how many jobs are begun before the one that a signal comes to.
    """

    def __init__(self) -> None:
        self.begun: list[tuple[int, float]] = []
        self.stop = 100
        self.config: DictConfig | None = None

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        assert self.config is not None
        words_of_hydra = OmegaConf.to_container(self.config.hydra.overrides.hydra, resolve=False)
        subdir = next((text for text in words_of_hydra if str(text).startswith("hydra.sweep.subdir")), "")
        counted = re.fullmatch(r"hydra.sweep.subdir='\$\{job_number:\$\{hydra.job.num\},(\d+)\}'", subdir)
        returned = []
        for place, words in enumerate(job_overrides, initial_job_idx + (int(counted[1]) if counted else 0)):
            rate = float(next(word for word in words if word.startswith(RATE)).partition("=")[2])
            self.begun.append((place, rate))
            record = Path(self.config.hydra.sweep.dir) / RECORDS / f"{place}.json"
            if not record.exists():
                record.write_text("{}", encoding="utf-8")
            if len(self.begun) > self.stop:
                raise SystemExit(143)
            value = None if place == 1 else abs(rate - 1e-3)
            returned.append(JobReturn(status=JobStatus.COMPLETED, _return_value=value))
        return returned


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    words = ["sweep=causal_lm", "backbone=tiny", "experiment_name=x"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", words, return_hydra_config=True)


@pytest.fixture
def search(composed: DictConfig, tmp_path: Path) -> Callable[..., None]:
    """What Hydra does with a command that searches, from its callback on, with a launcher of one's own."""

    def run(jobs: Jobs, name: str, trials: int, study: str, *, killed: bool = False, **more: object) -> None:
        config = copy.deepcopy(composed)
        with read_write(config), read_write(config.hydra):
            config.resume = "auto"
            config.hydra.sweep.dir = str(tmp_path / name)
            sweeper = config.hydra.sweeper
            sweeper.storage, sweeper.study_name = f"sqlite:///{tmp_path / 'studies.db'}", study
            sweeper.n_trials, sweeper.n_jobs = trials, more.get("n_jobs", 1)
            sweeper.sampler.n_startup_trials, sweeper.sampler.seed = 2, more.get("seed", 42)
        jobs.config = config
        SweepStart().on_multirun_start(config)
        context = HydraContext(config_loader=None, callbacks=None)  # type: ignore[arg-type]
        made = Plugins.instance().instantiate_sweeper(
            config=config, hydra_context=context, task_function=lambda _: None
        )
        made.sweeper.launcher = jobs  # type: ignore[attr-defined]
        try:
            made.sweep(SPACE)
        except SystemExit:
            assert len(jobs.begun) > jobs.stop
        finally:
            started = started_sweep()
        assert started is not None
        assert started[1] is not None
        if not killed:
            started[1].release()

    return run


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_what_is_suggested_behind_a_stop_is_what_would_have_been(
    n_jobs: int, search: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Past the trials at random, in a study that has trials of another sweep; stopped, killed, then asked for more."""
    for study in ("one", "two"):
        search(Jobs(), f"before-{study}", 2, study, n_jobs=n_jobs)
    whole, halved = Jobs(), Jobs()
    search(whole, "whole", 8, "one", n_jobs=n_jobs)
    halved.stop = 4 if n_jobs == 2 else 3
    search(halved, "halved", 6, "two", n_jobs=n_jobs)
    rest = ["COMPLETE", "WAITING"] if n_jobs == 1 else ["COMPLETE", "COMPLETE", "WAITING", "WAITING"]
    assert states(tmp_path, "two") == [*["COMPLETE", "FAIL"] * 2, *rest]
    halved.stop = len(halved.begun)
    search(halved, "halved", 6, "two", n_jobs=n_jobs, killed=True)
    assert "RUNNING" in states(tmp_path, "two"), "as after SIGKILL: nobody has told the study"
    halved.stop = 100
    capsys.readouterr()
    search(halved, "halved", 6, "two", n_jobs=n_jobs)
    ended = 3 if n_jobs == 1 else 4
    said = f"{ended} of 6 trials have ended and stay (1 without a number), {n_jobs} stopped and asked for again."
    assert said in capsys.readouterr().out
    search(halved, "halved", 8, "two", n_jobs=n_jobs)
    assert states(tmp_path, "two") == states(tmp_path, "one") == [*["COMPLETE", "FAIL"] * 2, *["COMPLETE"] * 6]
    assert [trial.params for trial in trials_of(tmp_path, "two")] == [
        trial.params for trial in trials_of(tmp_path, "one")
    ]
    assert dict(halved.begun) == dict(whole.begun)
    again = [number for number, _ in halved.begun]
    assert {number for number in again if again.count(number) > 1} == {ended}


def test_a_process_that_an_earlier_command_has_left_in_a_record_is_sent_nothing(
    search: Callable[..., None], tmp_path: Path
) -> None:
    """After SIGKILL its number stands there, and may be that of any other process by now."""
    jobs = Jobs()
    jobs.stop = 0
    search(jobs, "s", 1, "s", killed=True)
    (tmp_path / "s" / RECORDS / "0.json").write_text(json.dumps({"process": os.getpid()}), encoding="utf-8")
    assert running(tmp_path / "s") == {os.getpid()}
    jobs.stop = 100
    search(jobs, "s", 1, "s")
    assert len(jobs.begun) == 2
    assert running(tmp_path / "s") == set()


def test_draws_that_cannot_be_brought_back_are_other_ones(
    search: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = Jobs()
    jobs.stop = 2
    search(jobs, "s", 4, "s")
    jobs.stop = 100
    search(jobs, "s", 4, "s", seed=7)
    assert "other ones than those of a search that was never stopped (seed 10)" in capsys.readouterr().out
    assert states(tmp_path, "s") == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert [number for number, _ in jobs.begun] == [0, 1, 2, 2, 3]
    assert jobs.begun[2] == jobs.begun[3], "the one that was stopped comes again"
    assert len({rate for _, rate in jobs.begun}) == 4


def test_a_study_that_another_search_has_used_is_not_gone_on_with(
    search: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = Jobs()
    jobs.stop = 1
    search(jobs, "s", 3, "both")
    search(Jobs(), "other", 3, "both")
    begun = list(jobs.begun)
    with pytest.raises(SystemExit, match="2"):
        search(jobs, "s", 3, "both")
    assert "another search has used it" in capsys.readouterr().err
    assert jobs.begun == begun


def test_a_storage_that_cannot_be_read_ends_the_command(
    composed: DictConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = copy.deepcopy(composed)
    with read_write(config.hydra):
        config.hydra.sweep.dir, config.hydra.sweeper.storage = str(tmp_path), f"sqlite:///{tmp_path}/none/s.db"
    with pytest.raises(SystemExit, match="2"):
        SweepStart().on_multirun_start(config)
    assert "hydra.sweeper.storage: the study cannot be used (" in capsys.readouterr().err
    assert started_sweep() is None


def side_by_side(folder: Path, epochs: str) -> Child:
    """A sweep of jobs, two at a time, whose processes are forks; the command is one too."""

    def command() -> None:
        from joblib.externals.loky.backend.context import set_start_method

        warnings.simplefilter("ignore")
        set_start_method("fork", force=True)
        own = [word for word in overrides_of(folder, "grid") if not word.startswith("trainer.epochs=")]
        words = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"trainer.epochs={epochs}"]
        sys.argv = [str(CONF.parent / "train.py"), "-m", *own, *words]
        with without_pages():
            runpy.run_path(sys.argv[0], run_name="__main__")

    return start(command, folder / "command.log")


def is_there(job: Path, *, ends: bool) -> bool:
    """Whether a job is in the middle of its updates, or has come to its end where it has few."""
    record = job.parent / RECORDS / f"{job.name}.json"
    if ends:
        return record.is_file() and json.loads(record.read_text(encoding="utf-8"))["status"] == "done"
    return (job / "metrics.csv").is_file() and (job / "metrics.csv").stat().st_size > 200


def wait_for(happens: Callable[[], bool], child: Child) -> None:
    latest = time.monotonic() + 120
    while not happens():
        assert time.monotonic() < latest, child.log.read_text(encoding="utf-8")
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("name", "epochs"), [("SIGTERM", [1000, 1001, 1002]), ("SIGINT", [1, 1000]), ("SIGKILL", [1000, 1001, 1002])]
)
def test_jobs_side_by_side_end_with_a_checkpoint_each_and_none_begins(
    name: str, epochs: list[int], tmp_path: Path
) -> None:
    """SIGTERM and SIGKILL come to the command alone, Ctrl-C to all its processes, also one that waits for a job."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    signum, grid = signal.Signals[name], tmp_path / "grid"
    child = side_by_side(tmp_path, ",".join(map(str, epochs)))
    stopped = [job for job in "01" if epochs[int(job)] > 1]
    try:
        wait_for(lambda: all(is_there(grid / job, ends=job not in stopped) for job in "01"), child)
        (os.killpg if name == "SIGINT" else os.kill)(child.pid, signum)
    finally:
        end = child.wait(longest=60)
    assert (end.hung, end.left) == (False, ()), end.said
    assert "Traceback" not in end.said, end.said
    for job in stopped:
        manifest = json.loads((grid / job / "manifest.json").read_text(encoding="utf-8"))
        newest = read_state(max((grid / job / "checkpoints").iterdir()))
        assert (manifest["status"], manifest["updates_done"]) == ("stopped", newest.point.step)
    assert not (grid / "2").exists()
    if name == "SIGKILL":
        assert end.code == -signum
        return
    assert end.code == 128 + signum
    assert f"{name}: jobs at hand finish their update and write a checkpoint ({len(stopped)}), then" in end.said
    assert "The sweep was stopped. To go on with that job and begin those after it: python train.py -m" in end.said
    with (grid / "sweep.csv").open(encoding="utf-8", newline="") as file:
        ends = sorted((row["job"], row["status"], row["reason"]) for row in csv.DictReader(file))
    assert ends[:2] == [(job, "stopped", name) if job in stopped else (job, "done", "") for job in "01"]


def test_a_second_signal_kills_the_jobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A job that does not end by itself; one that had not begun does not begin."""
    (tmp_path / RECORDS).mkdir()
    with subprocess.Popen(["sleep", "60"]) as job:
        record = {"process": job.pid}
        (tmp_path / RECORDS / "0.json").write_text(json.dumps(record), encoding="utf-8")
        end_if_ended(tmp_path)
        (tmp_path / ENDED).write_text(str(int(signal.SIGTERM)), encoding="utf-8")
        with pytest.raises(SystemExit, match="143"):
            end_if_ended(tmp_path)
        assert running(tmp_path) == {job.pid}
        end_jobs(tmp_path, signal.SIGTERM)
        assert job.wait(10) == -signal.SIGKILL
    assert running(tmp_path) == set()
    assert capsys.readouterr().err == "SIGTERM again: the jobs are killed.\n"


def test_a_process_of_another_user_is_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: int, signum: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    (tmp_path / RECORDS).mkdir()
    (tmp_path / RECORDS / "0.json").write_text('{"process": 1}', encoding="utf-8")
    monkeypatch.setattr(os, "kill", refuse)
    end_jobs(tmp_path, signal.SIGTERM)
    assert (tmp_path / ENDED).read_text(encoding="utf-8") == "15"


def test_a_signal_before_the_folder_is_there_ends_the_sweep_too(tmp_path: Path) -> None:
    end_jobs(tmp_path / "new", signal.SIGTERM)
    with pytest.raises(SystemExit, match="143"):
        end_if_ended(tmp_path / "new")
