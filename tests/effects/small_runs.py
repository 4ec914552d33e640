"""Runs small enough for a test: the tiny backbone on a table of a few rows, composed and run as `train.py` does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd

from leyden.artifacts.job import run_job
from leyden.artifacts.predict import predict_table
from leyden.settings.composition import compose_config
from leyden.settings.read import read
from leyden.settings.read_predict import read_predict
from leyden.settings.schema import Settings
from leyden.training.prepare import Material, prepare

CONF = Path(__file__).resolve().parents[2] / "conf"
Columns = Mapping[str, Sequence[Any]]


def write_table(path: Path, columns: Columns) -> Path:
    """Json lines, so that every cell keeps its type."""
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def settings_of(
    folder: Path, columns: Columns, *overrides: str, same_rows: bool = True, explicit: frozenset[str] = frozenset()
) -> Settings:
    """Settings of a run on these columns; by default all rows are trained on and evaluated."""
    folder.mkdir(parents=True, exist_ok=True)
    table = write_table(folder / "table.jsonl", columns)
    own = ["dataset.validation_strategy=custom", f"dataset.validation_dataframe={table}"] if same_rows else []
    backbone = "backbone=tiny_t5" if "problem=seq2seq" in overrides else "backbone=tiny"
    everything = [
        "dataset=table", backbone, "trainer=cpu", f"dataset.train_dataframe={table}", "dataset.prompt_column=p",
        "dataset.answer_column=a", "trainer.progress=none", "checkpoint.verify=false", "tokenizer.max_length=128",
        "generation.max_length_inference=4", f"output_directory={folder}", "experiment_name=run", *own, *overrides,
    ]  # fmt: skip
    config, faults = compose_config("train", everything, CONF)
    assert not faults, faults
    assert config is not None
    return read(config, explicit)


def material_of(folder: Path, columns: Columns, *overrides: str, same_rows: bool = True) -> Material:
    """Everything before the weights."""
    return prepare(settings_of(folder, columns, *overrides, same_rows=same_rows))


@contextmanager
def without_pages() -> Iterator[None]:
    """Runs whose page nobody looks at: making it would take as long as the rest of so small a run."""
    with patch("leyden.artifacts.reporting.write_report", lambda folder: folder):
        yield


def trained(folder: Path, columns: Columns, *overrides: str) -> Path:
    """The folder of a run that was trained; it has no page."""
    with without_pages():
        run_job(settings_of(folder, columns, *overrides))
    return folder / "run"


def predicted(run: Path, table: Path, *overrides: str) -> pd.DataFrame:
    """What `predict.py` makes of a table with the model of a run."""
    config, faults = compose_config("predict", [f"run={run}", f"dataset.path={table}", *overrides], CONF)
    assert not faults, faults
    assert config is not None
    return predictions(predict_table(*read_predict(config)))


def predictions(folder: Path) -> pd.DataFrame:
    """The table of predictions with its cells as they were written."""
    return pd.read_csv(folder / "predictions.csv")


def results(run: Path) -> dict[str, float]:
    """The numbers of the last evaluation."""
    found: dict[str, float] = json.loads((run / "results.json").read_text(encoding="utf-8"))["final"]
    return found
