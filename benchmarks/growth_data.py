"""How memory and time of everything before the first update grow with the rows of a table.

    python benchmarks/growth_data.py --rows 1000 10000 100000 1000000 --kind csv parquet --chained no yes

Each table is the embedded helpdesk, repeated. Each start is a process of its own, the first one with an empty cache, the
second one with what the first left there. One json line per start: CPU seconds and peak resident memory, in all and by
step; `anonymous` is the part of the memory at the end that no file stands behind.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

ROOT = Path(__file__).resolve().parents[1]
STEPS = ("read_parts", "overlap", "tokens_of", "_fitted", "read_tables", "measured")  # of leyden.training.prepare
CHUNK = 448 * 200


def make_table(path: Path, rows: int, *, chained: bool) -> None:
    """Write the helpdesk as often as it takes; ids and texts of a repetition differ from those of the others."""
    helpdesk = pd.read_csv(ROOT / "src/leyden/data/embedded/helpdesk.csv", dtype=str, keep_default_na=False)
    writer: Any = None
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        frame = pd.concat([helpdesk] * (count // len(helpdesk) + 1), ignore_index=True)[:count]
        turn = (pd.Series(range(start, start + count)) // len(helpdesk)).astype(str)
        frame["id"] = turn + "-" + frame["id"]
        frame["parent_id"] = (turn + "-" + frame["parent_id"]).where(frame["parent_id"] != "", "")
        frame["message"] = frame["message"] + " (" + turn + ")"
        table = pa.Table.from_pandas(frame if chained else frame.drop(columns=["parent_id"]), preserve_index=False)
        if writer is None:
            csv = path.suffix == ".csv"
            writer = (pa.csv.CSVWriter if csv else pa.parquet.ParquetWriter)(path, table.schema)
        writer.write_table(table)
    writer.close()


def status(name: str) -> int:
    """A line of /proc/self/status, in MB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return round(int(lines[name].split()[0]) / 1024)


def cpu() -> float:
    """CPU seconds of this process, all threads."""
    return time.process_time()


def probed(name: str, step: Callable[..., Any], found: dict[str, dict[str, float]]) -> Callable[..., Any]:
    """A step that writes down what it took."""

    def run(*args: Any, **kwargs: Any) -> Any:
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts anew from here
        begun = cpu()
        try:
            return step(*args, **kwargs)
        finally:
            entry = found.setdefault(name, {"cpu": 0.0, "peak_mb": 0})
            entry["cpu"] = round(entry["cpu"] + cpu() - begun, 2)
            entry["peak_mb"] = max(entry["peak_mb"], status("VmHWM"))

    return run


class FirstUpdate(Exception):
    """The first update is done."""


def start(path: Path, chained: bool, batches: int) -> dict[str, Any]:
    """Prepare, make some batches, train one update; what it took."""
    sys.path.insert(0, str(ROOT / "src"))
    from lightning.pytorch.loggers import Logger

    from leyden.data.collator import Collator
    from leyden.settings.composition import compose_config
    from leyden.settings.read import read
    from leyden.training import prepare as room
    from leyden.training.assembly import make_data
    from leyden.training.run import fit

    class Stop(Logger):
        name, version, experiment = "stop", 0, None

        def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
            """Nothing."""

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            raise FirstUpdate

    columns = ["prompt_column=message", "answer_column=good_reply"]
    columns += ["id_column=id", "parent_id_column=parent_id"] if chained else []
    config, faults = compose_config(
        "train",
        [
            "dataset=table", "backbone=tiny", "trainer=cpu", f"dataset.train_dataframe={path}", "trainer.progress=none",
            "trainer.evaluate_before_training=false", f"output_directory={path.parent}", "experiment_name=growth",
            *(f"dataset.{column}" for column in columns),
        ],
        ROOT / "conf",
    )  # fmt: skip
    if faults or config is None:
        raise SystemExit("\n".join(map(str, faults)))
    settings = read(config)
    steps: dict[str, dict[str, float]] = {}
    for name in STEPS:
        if hasattr(room, name):
            setattr(room, name, probed(name, getattr(room, name), steps))
    before, base = cpu(), status("VmHWM")
    peaks = []
    material = probed("prepare", room.prepare, steps)(settings)

    def some_batches() -> int:
        loader: Iterator[Any] = iter(make_data(settings, material, Collator("packed", 0)).train_dataloader())
        return sum(next(loader).num_tokens for _ in range(batches))

    tokens = probed("batches", some_batches, steps)()

    def first_update() -> None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                fit(settings, material, [Stop()], Path(folder))
            except FirstUpdate:
                pass

    probed("fit to first update", first_update, steps)()
    peaks += [int(step["peak_mb"]) for step in steps.values()]
    return {
        "base_mb": base, "peak_mb": max(peaks), "anonymous_mb": status("RssAnon"), "cpu": round(cpu() - before, 1),
        "tokens_batched": tokens, "steps": steps, "counts": material.counts["train"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--kind", nargs="+", default=["csv", "parquet"])
    parser.add_argument("--chained", nargs="+", default=["no", "yes"], choices=["no", "yes"])
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where tables are kept; by default one that goes away")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(start(asked.one, asked.chained == ["yes"], asked.batches)))
        return
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="growth-"))
    try:
        for rows in asked.rows:
            for kind in asked.kind:
                for chained in asked.chained:
                    measure(folder, rows, kind, chained, asked)
    finally:
        if not asked.folder:
            shutil.rmtree(folder)


def measure(folder: Path, rows: int, kind: str, chained: str, asked: argparse.Namespace) -> None:
    """Both starts of one table."""
    path = folder / f"{rows}{'-chained' if chained == 'yes' else ''}.{kind}"
    if not path.exists():
        make_table(path, rows, chained=chained == "yes")
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        for number in range(asked.starts):
            command = [
                sys.executable,
                __file__,
                "--one",
                str(path),
                "--chained",
                chained,
                "--batches",
                str(asked.batches),
            ]
            clock = time.perf_counter()
            run = subprocess.run(command, env={**os.environ, "LEYDEN_CACHE": cache}, check=False, text=True,
                                 stdout=subprocess.PIPE)  # fmt: skip
            if run.returncode:
                print(
                    json.dumps({"rows": rows, "kind": kind, "chained": chained, "failed": run.returncode}), flush=True
                )
                return
            found = {"rows": rows, "kind": kind, "chained": chained, "start": number + 1,
                     "file_mb": round(path.stat().st_size / 2**20), "seconds": round(time.perf_counter() - clock, 1)}  # fmt: skip
            print(json.dumps({**found, **json.loads(run.stdout.splitlines()[-1])}), flush=True)


if __name__ == "__main__":
    main()
