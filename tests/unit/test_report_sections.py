"""What the sections of a run's page say, of runs that were trained and of files written for a case."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from leyden.report import configuration, curves, data, measured, summary
from leyden.report.__main__ import main
from leyden.report.page import number
from leyden.report.report import write_report
from leyden.report.run_files import COLUMNS, RunFiles
from leyden.settings.composition import compose_config
from leyden.settings.read import dump, read
from leyden.settings.read_predict import CONFIG_DIR


def run_of(folder: Path, rows: list[tuple[int, str, float]] = [], **parts: Any) -> RunFiles:  # noqa: B006
    """Files of a run with these numbers in its log."""
    metrics = pd.DataFrame([(step, step * 8, name, value) for step, name, value in rows], columns=list(COLUMNS))
    return RunFiles(folder, metrics=metrics, **parts)


def text_of(body: str) -> str:
    """What is read of it: without elements, one space between words."""
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_the_summary_has_the_numbers_of_the_results(preference_run: Path) -> None:
    run = RunFiles.read(preference_run)
    said = text_of(summary.section(run).body)
    assert said.startswith("Done 12 of 12 updates.")
    results = json.loads((preference_run / "results.json").read_text())
    for one in measured.metrics_of(run):
        key = f"validation/{one.name}"
        assert (one.before, one.final) == (results["before"][key], results["final"][key])
        assert one.best == results["best"][key]
        assert number(one.final) in said
    manifest = json.loads((preference_run / "manifest.json").read_text())
    assert f"{number(manifest['parameters']['trained'])}" in said
    assert f"{number(manifest['peak_memory_gib'], 3)} GiB" in said
    assert number(round(manifest["tokens_per_second"])) in said
    for warning in manifest["warnings"]:
        assert warning.split(" (lines")[0].replace("'", "&#39;") in said
    assert re.fullmatch(r"DPO · [\w-]+ · table\.jsonl", summary.described(run))


@pytest.mark.parametrize(
    ("before", "after", "better", "expected"),
    [
        (2.0, 1.0, "min", "better"), (1.0, 2.0, "min", "worse"), (1.0, 2.0, "max", "better"),
        (1.0, 1.0, "max", "equal"),
        (None, 1.0, "max", ""), (1.0, None, "max", ""), (1.0, 2.0, None, ""), (float("nan"), 1.0, "min", ""),
    ],
)  # fmt: skip
def test_better_and_worse(before: float | None, after: float | None, better: str | None, expected: str) -> None:
    assert measured.verdict(before, after, better) == expected


def test_a_run_that_goes_on_shows_its_last_evaluation_so_far(tmp_path: Path) -> None:
    rows = [(0, "validation/bleu", 1.0), (4, "validation/bleu", 5.0), (8, "validation/bleu", 3.0)]
    progress = {"status": "running", "updates": 20, "updates_done": 8, "metrics": {"bleu": "max"}, "seconds": 61.0,
                "written": "2026-01-01T10:00:00+00:00", "warnings": ["odd <rows>"]}  # fmt: skip
    run = run_of(tmp_path, rows, progress=progress)
    (one,) = measured.metrics_of(run)
    assert (one.before, one.best, one.final, one.at, one.verdict, one.change) == (1.0, 5.0, 3.0, 4, "better", 2.0)
    body = summary.section(run).body
    said = text_of(body)
    assert said.startswith("Running 8 of 20 updates. This page was written ")
    assert "The run said last (2026-01-01 10:00:00 UTC) that it goes on" in said
    assert "last so far" in said
    assert "1 min 1 s so far" in said
    assert "odd &lt;rows&gt;" in said


def test_before_the_first_update_there_is_a_summary_and_no_curve(tmp_path: Path) -> None:
    run = run_of(tmp_path, progress={"status": "running"})
    assert "No update is done yet." in summary.section(run).body
    assert curves.section(RunFiles(tmp_path)) is None
    assert configuration.section(RunFiles(tmp_path)) is None


@pytest.mark.parametrize(("status", "word"), [("failed", "Failed"), ("stopped", "Stopped")])
def test_a_run_that_ended_early_says_why_and_how_it_goes_on(tmp_path: Path, status: str, word: str) -> None:
    run = run_of(tmp_path, progress={"status": status, "reason": "the <b>disk</b>", "updates": 9, "updates_done": 3})
    said = text_of(summary.section(run).body)
    assert said.startswith(f"{word} 3 of 9 updates.")
    assert "the &lt;b&gt;disk&lt;/b&gt;" in said
    assert "There is no checkpoint to go on from." in said
    (tmp_path / "checkpoints" / "step-00000003").mkdir(parents=True)
    assert f"python train.py resume={tmp_path}" in text_of(summary.section(run).body)


def test_a_run_that_goes_on_says_nothing_of_its_earlier_part(tmp_path: Path) -> None:
    """Its manifest and its results are those of the part before."""
    earlier = {"status": "running", "updates": 8, "updates_done": 8, "seconds": {"in all": 60.0}}
    run = run_of(
        tmp_path, progress={"status": "running", "updates": 16, "updates_done": 9, "seconds": 5.0}, manifest=earlier
    )
    said = text_of(summary.section(run).body)
    assert said.startswith("Running 9 of 16 updates.")
    assert "5.0 s so far" in said


@pytest.mark.parametrize("status", ["running", "failed", "killed"])
def test_what_an_earlier_part_came_to_is_not_what_this_one_came_to(tmp_path: Path, status: str) -> None:
    """A run that was done and is gone on with keeps its manifest until its model is there once more."""
    earlier = {
        "status": "running", "seconds": {"in all": 7200.0, "train alone": 3600.0}, "faults": {"export": ["old fault"]},
        "trackers": {"wandb": "old state"},
    }  # fmt: skip
    rows = [(step, "train/loss", 1.0) for step in range(1, 12)]
    said = {"status": "failed" if status == "failed" else "running", "updates": 16, "updates_done": 9, "seconds": 5.0}
    run = run_of(tmp_path, rows, progress=said, manifest=earlier, goes_on=status != "killed")
    shown = text_of(summary.section(run).body)
    assert shown.startswith(f"{status.capitalize()} 11 of 16 updates."), "those that are logged count"
    assert "5.0 s" in shown
    for old in ("2 h", "1 h", "old fault", "old state", "Where the time went"):
        assert old not in shown
    now = text_of(summary.section(run_of(tmp_path, progress=said, manifest={**earlier, "status": said["status"]})).body)
    assert ("Where the time went" in now) == (status == "failed")


def test_a_part_that_failed_shows_what_it_measured_and_not_the_end_of_the_part_before(tmp_path: Path) -> None:
    rows = [(0, "validation/bleu", 1.0), (8, "validation/bleu", 5.0), (12, "validation/bleu", 7.0)]
    results = {"best": {"step": 8}, "final": {"step": 8}}
    said = {"progress": {"status": "failed", "metrics": {"bleu": "max"}}, "results": results}
    (one,) = measured.metrics_of(run_of(tmp_path, rows, manifest={"status": "running"}, **said))
    assert (one.best, one.final, one.at) == (7.0, 7.0, 12)
    (one,) = measured.metrics_of(run_of(tmp_path, rows, manifest={"status": "failed"}, **said))
    assert (one.best, one.final, one.at) == (5.0, 5.0, 8)


@pytest.mark.parametrize(("status", "word"), [("running", "Running"), ("failed", "Failed")])
def test_what_was_planned_for_an_earlier_part_is_not_the_plan_of_this_one(
    tmp_path: Path, status: str, word: str
) -> None:
    """A run that was done and is gone on with for more epochs has not been evaluated again yet."""
    rows = [(step, "train/loss", 1.0) for step in range(1, 9)]
    earlier = {"status": "running", "updates": 8, "updates_done": 8, "tokens_per_second": 4321.0}
    run = run_of(tmp_path, rows, progress={"status": status, "seconds": 5.0}, manifest=earlier, goes_on=True)
    said = text_of(summary.section(run).body)
    assert said.startswith(f"{word} 8 updates done.")
    assert "4,321" not in said


def test_a_label_that_training_lacks_counts_as_none_there() -> None:
    shown = data._balance({"train": {"milk": 3}, "validation": {"milk": 1, "tea": 2}})
    assert "2 labels; in training from 0 to 3 rows." in shown


def test_parts_of_a_page_that_cannot_be_made_are_a_fault_without_a_traceback(
    preference_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(preference_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "model"))
    with monkeypatch.context() as patch:
        patch.setattr(summary, "metrics_of", lambda run: 1 / 0)
        assert main([f"run={folder}"]) == 1
    assert capsys.readouterr().err == "page error:\n  - summary: ZeroDivisionError: division by zero\n"
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
    assert main([f"run={folder}"]) == 2
    assert "the page cannot be written ([Errno 28] No space left)" in capsys.readouterr().err
    assert not list(folder.glob(".*.partial"))


def test_what_was_cut_and_dropped_stands_out_and_what_was_not_is_named(tmp_path: Path) -> None:
    counts = {"train": {"rows": 1200, "answers cut off": 3, "rows of weight 0": 0, "share of tokens to predict": 0.25},
              "validation": {"rows": 7, "answers cut off": 0, "rows of weight 0": 0}}  # fmt: skip
    body = summary.section(run_of(tmp_path, progress={"status": "running", "counts": counts})).body
    said = text_of(body)
    assert "rows 1,200 7" in said
    assert "answers cut off 3 0" in said
    assert body.count('class="number lost"') == 1
    assert "Looked for and not found rows of weight 0." in said


def test_every_logged_number_has_a_curve(preference_run: Path) -> None:
    run = RunFiles.read(preference_run)
    found = curves.section(run)
    assert found is not None
    figures = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', found.body)]
    drawn = [(tuple(trace["x"]), tuple(trace["y"])) for figure in figures for trace in figure["data"]]
    for name, rows in run.series.items():
        if name != "train/tokens":
            x, y, _ = curves.points(rows)
            assert (tuple(x), tuple(y)) in drawn, name
    said = text_of(found.body)
    for _, _, _, meaning in curves.PAIRS:
        assert meaning.replace("'", "&#39;") in said
    assert 'id="smoothing"' in found.body


def test_a_long_curve_becomes_means_and_gaps_stay_gaps(tmp_path: Path) -> None:
    rows = pd.DataFrame({"step": range(1, 4001), "samples": 0, "value": [float(step) for step in range(1, 4001)]})
    x, y, pieces = curves.points(rows, most=1500)
    assert pieces == 3
    assert len(x) == 1334
    assert (x[0], y[0], x[-1]) == (3, 2.0, 4000)
    rows = pd.DataFrame({"step": [1, 2, 3], "samples": 0, "value": [1.0, float("inf"), float("nan")]})
    assert curves.points(rows) == ([1, 2, 3], [1.0, None, None], 1)
    run = run_of(tmp_path, [(1, "train/loss", 1.0), (2, "train/loss", float("nan")), (3, "train/loss", 2.0)])
    section = curves.section(run)
    assert section is not None
    assert "1 values of loss are not finite" in text_of(section.body)


def test_a_drawn_rate_is_not_smoothed(preference_run: Path) -> None:
    found = curves.section(RunFiles.read(preference_run))
    assert found is not None
    figures = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', found.body)]
    smooth = {trace["name"]: trace["meta"]["smooth"] for figure in figures for trace in figure["data"]}
    assert smooth["grad norm"] is True
    assert smooth["learning rate"] is False


def composed(*overrides: str) -> dict[str, Any]:
    config, faults = compose_config("train", overrides, CONFIG_DIR)
    assert not faults
    assert config is not None
    return dump(read(config))


def differing(*overrides: str) -> dict[str, configuration.Difference]:
    found = configuration._defaults(overrides)
    assert isinstance(found, tuple), found
    values = dict(configuration.flat(composed(*overrides)))
    return {one.key: one for one in configuration.differences(values, overrides, *found)}


def test_without_a_word_nothing_differs_from_the_defaults() -> None:
    assert differing() == {}


def test_what_is_typed_and_what_choices_bring_differs_and_nothing_else() -> None:
    found = differing("lora.r=9", "problem=dpo")
    assert (found["lora.r"].value, found["lora.r"].why) == ("9", configuration.TYPED)
    assert found["lora.r"].default == str(composed()["lora"]["r"])
    assert found["problem.loss.beta"].why == configuration.CHOSEN
    assert next(iter(found)) == "lora.r"
    assert not any(key.startswith(("trainer.epochs", "dataset.train_dataframe")) for key in found)
    assert set(differing("problem=dpo")) == set(found) - {"lora.r"}


def test_the_configuration_of_a_run(preference_run: Path) -> None:
    run = RunFiles.read(preference_run)
    found = configuration.section(run)
    assert found is not None
    said = text_of(found.body)
    manifest = json.loads((preference_run / "manifest.json").read_text())
    for key, one in manifest["effective"].items():
        assert key in said
        assert one["reason"].replace("'", "&#39;") in said
    assert manifest["repeat"].replace("'", "&#39;") in said
    for key in configuration.flat(dict(run.config or {})):
        assert f">{key[0]}<" in found.body


def test_changes_on_the_way_are_told(tmp_path: Path, preference_run: Path) -> None:
    resumes = [{"time": "2026-01-01T00:00:00+00:00", "after_update": 4, "changes": {"trainer.epochs": [1, 3]}}]
    run = RunFiles(tmp_path, config=RunFiles.read(preference_run).config, resumes=resumes)
    found = configuration.section(run)
    assert found is not None
    assert "4 trainer.epochs 1 3" in text_of(found.body)
    assert "Gone on with after update 4" in summary.section(run).body


def test_the_command_writes_the_page_anew(
    preference_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(preference_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "model"))
    (copy / "report.html").unlink()
    assert main([f"run={copy}"]) == 0
    assert capsys.readouterr().out == f"{copy / 'report.html'} is written.\n"
    assert (copy / "report.html").read_bytes() == write_report(copy).read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "run is not set"), (["run=nowhere/x"], "run='nowhere/x' is no run folder"), (["x=1"], "There is: run."),
        (["run=a", "run=b"], "run is not set once"), (["run"], "this is no setting"),
    ],
)  # fmt: skip
def test_the_command_refuses(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_the_command_helps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "python -m leyden.report run=outputs/NAME" in capsys.readouterr().out
