"""Run folders with nothing but settings and predictions, for tests of what a page makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from torch import Tensor

from leyden.problem.base import Problem
from leyden.problem.classification import Classification
from leyden.problem.head_losses import binary_cross_entropy, cross_entropy, squared_error
from leyden.problem.regression import Regression
from leyden.report.prediction_table import PredictionTable
from leyden.report.run_files import RunFiles

Columns = Mapping[str, Sequence[Any]]
SETTINGS: Mapping[str, Any] = {"format": "columns", "prompt_column": "p", "answer_column": "a"}


def run_folder(
    folder: Path,
    columns: Columns,
    before: Columns | None = None,
    *,
    metric: Mapping[str, Any] | None = None,
    **dataset: Any,
) -> RunFiles:
    """The files of a run with these predictions; `prompt_text` stands before the problem's columns."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"dataset": {**SETTINGS, **dataset}, "metric": metric or {"perplexity": {"direction": None}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    pd.DataFrame(columns).to_parquet(folder / "predictions.parquet")
    if before is not None:
        pd.DataFrame(before).to_parquet(folder / "before.parquet")
    return RunFiles.read(folder)


def table_of(run: RunFiles) -> PredictionTable:
    """Its predictions."""
    found = PredictionTable.of(run)
    assert found is not None
    return found


def own(rows: int) -> dict[str, list[Any]]:
    """The user's columns and what the model was shown."""
    prompts = [f"prompt {row}" for row in range(rows)]
    return {"p": prompts, "prompt_text": [f"<|prompt|>{prompt}" for prompt in prompts]}


def classifier(kind: str, names: Sequence[str]) -> Classification:
    """A fitted problem of one kind: `multiclass`, `binary` or `multilabel`."""
    loss = cross_entropy if kind == "multiclass" else binary_cross_entropy
    word = "single_label_classification" if kind == "multiclass" else "multi_label_classification"
    told: dict[str, Any] = {"id2label": dict(enumerate(names)), "problem_type": word}
    return Classification(loss=loss).restored({**told, **({"class_names": list(names)} if kind == "binary" else {})})


def regressor(names: Sequence[str]) -> Regression:
    """A fitted problem with these targets."""
    told = {
        "id2label": dict(enumerate(names)),
        "target_mean": [0.0] * len(names),
        "target_deviation": [1.0] * len(names),
    }
    return Regression(loss=squared_error).restored(told)


def tabulated(problem: Problem, columns: Mapping[str, Tensor]) -> dict[str, Sequence[Any]]:
    """Columns of the table of predictions as the problem itself makes them."""
    rows = len(next(iter(columns.values())))
    return problem.tabulate({"loss": torch.arange(rows, dtype=torch.float64), **columns})
