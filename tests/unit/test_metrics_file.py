"""`metrics.csv`: every number once, in full precision, appended."""

from __future__ import annotations

import csv
from pathlib import Path

from leyden.artifacts.metrics_file import MetricsFile


def test_numbers_are_appended_in_full_precision(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    first = MetricsFile(path)
    first.log_metrics({"train/loss": 1 / 3, "samples": 4.0}, step=1)
    MetricsFile(path).log_metrics({"validation/loss": float("nan"), "samples": 8.0}, step=2)
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["step", "samples", "name", "value"],
        ["1", "4", "train/loss", repr(1 / 3)],
        ["2", "8", "validation/loss", "nan"],
    ]
