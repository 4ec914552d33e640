"""The page of a run while it trains: when it is written, what it says then, and that it can do no harm."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.effects.small_runs import settings_of
from tests.integration.stopped_runs import run, stop_after, stopped

from leyden.artifacts import preparation, reporting
from leyden.artifacts.job import run_job
from leyden.artifacts.reporting import ended_without_a_word
from leyden.report import configuration, report, summary
from leyden.report.page import Section
from leyden.report.report import SectionError, write_report
from leyden.report.run_files import PROGRESS, RunFiles
from leyden.settings.errors import MetricError, TrainingError
from leyden.training.checkpoints import Checkpoints

COLUMNS = {"p": [f"question {row}" for row in range(8)], "a": [f"answer {row}" for row in range(8)]}
WORDS = ["trainer.epochs=2", "trainer.evaluation_epochs=1"]  # eight updates, three evaluations


def overrides(folder: Path, *more: str) -> list[str]:
    settings_of(folder, COLUMNS)  # writes the table
    table = folder / "table.jsonl"
    return [
        "dataset=table", "backbone=tiny", "trainer=cpu", f"dataset.train_dataframe={table}", "dataset.prompt_column=p",
        "dataset.answer_column=a", "trainer.progress=none", "checkpoint.verify=false", "tokenizer.max_length=128",
        "dataset.validation_strategy=custom", f"dataset.validation_dataframe={table}", f"output_directory={folder}",
        "experiment_name=run", *WORDS, *more,
    ]  # fmt: skip


def progress(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    return found


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int | None, bool]]]:
    """Of each page that is written: what the run says of itself then, after which update, and whether curves are in."""
    found: list[tuple[str, int | None, bool]] = []

    def written(folder: Path) -> Path:
        path = write_report(folder)
        said = progress(folder)
        found.append((said["status"], said.get("updates_done"), 'id="curves"' in path.read_text(encoding="utf-8")))
        return path

    monkeypatch.setattr(reporting, "write_report", written)
    monkeypatch.setattr(reporting, "SHARE", math.inf)  # so short a run has time for the first and the last alone
    return found


def test_pages_take_their_share_of_the_time_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one is free, the second says what one costs; those that come too soon are passed over, but the last."""
    monkeypatch.setattr(reporting, "SHARE", 1e-9)
    run_job(settings_of(tmp_path, COLUMNS, *WORDS))
    said = manifest(tmp_path / "run")["report"]
    assert (said["written"], said["passed_over"]) == (3, 2)
    assert "8 of 8 updates" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_the_page_is_there_from_the_start_and_follows_the_run(
    tmp_path: Path, pages: list[tuple[str, int | None, bool]]
) -> None:
    run_job(settings_of(tmp_path, COLUMNS, *WORDS))
    evaluated = [("running", 0, True), ("running", 4, True), ("running", 8, True)]
    assert pages == [("running", None, False), *evaluated, ("done", 8, True)]
    said = manifest(tmp_path / "run")["report"]
    assert (said["written"], said["fault"]) == (5, None)
    assert 0 < said["seconds"] < manifest(tmp_path / "run")["seconds"]["in all"]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert page.count("8 of 8 updates") == 1
    assert manifest(tmp_path / "run")["status"] == progress(tmp_path / "run")["status"] == "done"


def test_a_stopped_run_says_so_and_a_resume_goes_on_with_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: list[tuple[str, int | None, bool]]
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        stopped(*overrides(tmp_path), pages=True)
    assert pages[-1][0] == "stopped"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Ended by" in page
    assert "signal 15" in page
    assert manifest(folder)["report"]["fault"] is None
    pages.clear()
    run(f"resume={folder}", pages=True)
    assert pages[0] == ("running", None, True)  # the curves of before are there at once
    assert pages[-1] == ("done", 8, True)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Gone on with after update 6" in page
    assert "Ended by" not in page


def test_a_run_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: list[tuple[str, int | None, bool]]
) -> None:
    def break_down(self: Checkpoints, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == 6:
            raise RuntimeError("the <machine> broke down")

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", break_down)
    with pytest.raises(RuntimeError, match="broke down"):
        run_job(settings_of(tmp_path, COLUMNS, *WORDS))
    assert [status for status, *_ in pages] == ["running", "running", "running", "failed"]
    said = progress(tmp_path / "run")
    assert (said["status"], said["reason"]) == ("failed", "RuntimeError: the <machine> broke down")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "the &lt;machine&gt; broke down" in page
    assert f"python train.py resume={tmp_path / 'run'}" in page


def test_a_run_that_ends_with_faults_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = {"export": [], "metrics": ["validation/bleu is NaN in 2 evaluations"]}
    monkeypatch.setattr("leyden.artifacts.job.faults_of", lambda *_: faults)
    with pytest.raises(MetricError):
        run_job(settings_of(tmp_path, COLUMNS, "trainer.epochs=1"))
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Failed" in page
    assert "validation/bleu is NaN in 2 evaluations" in page


def test_a_fault_of_the_page_is_one_warning_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def broken(folder: Path) -> Path:
        asked.append(folder)
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(reporting, "write_report", broken)
    run_job(settings_of(tmp_path, COLUMNS, *WORDS))
    assert len(asked) == 5  # it is tried again each time: what was in the way may be gone
    sentence = "report could not be written (ZeroDivisionError: planted); the run goes on without it."
    assert (tmp_path / "run" / "train.log").read_text(encoding="utf-8").count(sentence) == 1
    said = manifest(tmp_path / "run")
    assert said["status"] == "done"
    assert said["report"]["written"] == 0
    assert "ZeroDivisionError: planted" in said["report"]["fault"]
    assert not (tmp_path / "run" / "report.html").exists()


def test_data_that_cannot_be_described_end_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> dict[str, Any]:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(preparation, "describe_data", broken)
    run_job(settings_of(tmp_path, COLUMNS, *WORDS))
    assert manifest(tmp_path / "run")["status"] == "done"
    assert "data.json could not be written (ZeroDivisionError: planted)" in (tmp_path / "run/train.log").read_text()
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_section_that_fails_is_named_and_the_others_are_there(
    preference_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run: RunFiles) -> Section:
        raise ZeroDivisionError("<planted>")

    broken.__module__ = "leyden.report.curves"
    folder = shutil.copytree(preference_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "model"))
    monkeypatch.setattr(report, "SECTIONS", [summary.section, broken, configuration.section])
    with pytest.raises(SectionError, match="curves: ZeroDivisionError: <planted>"):
        write_report(folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "This part could not be made (ZeroDivisionError: &lt;planted&gt;)" in page
    assert "12 of 12 updates" in page
    assert "What differs from the defaults" in page


def test_processes_that_end_without_a_word_leave_no_page_that_says_running(
    preference_run: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(preference_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "model"))
    said = {**progress(folder), "status": "running"}
    (folder / PROGRESS).write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(TrainingError), ended_without_a_word(folder):
        raise TrainingError("The worker processes ended with code -9.")
    assert progress(folder)["status"] == "failed"
    assert "ended with code -9" in (folder / "report.html").read_text(encoding="utf-8")
    (folder / PROGRESS).write_text("[", encoding="utf-8")
    with pytest.raises(TrainingError, match="once more"), ended_without_a_word(folder):
        raise TrainingError("once more")


def test_the_memory_of_each_update_is_logged(preference_run: Path) -> None:
    memory = RunFiles.read(preference_run).series["train/peak_memory_gib"]
    assert memory["step"].tolist() == list(range(1, 13))
    assert memory["value"].is_monotonic_increasing
    assert memory["value"].iloc[0] > 0.1
