"""What a run folder holds, read for a page: every file may be missing, cut off or damaged."""

from __future__ import annotations

import csv
import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from leyden.settings.resuming import CONFIG, typed_in
from leyden.settings.run_lock import is_written

Json = Mapping[str, Any]
PROGRESS = "progress.json"  # how far a run has come, and how it has ended
COLUMNS = ("step", "samples", "name", "value")  # of metrics.csv
MOST = 2**63  # updates, and samples


@dataclass(frozen=True)
class RunFiles:
    """The files of one run; None, or empty, where there is none that can be read.

    Attributes:
        folder: of the run.
        config: its settings, as plain containers.
        typed: the overrides of its command line.
        manifest: what it was, written once its model is there or it was stopped.
        progress: how far it came and how it ended, written from its start on; see `leyden.report.progress`.
        metrics: every logged number: `step`, `samples`, `name`, `value`.
        results: metrics before training, at their best and in the end.
        data: what the gates before training saw of the tables.
        predictions: one row per validation row, of the saved model.
        before: columns of the same rows, before training.
        evaluation: as predictions, of the last evaluation, until the run has ended.
        resumes: when the run was gone on with, and what changed then.
        damaged: files that are there and cannot be read, with the reason.
        goes_on: whether a process writes into the folder, as its lock says; None: that cannot be told.
    """

    folder: Path
    config: Json | None = None
    typed: Sequence[str] = ()
    manifest: Json | None = None
    progress: Json | None = None
    metrics: pd.DataFrame | None = None
    results: Json | None = None
    data: Json | None = None
    predictions: pd.DataFrame | None = None
    before: pd.DataFrame | None = None
    evaluation: pd.DataFrame | None = None
    resumes: Sequence[Json] = ()
    damaged: Mapping[str, str] = field(default_factory=dict)
    goes_on: bool | None = None

    @classmethod
    def read(cls, folder: Path) -> RunFiles:
        """Read a run folder, whatever state it is in.

        Args:
            folder: of the run, finished or not.
        """
        damaged: dict[str, str] = {}

        def part(name: str, reader: Callable[[Path], Any]) -> Any:
            path = folder / name
            if not path.exists():
                return None
            try:
                return reader(path)
            except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:  # pyarrow's are ValueErrors
                damaged[name] = f"{type(error).__name__}: {error}"
                return None

        going = is_written(folder)  # asked before and after: a run may end, or begin, while its files are read
        found = cls(
            folder,
            part(CONFIG, _settings),
            tuple((part(CONFIG, typed_in) or {}).values()),
            part("manifest.json", _object),
            part(PROGRESS, _object),
            part("metrics.csv", _numbers),
            part("results.json", _object),
            part("data.json", _object),
            part("predictions.parquet", pd.read_parquet),
            part("before.parquet", pd.read_parquet),
            part("evaluation.parquet", pd.read_parquet),
            part("resumes.jsonl", _objects) or (),
            damaged,
        )
        return replace(found, goes_on=going if going else is_written(folder))

    @property
    def name(self) -> str:
        """Of the run: that of its folder."""
        return self.folder.absolute().name

    @cached_property
    def series(self) -> dict[str, pd.DataFrame]:
        """Each logged number over the run: `step`, `samples`, `value`, by name; of a step told twice, the later one."""
        if self.metrics is None:
            return {}
        latest = self.metrics.drop_duplicates(["name", "step"], keep="last")
        return {
            str(name): rows[["step", "samples", "value"]].reset_index(drop=True)
            for name, rows in latest.groupby("name", sort=False, observed=True)
        }

    def setting(self, key: str, default: Any = None) -> Any:
        """A setting by its dotted key; the default where the run has none of that name."""
        found: Any = self.config
        for name in key.split("."):
            if not isinstance(found, Mapping) or name not in found:
                return default
            found = found[name]
        return found


def progress_of(folder: Path) -> Json:
    """How far a run has come, as it said last; empty where it has said nothing that can be read."""
    try:
        return _object(folder / PROGRESS)
    except (OSError, ValueError):
        return {}


def _settings(path: Path) -> Json:
    tree = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if not isinstance(tree, dict):
        raise ValueError("it holds no settings")
    return {str(key): value for key, value in tree.items() if key not in ("defaults", "hydra")}


def _object(path: Path) -> Json:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError("it holds no object")
    return found


def _objects(path: Path) -> Sequence[Json]:
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [one for one in found if isinstance(one, dict)]


def _numbers(path: Path) -> pd.DataFrame:
    """The lines of metrics.csv that are whole: a run that goes on, or was killed, may have half of one at the end.

    A long run has millions of them: they are held as numbers of eight bytes from the first on, each name once.
    """
    steps, samples, values, codes = array("q"), array("q"), array("d"), array("i")
    names: dict[str, int] = {}
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for line in csv.reader(file):
            if len(line) != len(COLUMNS) or not (line[0].isdigit() and line[1].isdigit()):
                continue
            try:
                step, sample, value = int(line[0]), int(line[1]), float(line[3])
            except ValueError:  # cut off inside the value
                continue
            if max(step, sample) >= MOST:  # torn: no run gets there
                continue
            steps.append(step)
            samples.append(sample)
            values.append(value)
            codes.append(names.setdefault(line[2], len(names)))
    name = pd.Categorical.from_codes(np.asarray(codes), pd.Index(list(names), dtype=object))
    columns = (np.asarray(steps), np.asarray(samples), name, np.asarray(values))
    return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))
