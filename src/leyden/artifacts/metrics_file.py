"""`metrics.csv`: every logged number, one per line, only ever appended to."""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

HEADER = ("step", "samples", "name", "value")


class MetricsFile(Logger):
    """A Lightning logger that appends to a csv file.

    Args:
        path: of the file; made when it is not there.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    @property
    def name(self) -> str:
        """What Lightning calls it."""
        return "metrics"

    @property
    def version(self) -> str:
        """There is one per run."""
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> Path:
        """The file."""
        return self._path

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line per number; `samples` goes into its own column."""
        new = not self._path.exists()
        samples = int(metrics.get("samples", 0))
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(HEADER)
            for name, value in metrics.items():
                if name != "samples":
                    writer.writerow((step, samples, name, repr(float(value))))

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Settings stand in config.yaml, not here."""
