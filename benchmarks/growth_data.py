"""How memory and time of everything before the first update grow with the rows of a table.

    python -m benchmarks.growth_data --rows 1000 10000 100000 1000000 --kind csv parquet --chained no yes

Each table is the embedded helpdesk, repeated. Each start is a process of its own, the first one with an empty cache,
the second one with what the first left there. One json line per start: CPU seconds and peak resident memory, in all
and by step; `anonymous` is the part of the memory at the end that no file stands behind. `--until tables` stops when
the tables are read and checked.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
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
STEPS = ("read_tables", "tokens_of", "measured")  # of leyden.training.prepare
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
            kind = pa.csv.CSVWriter if path.suffix == ".csv" else pa.parquet.ParquetWriter
            writer = kind(path, table.schema)
        writer.write_table(table)
    writer.close()


def probed(name: str, step: Callable[..., Any], found: dict[str, dict[str, float]]) -> Callable[..., Any]:
    """A step that writes down what it took."""
    from benchmarks.update_clock import forget_peak, memory_mb

    def run(*args: Any, **kwargs: Any) -> Any:
        forget_peak()
        begun = time.process_time()
        try:
            return step(*args, **kwargs)
        finally:
            entry = found.setdefault(name, {"cpu": 0.0, "peak_mb": 0})
            entry["cpu"] = round(entry["cpu"] + time.process_time() - begun, 2)
            entry["peak_mb"] = max(entry["peak_mb"], memory_mb("VmHWM"))

    return run


def settings_of(path: Path, *, chained: bool) -> Any:
    """Settings of a run on a table, with the smallest backbone."""
    from leyden.settings.composition import compose_config
    from leyden.settings.read import read

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
    return read(config)


def start(path: Path, *, chained: bool, batches: int, until: str) -> dict[str, Any]:
    """Prepare, make some batches, train one update; what it took."""
    sys.path.insert(0, str(ROOT / "src"))
    from benchmarks.update_clock import memory_mb
    from leyden.training import prepare as room

    settings = settings_of(path, chained=chained)
    steps: dict[str, dict[str, float]] = {}
    for name in STEPS:
        setattr(room, name, probed(name, getattr(room, name), steps))
    begun, base = time.process_time(), memory_mb("VmHWM")
    counts: dict[str, int] = {}
    if until == "tables":
        from leyden.training.earlier_starts import read_tables
        from leyden.training.problems import make_problem

        probed("read_tables", read_tables, steps)(settings, make_problem(settings))
    else:
        material = probed("prepare", room.prepare, steps)(settings)
        counts = material.counts["train"]
        probed("batches", some_batches, steps)(settings, material, batches)
        probed("fit to first update", first_update, steps)(settings, material)
    return {
        "base_mb": base, "peak_mb": max(int(step["peak_mb"]) for step in steps.values()),
        "anonymous_mb": memory_mb("RssAnon"), "cpu": round(time.process_time() - begun, 1), "steps": steps,
        "counts": {name: counts[name] for name in ("samples", "tokens", "tokens to predict") if counts},
    }  # fmt: skip


def some_batches(settings: Any, material: Any, batches: int) -> None:
    """Batches as training reads them."""
    from leyden.data.collator import Collator
    from leyden.training.assembly import make_data

    loader = iter(make_data(settings, material, Collator("packed", 0)).train_dataloader())
    for _ in range(batches):
        next(loader)


def first_update(settings: Any, material: Any) -> None:
    """Load the model and train until the first numbers are logged."""
    from benchmarks.update_clock import Enough, UpdateClock
    from leyden.training.run import fit

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Enough):
        fit(settings, material, [UpdateClock(1)], Path(folder))


def measure(  # noqa: PLR0913
    folder: Path, rows: int, kind: str = "csv", *, chained: bool = True, batches: int = 1, until: str = "update",
    starts: int = 2, threads: int | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """All starts of one table, each in a process of its own.

    Args:
        folder: where the table is kept.
        rows: of the table.
        kind: `csv` or `parquet`.
        chained: whether rows have parents.
        batches: to make before the first update.
        until: `update`, or `tables` where no tree is wanted.
        starts: how many; the first one finds nothing in the cache.
        threads: of the arithmetic; None: as this process has it.

    Yields:
        What a start took: `start` counts from 1; `cpu`, in seconds, leaves out the import of the libraries, `seconds`
        by the clock and `peak_mb` are those of the whole process.
    """
    path = folder / f"{rows}{'-chained' if chained else ''}.{kind}"
    if not path.exists():
        make_table(path, rows, chained=chained)
    own_threads = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        for number in range(starts):
            own = ["--one", str(path), "--chained", "yes" if chained else "no", "--batches", str(batches),
                   "--until", until]  # fmt: skip
            clock = time.perf_counter()
            run = subprocess.run(
                [sys.executable, "-m", "benchmarks.growth_data", *own], cwd=ROOT, check=True, text=True,
                env={**os.environ, **own_threads, "LEYDEN_CACHE": cache}, stdout=subprocess.PIPE,
            )  # fmt: skip
            found = {
                "rows": rows, "kind": kind, "chained": chained, "start": number + 1,
                "file_mb": round(path.stat().st_size / 2**20), "seconds": round(time.perf_counter() - clock, 1),
                "cache_mb": round(sum(file.stat().st_size for file in Path(cache).rglob("*.*")) / 2**20),
            }  # fmt: skip
            yield {**found, **json.loads(run.stdout.splitlines()[-1])}


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--kind", nargs="+", default=["csv", "parquet"])
    parser.add_argument("--chained", nargs="+", default=["no", "yes"], choices=["no", "yes"])
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--until", choices=["tables", "update"], default="update")
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where tables are kept; by default one that goes away")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        found = start(asked.one, chained=asked.chained == ["yes"], batches=asked.batches, until=asked.until)
        print(json.dumps(found))
        return
    folder = asked.folder.absolute() if asked.folder else Path(tempfile.mkdtemp(prefix="growth-"))
    try:
        for rows, kind, chained in itertools.product(asked.rows, asked.kind, asked.chained):
            options = {"batches": asked.batches, "until": asked.until, "starts": asked.starts}
            for found in measure(folder, rows, kind, chained=chained == "yes", **options):
                print(json.dumps(found), flush=True)
    finally:
        if not asked.folder:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
