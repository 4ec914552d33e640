"""Run folders in every state: whole, begun, cut off, damaged, empty."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from leyden.report.report import write_report
from leyden.report.run_files import RunFiles

PARTS = ("config.yaml", "manifest.json", "progress.json", "metrics.csv", "results.json", "predictions.parquet")


@pytest.fixture
def copied(preference_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(preference_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "model"))


def test_a_finished_run_has_every_part(preference_run: Path) -> None:
    run = RunFiles.read(preference_run)
    assert run.damaged == {}
    for part in (run.config, run.manifest, run.progress, run.metrics, run.results, run.predictions):
        assert part is not None
    assert run.name == "run"
    assert run.setting("trainer.epochs") == 3
    assert run.setting("trainer.nothing", "none") == "none"
    assert run.setting("seed.below", 1) == 1
    assert run.series["train/loss"]["step"].tolist() == list(range(1, 13))
    assert run.series["validation/loss"]["step"].tolist() == [0, 4, 8, 12]
    final = run.series["validation/loss"]["value"].iloc[-1]
    assert final == pytest.approx(run.results["final"]["validation/loss"], abs=0)


def test_an_empty_folder_has_nothing_and_still_a_page(tmp_path: Path) -> None:
    run = RunFiles.read(tmp_path)
    assert (run.config, run.manifest, run.metrics, run.typed, run.resumes, run.damaged) == (
        None,
        None,
        None,
        (),
        (),
        {},
    )
    assert run.series == {}
    assert "Unknown" in write_report(tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PARTS)
def test_a_page_of_a_run_without_one_of_its_files(copied: Path, name: str) -> None:
    (copied / name).unlink()
    assert RunFiles.read(copied).damaged == {}
    assert write_report(copied).stat().st_size > 10_000


@pytest.mark.parametrize("name", [name for name in PARTS if name != "metrics.csv"])
@pytest.mark.parametrize("content", [b"", b"\xff\x00{", b"[1, 2]"])
def test_a_damaged_file_is_named_on_the_page(copied: Path, name: str, content: bytes) -> None:
    (copied / name).write_bytes(content)
    run = RunFiles.read(copied)
    assert list(run.damaged) == [name]
    assert f"{name} cannot be read" in write_report(copied).read_text(encoding="utf-8")


def test_half_a_line_of_metrics_is_left_out(copied: Path) -> None:
    path = copied / "metrics.csv"
    whole = RunFiles.read(copied).metrics
    with path.open("ab") as file:
        file.write(
            b"13,104,train/loss,0.1\n99999999999999999999,1,train/loss,9\n13,104,train/grad_norm,1e\n14,112,tra\xff"
        )
    found = RunFiles.read(copied)
    assert found.damaged == {}
    assert len(found.metrics) == len(whole) + 1
    assert found.series["train/loss"]["value"].iloc[-1] == 0.1


def test_of_a_step_that_was_logged_twice_the_later_number_counts(copied: Path) -> None:
    with (copied / "metrics.csv").open("a") as file:
        file.write("12,96,train/loss,7.0\n")
    series = RunFiles.read(copied).series["train/loss"]
    assert series["value"].iloc[-1] == 7.0
    assert len(series) == 12
