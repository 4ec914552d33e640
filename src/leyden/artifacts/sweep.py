"""A sweep from outside: what each job leaves, the table of all of them, `sweep.csv`, and the page over them."""

from __future__ import annotations

import csv
import json
import math
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from leyden.artifacts.csv_cells import inert
from leyden.settings.command import SWEEP_FOLDER, job_folder
from leyden.settings.errors import PROGRAM_FAULT, USER_FAULT, LeydenError
from leyden.settings.escapes import visible
from leyden.settings.side_by_side import ENDED, RECORDS, end_if_ended
from leyden.settings.stops import EXIT, job_ended_by_signals, unread
from leyden.settings.studies import StoredStudy
from leyden.settings.sweeps import has_started_sweep, metric_direction, started_sweep

TABLE = "sweep.csv"
DONE, FAILED, CRASHED, STOPPED = "done", "failed", "crashed", "stopped"
SHOWN = 60  # characters of a reason on the terminal


@dataclass
class JobRecord:
    """One job of a sweep.

    Attributes:
        number: as Hydra counts it, and as its folder is called.
        overrides: what makes it this job, and what all jobs have in common.
        folder: of the run.
        direction: min or max, whichever way the metric is better.
        status: done, failed (a fault of the user), crashed (one of the program), stopped (it never came to its end).
        metric: of the model that is kept; None without one.
        reason: why it is not done.
        process: that does the job; None once it has ended.
    """

    number: int
    overrides: list[str]
    folder: str
    direction: str
    status: str = STOPPED
    metric: float | None = None
    reason: str = "The process ended without a word."
    results: dict[str, float] = field(default_factory=dict)
    process: int | None = None


def recorded(config: DictConfig, job: Callable[[], float]) -> float | None:
    """Do a job; inside a sweep, leave a record of it whatever happens.

    Args:
        config: of the job.
        job: trains and returns the metric.

    Returns:
        What the job returns; None for a number that no sweeper can compare, and of a job in a process of its own that
        a signal has ended, so that it ends no other.
    """
    folder = job_folder()
    if folder is None:
        return job()
    hydra = HydraConfig.get()
    number = int(folder.name if folder.name.isdecimal() else hydra.job.num)  # a search that goes on counts further
    overrides = [text for text in hydra.overrides.task if not text.startswith("resume=")]  # says nothing of the job
    record = JobRecord(number, overrides, str(folder), metric_direction(config.metric))
    if has_started_sweep():
        return _recorded(record, config, job)
    try:
        with job_ended_by_signals():
            end_if_ended(folder.parent)
            record.process = os.getpid()
            return _recorded(record, config, job)
    except SystemExit:
        return None


def _recorded(record: JobRecord, config: DictConfig, job: Callable[[], float]) -> float | None:
    _write(record)
    try:
        if record.process is not None:
            end_if_ended(Path(record.folder).parent)  # again, now that the command can see it
        value = job()
        record.status, record.metric, record.reason = DONE, value if math.isfinite(value) else None, ""
        record.results = _results(Path(record.folder), "best" if config.checkpoint.policy == "best" else "final")
    except LeydenError as error:
        record.status, record.reason = FAILED, " ".join(error.faults)
        raise
    except Exception as error:
        record.status, record.reason = CRASHED, f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise
    except BaseException as error:
        record.reason = _why(error)
        raise
    finally:
        record.process = None
        _write(record)
    return record.metric


def _why(end: BaseException) -> str:
    """The signal that has ended a job, or what else did."""
    code = end.code if isinstance(end, SystemExit) and isinstance(end.code, int) else 0
    return signal.Signals(code - EXIT).name if code > EXIT else type(end).__name__


def finish_sweep() -> int:
    """Write and print the table of the sweep that this process has started, and its page; return the exit code."""
    if (started := started_sweep()) is None:
        return 0
    folder, study = started
    if study is not None:
        _released(study)
    files = sorted((folder / RECORDS).glob("*.json"), key=lambda path: int(path.stem))
    if not files:
        if (folder / ENDED).exists():
            with unread():
                print(f"The sweep was stopped before a job had begun. To begin: {_again(folder)}", flush=True)
        return 0
    records = [JobRecord(**json.loads(path.read_text(encoding="utf-8"))) for path in files]
    records = [replace(record, folder=str(folder / Path(record.folder).name)) for record in records]
    ordered = ranked(records, records[0].direction)
    _write_table(folder / TABLE, ordered)
    with unread():
        print(_shown(ordered, folder), _compared(folder), sep="\n", flush=True)
    if study is None:  # else the search may go on, and asks for none of these again
        shutil.rmtree(folder / RECORDS)
    kinds = {record.status for record in records}
    if STOPPED in kinds:
        with unread():
            print(
                f"The sweep was stopped. To go on with that job and begin those after it: {_again(folder)}", flush=True
            )
    return PROGRAM_FAULT if kinds & {CRASHED, STOPPED} else USER_FAULT if FAILED in kinds else 0


def _released(study: StoredStudy) -> None:
    """Have no trial of a stored study run for ever; where that fails, the next start of the sweep does it."""
    try:
        study.release()
    except Exception as error:  # of any kind: the table of the sweep is worth more
        with unread():
            print(f"warning: the study {study.name} cannot be told of the end ({type(error).__name__}: {error}).")


def _again(folder: Path) -> str:
    """The command that goes on with the sweep of this process."""
    words = [word for word in sys.argv[1:] if not word.startswith(("resume=", "overwrite="))]
    if not any(word.startswith(("experiment_name=", SWEEP_FOLDER)) for word in words):
        words.append(f"experiment_name={folder.name}")
    return shlex.join(["python", "train.py", *words, "resume=auto"])


def ranked(records: Sequence[JobRecord], direction: str) -> list[JobRecord]:
    """Best first; then those without a number; last those that are not done, in the order they were started in."""
    sign = 1 if direction == "min" else -1

    def key(record: JobRecord) -> tuple[bool, bool, float, int]:
        value = record.metric
        return record.status != DONE, value is None, sign * (value or 0.0), record.number

    return sorted(records, key=key)


def varied(records: Sequence[JobRecord]) -> list[list[str]]:
    """The overrides of each job that not all jobs have; of a single job, all."""
    shared = set.intersection(*(set(record.overrides) for record in records)) if len(records) > 1 else set()
    return [[text for text in record.overrides if text not in shared] for record in records]


def _write(record: JobRecord) -> None:
    """Leave the record of a job where the end of the sweep finds it; a reader never sees half a file."""
    folder = Path(record.folder).parent / RECORDS
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{record.number}.draft"
    draft.write_text(json.dumps(asdict(record)), encoding="utf-8")
    os.replace(draft, folder / f"{record.number}.json")


def _results(folder: Path, kept: str) -> dict[str, float]:
    path = folder / "results.json"
    all_results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"final": {}}
    found = all_results.get(kept) or all_results["final"]
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def _write_table(path: Path, records: Sequence[JobRecord]) -> None:
    names = list(dict.fromkeys(name for record in records for name in record.results))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["job", "status", "metric", "overrides", *names, "folder", "reason"])
        for record, overrides in zip(records, varied(records), strict=True):
            numbers = [_number(record.results.get(name)) for name in names]
            head = [record.number, record.status, _number(record.metric), " ".join(overrides)]
            writer.writerow(map(inert, [*head, *numbers, record.folder, record.reason]))


def _number(value: float | None) -> str:
    return "" if value is None else repr(value)


def _shown(records: Sequence[JobRecord], folder: Path) -> str:
    """The table as it is printed, and what the best job was."""
    rows = [("job", "status", "metric", "overrides")]
    for record, overrides in zip(records, varied(records), strict=True):
        metric = "-" if record.metric is None else f"{record.metric:.6g}"
        why = record.reason if len(record.reason) <= SHOWN else f"{record.reason[: SHOWN - 1]}…"
        rows.append((str(record.number), record.status, metric, " ".join(overrides) + (f"  ({why})" if why else "")))
    widths = [max(len(row[place]) for row in rows) for place in range(3)]
    lines = ["", *("  ".join([*map(str.ljust, row, widths), row[3]]).rstrip() for row in rows), ""]
    if records and records[0].status == DONE:
        lines.append(f"Best: {' '.join(varied(records)[0])} in {records[0].folder}.")
    done = sum(record.status == DONE for record in records)
    lines.append(f"{done} of {len(records)} jobs are done. All numbers are in {folder / TABLE}.")
    return visible("\n".join(lines))


def _compared(folder: Path) -> str:
    """Write the page over all jobs, and say where it is, or why there is none: a page is never worth a sweep."""
    from leyden.report.comparison import FILE, write_comparison  # late: train.py answers before pandas is there

    try:
        write_comparison([folder], folder / FILE)
    except Exception as error:  # of any kind
        return f"warning: {folder / FILE} could not be written ({type(error).__name__}: {error})."
    return f"All jobs side by side: {(folder / FILE).absolute()}"
