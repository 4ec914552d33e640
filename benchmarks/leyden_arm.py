"""Leyden as its users start it: `train.py` with settings; losses and times are read from the folder of the run."""

from __future__ import annotations

import csv
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.result import Result


def read_run(folder: Path, started: float) -> Result:
    """What a finished run measured of itself.

    Args:
        folder: of the run.
        started: when its process was started, in seconds since 1970.
    """
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    losses, tokens, speeds = (_column(folder, f"train/{name}") for name in ("loss", "tokens", "tokens_per_second"))
    seconds = manifest["seconds"]
    reference = sum(value for name, value in seconds.items() if "reference" in name)
    of_training = ((manifest["reference_scores"] or {}).get("seconds") or {}).get("train", 0.0)
    return Result(
        arm="leyden",
        losses=losses,
        update_seconds=[count / speed for count, speed in zip(tokens, speeds, strict=True)],
        loop_seconds=seconds["train alone"] + seconds["wait for batches"],
        reference_seconds=of_training,
        start_seconds=datetime.fromisoformat(manifest["first_update"]).timestamp() - started - reference,
        peak_gib=manifest["peak_memory_gib"],
        threads=manifest["threads"],
    )


def _column(folder: Path, name: str) -> list[float]:
    """The values of one number, in the order of the updates."""
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows: list[dict[str, Any]] = [row for row in csv.DictReader(file) if row["name"] == name]
    return [float(row["value"]) for row in sorted(rows, key=lambda row: int(row["step"]))]
