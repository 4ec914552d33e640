"""Notebooks: clean as they are stored, and running from the first cell to the last on the tiny backbone."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

RunNotebook = Callable[..., tuple[dict[str, Any], dict[str, Any]]]

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").rglob("*.ipynb"))
TINY = (
    '"backbone=tiny", "dataset.data_sample=0.05", "tokenizer.max_length=256", "generation.max_length_inference=4", '
    '"trainer.progress=none", "checkpoint.verify=false",'
)
FEW_PAIRS = TINY.replace("data_sample=0.05", "data_sample=0.1") + '"dataset.data_sample_choice=[train,validation]",'


def cells_of(notebook: Path) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return cells


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_clean(notebook: Path) -> None:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert set(content["metadata"]) == {"kernelspec", "language_info"}
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    for cell in content["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


def run_cell(source: str, names: dict[str, Any], title: str) -> object:
    """Run a cell as a kernel does; the value of a last expression is what it would show."""
    tree = ast.parse(source, title)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, title, "exec"), names)
    return eval(compile(ast.Expression(last.value), title, "eval"), names) if last is not None else None


def test_a_cell_is_run_as_in_a_kernel() -> None:
    names: dict[str, Any] = {}
    assert run_cell("a = 1\na + 1", names, "cell") == 2
    assert run_cell("b = a", names, "cell") is None
    assert names["b"] == 1
    with pytest.raises(NameError):
        run_cell("missing", names, "cell")


@pytest.fixture
def run_notebook(tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch) -> RunNotebook:
    """Run the cells of a notebook on the tiny backbone, its runs in a new folder; gives its names and what it shows."""

    def run(name: str, tiny: str = TINY) -> tuple[dict[str, Any], dict[str, Any]]:
        notebook = project_root / "notebooks" / f"{name}.ipynb"
        changes = {
            'OUTPUTS = ROOT / "outputs"': f"OUTPUTS = Path({str(tmp_path)!r})",
            'f"backbone={BACKBONE}",': tiny,
        }
        monkeypatch.chdir(notebook.parent)
        names: dict[str, Any] = {}
        shown: dict[str, Any] = {}
        for cell in cells_of(notebook):
            if cell["cell_type"] != "code":
                continue
            source = "".join(cell["source"])
            for old in [old for old in changes if old in source]:
                source = source.replace(old, changes.pop(old))
            shown[cell["id"]] = run_cell(source, names, cell["id"])
        assert not changes, f"the notebook no longer holds {list(changes)}"
        return names, shown

    return run


def test_every_notebook_is_run_by_a_test() -> None:
    run = set(re.findall(r'run_notebook\("(\w+)"', Path(__file__).read_text(encoding="utf-8")))
    assert run == {notebook.stem for notebook in NOTEBOOKS}


def test_first_fine_tuning_runs(run_notebook: RunNotebook, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names, shown = run_notebook("first_fine_tuning")
    assert list(shown["results"].columns) == ["before", "final"]
    assert isinstance(shown["metrics"], pd.DataFrame)
    assert len(shown["metrics"]) > 1
    assert len(shown["predictions"]) == 5
    assert names["prompt"]["input_ids"].shape[1] > 10
    assert str(tmp_path / "first") in capsys.readouterr().out


def test_preference_tuning_runs_and_what_it_says_of_the_start_is_so(run_notebook: RunNotebook) -> None:
    names, shown = run_notebook("preference_tuning", FEW_PAIRS)
    before = shown["numbers"]["before"]
    assert before["validation/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert before["validation/preference_accuracy"] == 0
    assert before["validation/reward_margin"] == 0
    assert list(shown["curves"].columns) == [*names["COMMON"], "chosen_logp", "rejected_logp"]
    assert len(shown["evaluations"]) == 5, "before the training, and after each quarter"
    gaps = shown["gap"]
    assert list(gaps.columns.get_level_values(0).unique()) == ["pairs", "pairs-too-long"]
    ends = gaps["pairs-too-long"]
    assert ends.loc["reward_margin", "train"] > ends.loc["reward_margin", "before"] == 0
    assert not shown["overfit"].isna().to_numpy().any()
    assert shown["rows"]["reward_margin"].is_monotonic_increasing


def test_your_own_table_runs(run_notebook: RunNotebook, capsys: pytest.CaptureFixture[str]) -> None:
    names, shown = run_notebook("your_own_table")
    assert shown["look"]["role"].tolist() == ["prompt", "answer"]
    tokens = shown["tokens"].T
    learned = tokens.loc[tokens["marks"].str.contains("t"), "part"]
    assert set(learned) == {"answer"}, "as the notebook says of the marks"
    assert list(shown["train"].columns) == ["before", "final"]
    assert 0 < len(shown["predictions"]) < len(names["ROWS"])
    assert shown["predictions"]["loss"].is_monotonic_decreasing
    assert shown["predict"]["question"].tolist() == ["My peppers do not turn red.", "When do I sow radishes?"]
    assert shown["prompt"] is None
    assert capsys.readouterr().out.endswith("\n")
