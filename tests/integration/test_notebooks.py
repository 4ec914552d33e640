"""Notebooks: clean as they are stored, and running from the first cell to the last on the tiny backbone."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").rglob("*.ipynb"))
TINY = (
    '"backbone=tiny", "dataset.data_sample=0.05", "tokenizer.max_length=256", "generation.max_length_inference=4", '
    '"trainer.progress=none", "checkpoint.verify=false",'
)


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


def test_first_fine_tuning_runs(
    tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = project_root / "notebooks" / "first_fine_tuning.ipynb"
    changes = {
        'OUTPUTS = ROOT / "outputs"': f"OUTPUTS = Path({str(tmp_path)!r})",
        'f"backbone={BACKBONE}",': TINY,
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
    assert list(shown["results"].columns) == ["before", "final"]
    assert isinstance(shown["metrics"], pd.DataFrame)
    assert len(shown["metrics"]) > 1
    assert len(shown["predictions"]) == 5
    assert names["prompt"]["input_ids"].shape[1] > 10
    assert str(tmp_path / "first") in capsys.readouterr().out
