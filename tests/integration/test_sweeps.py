"""Sweeps: what each job leaves, the table of all, the exit code, the searches, the share of the cores."""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf
from tests.effects.small_runs import write_table

from leyden.artifacts import job
from leyden.artifacts.sweep import JobRecord, ranked, varied
from leyden.problem.metrics import direction_of
from leyden.report.compared_runs import differing, find_runs
from leyden.settings import sweeps
from leyden.settings.command import Entry, check_command
from leyden.settings.composition import compose_config, search_space
from leyden.settings.errors import ConfigError, ModelError
from leyden.settings.overrides import choices_of, read_overrides
from leyden.settings.read import read
from leyden.settings.schema import Settings
from leyden.training.problems import dotted

Cli = Callable[..., "CompletedProcess[str]"]
CONF = Path(__file__).resolve().parents[2] / "conf"
TRAIN = Entry("train", CONF, Settings, read)
SMALL = ["backbone=tiny", "generation.max_length_inference=4", "trainer.progress=none", "checkpoint.verify=false"]
TINY = [*SMALL, "dataset.data_sample=0.05"]
SEARCHES = choices_of([CONF], "sweep")
TRIALS = 6  # in the seeded order of both searches some are refused and some are not
OPTUNA = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of the sweeper's Optuna 2


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_failed_job_stops_no_other_and_all_are_listed(
    run_here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One fault of the program, one of the user, two good jobs; the best stands first, the failed ones last."""
    fit = job.fit

    def sometimes(settings: Settings, *rest: object, **more: object) -> object:
        assert settings.lora is not None
        if settings.lora.r == 3:
            raise RuntimeError("boom")
        if settings.lora.r == 4:
            raise ModelError("these weights are odd")
        return fit(settings, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(job, "fit", sometimes)
    data = write_table(tmp_path / "rows.jsonl", {"p": [f"q{n}" for n in range(6)], "a": [f"a{n}" for n in range(6)]})
    own = ["dataset=table", f"dataset.train_dataframe={data}", "dataset.validation_strategy=custom",
           f"dataset.validation_dataframe={data}", "dataset.prompt_column=p", "dataset.answer_column=a"]  # fmt: skip
    sweep = ["-m", *SMALL, *own, "experiment_name=grid", "lora.r=2,3,4", "optimizer.learning_rate=1e-5,1e-2"]
    done = run_here(["train.py", *sweep], cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("RuntimeError: boom") == 2
    assert done.stderr.count("these weights are odd") == 2
    rows = table(tmp_path / "outputs" / "grid")
    assert [row["status"] for row in rows] == ["done"] * 2 + ["crashed"] * 2 + ["failed"] * 2
    assert [row["job"] for row in rows] == ["1", "0", "2", "3", "4", "5"], "the higher rate is better on rows it saw"
    assert rows[0]["overrides"] == "lora.r=2 optimizer.learning_rate=0.01"
    assert [row["reason"] for row in rows[2:]] == ["RuntimeError: boom"] * 2 + ["these weights are odd"] * 2
    for row in rows[:2]:
        final = json.loads((tmp_path / row["folder"] / "results.json").read_text())["final"]
        assert {name: float(row[name]) for name in final} == final
        assert float(row["metric"]) == final["validation/perplexity"]
    assert "2 of 6 jobs are done" in done.stdout
    assert "Best: lora.r=2 optimizer.learning_rate=0.01" in done.stdout
    assert done.stdout.index("RuntimeError: boom") > done.stdout.index("metric"), "the printed table says why"
    assert sorted(path.name for path in (tmp_path / "outputs" / "grid").iterdir()) == [
        "0", "1", "2", "3", "4", "5", "comparison.html", "multirun.yaml", "sweep.csv",
    ]  # fmt: skip
    page = tmp_path / "outputs" / "grid" / "comparison.html"
    assert f"All jobs side by side: {page}" in done.stdout
    found = find_runs([page.parent])
    crashed, failed = ("crashed", "RuntimeError: boom"), ("failed", "these weights are odd")
    ends = [("done", "")] * 2 + [crashed] * 2 + [failed] * 2
    assert [(run.name, run.status, run.reason) for run in found.runs] == [
        (f"grid/{number}", *end) for number, end in enumerate(ends)
    ]
    assert list(differing(found.runs)) == ["lora.r", "optimizer.learning_rate"]
    text = page.read_text(encoding="utf-8")
    assert text.count("RuntimeError: boom") == text.count("these weights are odd") == 2
    assert re.search(r"best: </span><bdi>[\d.]+</bdi>", text)
    assert 'href="1/report.html"' in text


def test_faults_of_the_user_alone_are_code_2(run_here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*values: object) -> float:
        raise ModelError("these weights are odd")

    monkeypatch.setattr(job, "run_job", refuse)
    done = run_here(["train.py", "-m", *TINY, "experiment_name=grid", "lora.r=2,3"], cwd=tmp_path)
    assert done.returncode == 2
    assert [row["status"] for row in table(tmp_path / "outputs" / "grid")] == ["failed"] * 2
    page = (tmp_path / "outputs" / "grid" / "comparison.html").read_text(encoding="utf-8")
    assert "lora.r=2: these weights are odd" in page, "there is not even a folder of that job"


def test_a_page_that_cannot_be_written_ends_no_sweep(
    run_here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outputs" / "grid" / "comparison.html").mkdir(parents=True)
    monkeypatch.setattr(job, "run_job", lambda *values: 0.5)
    done = run_here(["train.py", "-m", *TINY, "experiment_name=grid", "lora.r=2,3"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("warning: ") == 1
    assert "comparison.html could not be written (IsADirectoryError" in done.stdout
    assert [row["status"] for row in table(tmp_path / "outputs" / "grid")] == ["done"] * 2


@pytest.mark.parametrize("value", ["lora.rank=4,8", "lora.r=4,0", "lora=dora,door"])
def test_a_sweep_over_what_does_not_exist_is_one_error_before_any_job(
    value: str, run_here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "run_job", lambda *values: pytest.fail("a job has started"))
    done = run_here(["train.py", "-m", *TINY, value], cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 2, done.stderr
    assert not list(tmp_path.iterdir())


def test_a_search_over_what_does_not_exist_is_one_error_before_any_job(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    (tmp_path / "sweep").mkdir()
    text = "# @package _global_\ndefaults: [_optuna]\nhydra: {sweeper: {params: {lora.rank: 'choice(4, 8)'}}}\n"
    (tmp_path / "sweep" / "mine.yaml").write_text(text, encoding="utf-8")
    arguments = get_args_parser().parse_args(["-m", "--config-dir", str(tmp_path), "sweep=mine", "backbone=tiny"])
    with pytest.raises(ConfigError) as error:
        check_command(arguments, TRAIN)
    assert error.value.faults == ("lora.rank is not a setting. Did you mean lora.r?",)


def losses(settings: Settings, *rest: object) -> float:
    """Instead of a training: best at a rate of 1e-4, undefined with cosine, refused with a rank of 16 or above 1e-3."""
    assert settings.lora is not None
    if settings.lora.r == 16 or settings.optimizer.learning_rate > 1e-3:
        raise ModelError("too large")
    if "cosine" in settings.schedule.target:
        return math.nan
    return abs(math.log10(settings.optimizer.learning_rate) + 4)


def search(run_here: Cli, folder: Path, *overrides: str) -> tuple[SimpleNamespace, list[dict[str, str]]]:
    own = ["backbone=tiny", "experiment_name=s", "checkpoint.verify=false"]
    done = run_here(["train.py", *overrides, *own], cwd=folder)
    best = yaml.safe_load((folder / "outputs" / "s" / "optimization_results.yaml").read_text())
    return SimpleNamespace(done=done, best=best), table(folder / "outputs" / "s")


@OPTUNA
@pytest.mark.parametrize(("kind", "sign"), [("regression", 1), ("classification", -1)])
def test_a_search_goes_in_the_direction_of_the_metric_and_is_seeded(
    kind: str, sign: int, run_here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sweep=NAME` is one word: it needs no -m. Twice the same jobs; a job without a number stops nothing."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    monkeypatch.setattr(job, "run_job", losses)
    found = []
    for name in ("one", "two") if sign == 1 else ("one",):
        (tmp_path / name).mkdir()
        made, rows = search(run_here, tmp_path / name, f"sweep={kind}", f"hydra.sweeper.n_trials={TRIALS}")
        assert made.done.returncode == 2, "some were refused"
        assert {row["status"] for row in rows} == {"done", "failed"}
        assert len(rows) == TRIALS
        found.append((made.best, [(row["overrides"], row["metric"]) for row in rows]))
        values = [sign * float(row["metric"]) for row in rows if row["metric"]]
        assert values == sorted(values)
        assert made.best["best_value"] == float(rows[0]["metric"])
        assert f"optimizer.learning_rate={made.best['best_params']['optimizer.learning_rate']}" in rows[0]["overrides"]
        assert f"Best: {rows[0]['overrides']}" in made.done.stdout
    assert found[0] == found[-1]


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_fits_its_problem(name: str) -> None:
    """There is one per problem type; each value of it alone makes a run that starts."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    assert sorted(choices_of([CONF], "problem")) == SEARCHES
    backbone = "tiny_t5" if name == "seq2seq" else "tiny"
    space = search_space("train", [f"sweep={name}", f"backbone={backbone}"], CONF)
    overrides, faults = read_overrides(space)
    assert not faults
    assert len(overrides) >= 4
    assert all(override.is_sweep_override() for override in overrides)
    check_command(get_args_parser().parse_args(["-m", f"sweep={name}", f"backbone={backbone}"]), TRAIN)
    config, _ = compose_config("train", [f"sweep={name}"], CONF)
    assert config is not None
    assert name in str(config.problem._target_).lower().replace("causallm", "causal_lm")


def test_the_direction_of_a_metric_is_known_without_its_code() -> None:
    names = choices_of([CONF], "metric")
    config, _ = compose_config("train", [f"metric=[{','.join(names)}]"], CONF)
    assert config is not None
    assert list(config.metric) == names
    for name, metric in config.metric.items():
        expected = metric.get("direction") or direction_of(dotted(metric._target_, "metric"))
        assert sweeps.metric_direction(OmegaConf.create({name: metric})) == expected, name


@pytest.mark.parametrize(
    ("launcher", "overrides", "expected"),
    [
        ({"_target_": "basic"}, ["lora.r=1,2,3"], 1),
        ({"_target_": "joblib", "n_jobs": -1}, ["lora.r=1,2,3", "seed=1"], 3),
        ({"_target_": "joblib", "n_jobs": 2}, ["lora.r=1,2,3", "schedule=cosine,linear"], 2),
        ({"_target_": "x.LocalLauncher"}, ["lora.r=1,2,3", "schedule=cosine,linear"], 6),
    ],
)
def test_parallel_jobs_share_the_cores(
    launcher: dict[str, object], overrides: list[str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "available_cores", lambda: 8)
    monkeypatch.delenv(sweeps.THREADS, raising=False)
    monkeypatch.setenv(sweeps.SHARE, "")
    hydra = {"launcher": launcher, "sweeper": {}, "overrides": {"task": overrides}, "sweep": {"dir": str(tmp_path)}}
    config = OmegaConf.create({"hydra": hydra})
    assert sweeps.parallel_jobs(config.hydra) == expected
    sweeps.SweepStart().on_multirun_start(config)
    assert sweeps.started_sweep() == (tmp_path, None)
    assert os.environ.get(sweeps.THREADS) == (None if expected == 1 else str(8 // expected))
    monkeypatch.delenv(sweeps.THREADS, raising=False)


class ForkedJob:
    """A process of submitit's that is forked from this one: it loads and does a job as the one that is started would.

    Args:
        folder: where the job is.
        command: that would be started.
    """

    def __init__(self, folder: Path, command: str, **options: object) -> None:  # noqa: ARG002
        assert command.endswith(f" -m submitit.core._submit {folder}"), "submitit starts its jobs in another way"
        self.process = get_context("fork").Process(target=self._work, args=(folder,))
        self.process.start()
        self.pid = self.process.pid

    def _work(self, folder: Path) -> None:
        numbers = {f"SUBMITIT_LOCAL_{name}": "0" for name in ("NODEID", "LOCALID", "GLOBALID")}
        os.environ |= {**numbers, "SUBMITIT_LOCAL_JOB_ID": str(os.getpid()), "SUBMITIT_EXECUTOR": "local"}
        from submitit.core.submission import process_job

        process_job(folder)

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.process.exitcode


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib hydra.launcher.n_jobs=2", "submitit_local"])
def test_jobs_in_processes_of_their_own_are_in_the_table_too(
    launcher: str, run_cli: Cli, run_here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at a time; one table has no rows. What the jobs say comes back over files.

    Those of joblib are processes that are started; those of submitit are forked.
    """
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition(' ')[0].removesuffix('_local')}_launcher")
    run = run_cli
    if launcher == "submitit_local":
        monkeypatch.setattr("submitit.local.local.start_controller", ForkedJob)
        run = run_here
    (tmp_path / "good.csv").write_text("p,a\n" + "".join(f"q{n},a{n}\n" for n in range(8)), encoding="utf-8")
    (tmp_path / "empty.csv").write_text("p,a\n", encoding="utf-8")
    own = ["backbone=tiny", "dataset=table", "dataset.prompt_column=p", "dataset.answer_column=a", "experiment_name=s",
           "dataset.train_dataframe=empty.csv,good.csv", "generation.max_length_inference=4",
           "checkpoint.verify=false"]  # fmt: skip
    done = run(["train.py", "-m", *own, *f"hydra/launcher={launcher}".split()], cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    rows = table(tmp_path / "outputs" / "s")
    assert [(row["job"], row["status"]) for row in rows] == [("1", "done"), ("0", "failed")]
    assert "empty.csv has no rows" in rows[1]["reason"]
    manifest = json.loads((tmp_path / rows[0]["folder"] / "manifest.json").read_text())
    assert manifest["threads"] == 1
    assert manifest["effective"]["threads"]["reason"] == "OMP_NUM_THREADS=1"


def test_jobs_without_a_number_stand_behind_those_with_one() -> None:
    ends = [("failed", None), ("done", None), ("done", 0.5), ("done", 0.7), ("stopped", None)]
    made = [JobRecord(n, [f"a={n}", "s=1"], str(n), "min", *end) for n, end in enumerate(ends)]
    assert [record.number for record in ranked(made, "max")] == [3, 2, 1, 0, 4]
    assert [record.number for record in ranked(made, "min")] == [2, 3, 1, 0, 4]
    assert varied(made) == [[f"a={n}"] for n in range(5)]
    assert varied(made[:1]) == [["a=0", "s=1"]]


def test_a_sweep_goes_where_a_single_run_would_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "runs" / "grid" / "0").mkdir(parents=True)
    (tmp_path / "runs" / "grid" / "0" / "config.yaml").touch()
    where = ["output_directory='~/runs'", "experiment_name=grid"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose("train", where, return_hydra_config=True).hydra.sweep.dir == str(tmp_path / "runs" / "grid")
    with pytest.raises(ConfigError, match="holds the runs of a sweep already"):
        check_command(get_args_parser().parse_args(["-m", *TINY, *where, "lora.r=2,3"]), TRAIN)


def test_a_sweep_may_be_asked_for_between_settings() -> None:
    typed = ["backbone=tiny", "-m", "lora.r=4,8"]
    parsed = get_args_parser().parse_args(sweeps.flag_first(typed))
    assert (parsed.multirun, parsed.overrides) == (True, ["backbone=tiny", "lora.r=4,8"])
    assert sweeps.flag_first(["lora.r=4", "sweep=dpo"]) == ["-m", "lora.r=4", "sweep=dpo"]
    assert sweeps.flag_first(["lora.r=4", "sweep=null"]) == ["lora.r=4", "sweep=null"]


def test_a_search_without_jobs_is_refused() -> None:
    typed = ["-m", "sweep=dpo", "backbone=tiny", "hydra.sweeper.n_trials=0", "hydra.sweeper.n_jobs=-1"]
    with pytest.raises(ConfigError) as caught:
        check_command(get_args_parser().parse_args(typed), TRAIN)
    assert [fault.split()[0] for fault in caught.value.faults] == typed[3:]
