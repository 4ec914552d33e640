"""Sweeps that were stopped: a search whose study is stored goes on with it, jobs side by side end in order."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from tests.effects.small_runs import without_pages
from tests.integration.stopped_runs import assert_same_bits, stop_after
from tests.integration.test_resume import overrides_of

from leyden.settings.schema import Settings

optuna = pytest.importorskip("optuna")

Cli = Callable[..., "CompletedProcess[str]"]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of Optuna 2
RATE = "optimizer.learning_rate"
SPACE = [f"{RATE}=tag(log,interval(1e-4,1e-2))", "lora=lora", "lora.r=4", "schedule=cosine", "schedule.warmup_epochs=0"]
SHORT = ["trainer.epochs=1", "trainer.evaluation_epochs=1"]


@pytest.fixture(autouse=True)
def no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leyden.artifacts.sweep._compared", lambda folder: str(folder))


def search(folder: Path, name: str, trials: int, *more: str, study: str | None = None) -> list[str]:
    """A search over the rate, whose study is stored in a file."""
    stored = [f"hydra.sweeper.storage=sqlite:///{folder / 'studies.db'}", f"hydra.sweeper.n_trials={trials}"]
    named = [f"hydra.sweeper.study_name={study}"] if study else []
    return ["train.py", "sweep=causal_lm", *overrides_of(folder, name, *SHORT, *SPACE, *stored, *named, *more)]


def trials_of(folder: Path, study: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study, f"sqlite:///{folder / 'studies.db'}").trials  # type: ignore[no-any-return]


def states(folder: Path, study: str) -> list[str]:
    return [trial.state.name for trial in trials_of(folder, study)]


def rows(folder: Path) -> list[dict[str, str]]:
    """The table of a sweep by the number of the job, but for what says which sweep it was."""
    with (folder / "sweep.csv").open(encoding="utf-8", newline="") as file:
        found = sorted(csv.DictReader(file), key=lambda row: int(row["job"]))
    return [{key: value for key, value in row.items() if key not in ("folder", "reason")} for row in found]


class Jobs:
    """In place of trainings: jobs that have a number at once, one of which has none, and another is stopped.

    Attributes:
        rates: of the jobs that were begun.
        stop: the job, as they are begun, that a signal comes to.
    """

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.stop: int | None = None

    def __call__(self, settings: Settings, folder: Path) -> float:
        self.rates.append(settings.optimizer.learning_rate)
        if len(self.rates) - 1 == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return float("nan") if folder.name == "1" else abs(settings.optimizer.learning_rate - 1e-3)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Jobs:
    made = Jobs()
    monkeypatch.setattr("leyden.artifacts.job.run_job", made)
    return made


def test_a_search_that_was_stopped_is_the_one_that_never_was(run_here: Cli, tmp_path: Path) -> None:
    """Its trials, its table and the bits of each run; the second of three jobs is stopped in an update."""
    with without_pages():
        assert run_here(search(tmp_path, "whole", 3)).returncode == 0
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, 2, name="1")
            done = run_here(search(tmp_path, "halved", 3))
        assert done.returncode == 143, done.stderr
        assert states(tmp_path, "halved") == ["COMPLETE", "WAITING"]
        done = run_here([*search(tmp_path, "halved", 3), "resume=auto"])
    assert done.returncode == 0, done.stderr
    halved = tmp_path / "halved"
    assert "The run goes on after update 2" in (halved / "1" / "train.log").read_text(encoding="utf-8")
    for job in "012":
        assert_same_bits(tmp_path / "whole" / job, halved / job)
    assert states(tmp_path, "halved") == ["COMPLETE"] * 3
    assert [repr(trial.value) for trial in trials_of(tmp_path, "halved")] == [row["metric"] for row in rows(halved)]
    assert [row["metric"] for row in rows(halved)] == [row["metric"] for row in rows(tmp_path / "whole")]
    assert (halved / "optimization_results.yaml").read_bytes() == (
        tmp_path / "whole" / "optimization_results.yaml"
    ).read_bytes()


def test_what_is_suggested_behind_a_stop_is_what_would_have_been(run_here: Cli, tmp_path: Path, jobs: Jobs) -> None:
    """Past the trials at random, in a study that has trials of another sweep, stopped twice, then asked for more."""
    early = "hydra.sweeper.sampler.n_startup_trials=2"
    for study in ("one", "two"):
        assert run_here(search(tmp_path, f"before-{study}", 2, early, study=study)).returncode == 0
    assert run_here(search(tmp_path, "whole", 8, early, study="one")).returncode == 0
    whole, jobs.rates = jobs.rates[4:], []
    jobs.stop = 3
    assert run_here(search(tmp_path, "halved", 6, early, study="two")).returncode == 143
    assert states(tmp_path, "two") == [*["COMPLETE", "FAIL"] * 2, "COMPLETE", "WAITING"]
    with pytest.MonkeyPatch.context() as patch:  # as if the command was killed: nobody tells the study
        patch.setattr("leyden.artifacts.sweep._released", lambda study: None)
        jobs.stop = 4
        run_here([*search(tmp_path, "halved", 6, early, study="two"), "resume=auto"])
    jobs.stop = None
    done = run_here([*search(tmp_path, "halved", 6, early, study="two"), "resume=auto"])
    assert "goes on: 3 of 6 trials have ended and stay (1 without a number), 1 were stopped" in done.stdout
    done = run_here([*search(tmp_path, "halved", 8, early, study="two"), "resume=auto"])
    assert "goes on: 6 of 8 trials have ended and stay (1 without a number), 0 were stopped" in done.stdout
    assert done.returncode == 0
    assert states(tmp_path, "two") == states(tmp_path, "one") == [*["COMPLETE", "FAIL"] * 2, *["COMPLETE"] * 6]
    assert [trial.params for trial in trials_of(tmp_path, "two")] == [
        trial.params for trial in trials_of(tmp_path, "one")
    ]
    begun = [trial.params[RATE] for trial in trials_of(tmp_path, "two")][2:]
    assert jobs.rates == [*begun[:4], begun[3], *begun[3:]], "no trial that has ended was begun again"
    assert whole == begun
    table = rows(tmp_path / "halved")
    assert [row["job"] for row in table] == list("01234567")
    assert [row["overrides"].split("=")[1] for row in table] == [str(rate) for rate in begun]


def test_a_sampler_that_cannot_be_brought_back_draws_something_else(run_here: Cli, tmp_path: Path, jobs: Jobs) -> None:
    other = "hydra/sweeper/sampler=nsgaii"
    jobs.stop = 2
    assert run_here(search(tmp_path, "s", 4, other)).returncode == 143
    done = run_here([*search(tmp_path, "s", 4, other), "resume=auto"])
    assert "other ones than those of a search that was never stopped (seed 45)" in done.stdout
    assert states(tmp_path, "s") == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert len(set(jobs.rates)) == 4
    assert jobs.rates[2] == jobs.rates[3], "the one that was stopped comes again"


def test_a_study_that_another_search_has_used_is_not_gone_on_with(run_here: Cli, tmp_path: Path, jobs: Jobs) -> None:
    jobs.stop = 1
    assert run_here(search(tmp_path, "s", 3, study="both")).returncode == 143
    run_here(search(tmp_path, "other", 3, study="both"))
    begun = len(jobs.rates)
    done = run_here([*search(tmp_path, "s", 3, study="both"), "resume=auto"])
    assert done.returncode == 2
    assert "another search has used it" in done.stderr
    assert len(jobs.rates) == begun
    done = run_here([*search(tmp_path, "new", 3), "hydra.sweeper.storage=sqlite:////no/such/folder/s.db"])
    assert done.returncode == 2
    assert "hydra.sweeper.storage: the study cannot be used (" in done.stderr
    assert len(jobs.rates) == begun
