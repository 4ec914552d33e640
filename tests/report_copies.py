"""Runs for the tests of comparisons: copies of one real run with other settings and numbers, made without training."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

FILES = ("config.yaml", "manifest.json", "progress.json", "metrics.csv", "results.json", "predictions.parquet")


def copied(run: Path, folder: Path, **settings: str) -> Path:
    """A copy of what a comparison reads of a run, with other values of settings: by the last word of their keys."""
    folder.mkdir(parents=True)
    for name in FILES:
        shutil.copy(run / name, folder / name)
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    for name, value in settings.items():
        config, count = re.subn(rf"^( *{name}): .*$", rf"\1: {value}", config, flags=re.MULTILINE)
        assert count, name
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    return folder


def change_json(path: Path, change: Callable[[Any], None]) -> None:
    """Change what a file holds."""
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def with_metric(folder: Path, name: str, value: float) -> Path:
    """The run with another value of a metric in the end."""
    change_json(folder / "results.json", lambda results: results["final"].update({f"validation/{name}": value}))
    return folder


def with_predictions(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    """The run with other predictions."""
    path = folder / "predictions.parquet"
    change(pd.read_parquet(path)).to_parquet(path, index=False)
    return folder
