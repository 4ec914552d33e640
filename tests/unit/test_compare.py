"""`python -m leyden.compare`: which runs there are, what differs, which is best, and where the page goes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.report_copies import change_json, copied, with_metric, with_predictions

from leyden.compare import main
from leyden.report.compared_runs import differing, direction, find_runs
from leyden.report.comparison import write_comparison
from leyden.report.comparison_predictions import Cut, predictions_section
from leyden.report.ranking import compare
from leyden.report.run_files import RunFiles


def page_of(folder: Path, metric: str | None = None) -> str:
    write_comparison([folder], folder / "comparison.html", metric)
    return (folder / "comparison.html").read_text(encoding="utf-8")


def test_it_starts_without_torch_in_about_a_second(tmp_path: Path) -> None:
    heavy = {"torch", "lightning", "transformers", "peft", "plotly"}
    code = f"import sys, leyden.compare; print(sorted(set(sys.modules) & {heavy!r}))"
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    after = os.times()
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert after.children_user - before.children_user < 3, "seconds of computing"


def test_settings_that_differ_are_found_and_names_of_folders_are_none(text_run: Path, tmp_path: Path) -> None:
    copied(text_run, tmp_path / "one", experiment_name="one")
    copied(text_run, tmp_path / "two", experiment_name="two", r="16", learning_rate="0.5")
    (tmp_path / "three").mkdir()
    config = (tmp_path / "one" / "config.yaml").read_text().replace("\noptimizer:\n", "\noptimizer:\n  extra: [1, ä]\n")
    (tmp_path / "three" / "config.yaml").write_text(config)
    runs = find_runs([tmp_path]).runs
    assert [run.name for run in runs] == ["one", "three", "two"]
    found = differing(runs)
    assert list(found) == ["lora.r", "optimizer.learning_rate", "optimizer.extra"]
    assert found["lora.r"] == ["4", "4", "16"]
    assert found["optimizer.extra"] == [None, '[1, "ä"]', None]
    assert [run.status for run in runs] == ["done", "not finished", "done"]


def test_what_is_no_run_is_named_and_left_out(
    text_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied(text_run, tmp_path / "run")
    (tmp_path / "\x1b[2Jempty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.yaml").write_text("a: [", encoding="utf-8")
    (tmp_path / "file.txt").touch()
    (tmp_path / ".hidden").mkdir()
    words = [str(path) for path in sorted(tmp_path.glob("*"))]
    assert main([*words, words[-1]]) == 0, "named twice"
    said = capsys.readouterr()
    assert said.out == f"1 run compared in {tmp_path}/comparison.html\n"
    lines = said.err.splitlines()
    assert lines[0] == "4 folders left out:"
    assert any(r"\x1b[2Jempty: no config.yaml" in line for line in lines)
    assert any("broken: config.yaml cannot be read (" in line for line in lines)
    assert any(line.endswith("file.txt: no folder") for line in lines)
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "4 left out, as they are no runs" in page
    assert main([str(tmp_path / "*")]) == 0, "a pattern that no shell has read; the page of last time is no surprise"
    assert capsys.readouterr().err.splitlines()[0] == "3 folders left out:"


def test_files_of_a_run_that_cannot_be_read_are_named(
    text_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(text_run, tmp_path / "run")
    (run / "results.json").write_text("x", encoding="utf-8")
    assert main([str(run)]) == 0
    assert f"warning: {run}/results.json cannot be read: JSONDecodeError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "No folder is named"),
        (["nowhere/*"], "nowhere/*: there is no such folder"),
        (["empty"], "There is no run to compare (empty: no config.yaml)"),
        (["metrc=loss", "run"], "metrc=loss: there is no such folder, and metrc is no option. Did you mean metric?"),
        (["run", "metric=loss", "metric=auc"], "metric is given twice"),
        (["run", "output="], "output is empty"),
        (["run", "metric=auc"], "metric=auc: no run has it. There are: "),
        (["run", "output=run"], "output='run' is a folder. Name a file, such as output=run/comparison.html"),
        (["run", "output=run/config.yaml"], "is there and is no page of an earlier comparison, so it is left alone"),
        (["run", "output=gone/page.html"], "there is no folder gone"),
    ],
)
def test_a_command_that_cannot_be_done_is_refused(
    words: list[str], said: str, text_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    copied(text_run, tmp_path / "run")
    (tmp_path / "empty").mkdir()
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    assert main(words) == 2
    assert said in capsys.readouterr().err
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before
    assert not list(tmp_path.rglob("*.html"))


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "one"), str(tmp_path / "two"), "x=1"]) == 2
    assert capsys.readouterr().err.splitlines()[0] == "3 config errors:"


def test_the_best_run_stands_first_whichever_way_the_metric_goes(text_run: Path, tmp_path: Path) -> None:
    for name, bleu, loss in (("a", 1.0, 3.0), ("b", 5.0, 4.0), ("c", 2.0, 2.0)):
        with_metric(with_metric(copied(text_run, tmp_path / name), "bleu", bleu), "loss", loss)
    nan = with_metric(copied(text_run, tmp_path / "nan"), "loss", float("nan"))
    change_json(nan / "results.json", lambda results: results["final"].pop("validation/bleu"))
    found = find_runs([tmp_path])
    assert [run.name for run in compare(found).runs] == ["b", "c", "a", "nan"], "bleu: more is better"
    assert [run.name for run in compare(found, "validation/loss").runs] == ["c", "a", "b", "nan"]
    assert direction("preference_accuracy", found.runs) == "max"
    assert direction("of somebody else", found.runs) is None
    page = page_of(tmp_path)
    assert page.count("best: </span>") == len([n for n in compare(found).metrics if direction(n, found.runs)])


def test_no_code_that_a_run_names_is_imported(text_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted.py").write_text("raise SystemExit('planted')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    run = copied(text_run, tmp_path / "runs" / "run")
    config = (run / "config.yaml").read_text(encoding="utf-8")
    changed = config.replace("_target_: leyden.problem.text_metrics", "_target_: planted", 1)
    assert changed != config
    (run / "config.yaml").write_text(changed, encoding="utf-8")
    page = page_of(tmp_path / "runs", "bleu")
    assert "planted" not in sys.modules
    assert "Ordered by bleu" in page


def test_runs_of_different_problems_are_shown_with_what_they_share(
    text_run: Path, preference_run: Path, tmp_path: Path
) -> None:
    copied(text_run, tmp_path / "texts")
    copied(preference_run, tmp_path / "pairs")
    page = page_of(tmp_path)
    assert "These runs are of different problems" in page
    assert "best: </span>" not in page, "a loss of another problem is another number"
    assert "different validation rows" in page
    runs = find_runs([tmp_path]).runs
    assert differing(runs)["problem"] == ["DPO", "CausalLM"]
    assert {"loss", "reward_margin", "bleu"} <= set(compare(find_runs([tmp_path])).metrics)


def test_a_run_that_goes_on_was_stopped_or_has_failed_appears_as_such(text_run: Path, tmp_path: Path) -> None:
    for status in ("running", "stopped", "failed"):
        run = copied(text_run, tmp_path / status)
        change_json(
            run / "progress.json", lambda said, status=status: said.update(status=status, reason=f"why {status}")
        )
        for name in ("results.json", "manifest.json", "predictions.parquet"):
            (run / name).unlink()
    runs = {run.name: run for run in find_runs([tmp_path]).runs}
    latest = RunFiles.read(text_run).series["validation/loss"]["value"].iloc[-1]
    for status, run in runs.items():
        assert (run.status, run.reason) == (status, f"why {status}")
        assert run.metrics["loss"] == latest, "what was logged last"
    page = page_of(tmp_path)
    assert "2 runs did not come to a good end" in page
    assert "1 run had not ended when this page was written" in page
    assert "why stopped" in page
    assert 'id="compare-predictions"' not in page


def test_a_folder_that_cannot_be_read_is_left_out_with_the_reason(
    text_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mine", "theirs"):
        copied(text_run, tmp_path / name)
    read = RunFiles.read

    def refused(folder: Path) -> RunFiles:
        if folder.name == "theirs":
            raise PermissionError(13, "Permission denied")
        return read(folder)

    monkeypatch.setattr(RunFiles, "read", refused)
    found = find_runs([tmp_path])
    assert [run.name for run in found.runs] == ["mine"]
    assert found.left_out == [(tmp_path / "theirs", "it cannot be read (Permission denied)")]


def test_a_run_that_was_gone_on_with_shows_nothing_of_its_earlier_end(text_run: Path, tmp_path: Path) -> None:
    run = copied(text_run, tmp_path / "run")
    faults = {"faults": {"export": ["old fault"]}, "updates_done": 1, "seconds": {"train alone": 4321.0}}
    change_json(run / "manifest.json", lambda said: said.update(status="running", **faults))
    change_json(run / "progress.json", lambda said: said.update(status="running", updates_done=7))
    page = page_of(tmp_path)
    assert "old fault" not in page
    assert "4,321" not in page
    assert "1 run had not ended when this page was written" in page
    row = re.search(r"<tbody>(.*?)</tbody>", page, re.DOTALL)
    assert row
    assert ">7<" in row[1].replace("</bdi>", "<").replace("<bdi>", ">")
    change_json(run / "progress.json", lambda said: said.update(status="failed"))
    change_json(run / "results.json", lambda said: [said[kept].update({"validation/loss": 0.5}) for kept in said])
    (found,) = find_runs([tmp_path]).runs
    assert found.metrics["loss"] == RunFiles.read(run).series["validation/loss"]["value"].iloc[-1]


def test_a_job_is_called_by_its_sweep_and_equal_names_are_told_apart(text_run: Path, tmp_path: Path) -> None:
    for name in ("grid/0", "grid/10", "grid/2", "x/run", "y/run"):
        copied(text_run, tmp_path / name)
    found = find_runs([tmp_path])
    assert [run.name for run in found.runs] == ["grid/0", "grid/2", "grid/10", "x/run", "y/run"]


def read_script(page: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_rows_are_matched_by_their_cells_and_those_without_a_match_are_counted(text_run: Path, tmp_path: Path) -> None:
    """The second run has the rows in another order and lacks two; two rows of equal cells stay two."""
    twice = pd.read_parquet(text_run / "predictions.parquet")
    twice = pd.concat([twice, twice.iloc[[0]]], ignore_index=True)
    with_predictions(copied(text_run, tmp_path / "a"), lambda _: twice)
    with_predictions(copied(text_run, tmp_path / "b"), lambda _: twice.iloc[::-1].iloc[:-2])
    runs = find_runs([tmp_path]).runs
    section = predictions_section(runs, "bleu")
    assert section is not None
    data = read_script(str(section.body), "compare-predictions-data")
    assert data["sizes"] == [len(twice), len(twice) - 2]
    assert data["shared"] == [[len(twice), len(twice) - 2], [len(twice) - 2] * 2]
    first, second = data["runs"]
    common = [(x, y) for x, y in zip(first["cells"], second["cells"], strict=True) if x and y]
    assert len(common) == len(twice) - 2
    assert all(x == y for x, y in common), "the same prediction, wherever it stood"
    assert "Rows are matched by the cells of their tables" in str(section.body)


def test_rows_are_matched_by_the_column_of_names_where_there_is_one(text_run: Path, tmp_path: Path) -> None:
    for name, ids in (("a", "xyz"), ("b", "zyw")):
        run = copied(text_run, tmp_path / name, id_column="key")
        with_predictions(run, lambda table, ids=ids: table.iloc[:3].assign(key=list(ids))[["key", *table.columns]])
    section = predictions_section(find_runs([tmp_path]).runs, "bleu")
    assert section is not None
    data = read_script(str(section.body), "compare-predictions-data")
    assert data["shared"] == [[3, 2], [2, 3]]
    assert {row["name"] for row in data["rows"]} == set("wxyz")


def test_what_is_too_much_for_a_page_is_cut_and_counted(
    text_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leyden.report.comparison_predictions.MOST_ROWS", 4)
    for name in ("a", "b"):
        copied(text_run, tmp_path / name)
    section = predictions_section(find_runs([tmp_path]).runs, "bleu")
    assert section is not None
    assert "This page has 4 of 10 rows" in str(section.body)
    cut = Cut()
    assert cut.text("x" * 100_000).endswith("… (100,000 characters)")
    assert cut.count == 1
