"""The runs of a comparison: which folders are runs, how each ended, what its settings and its numbers are."""

from __future__ import annotations

import ast
import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from leyden.report.measured import ENDED, KILLED, ending, is_of_earlier, status_of, without_a_word
from leyden.report.run_files import RunFiles
from leyden.settings.config_files import definition
from leyden.settings.resuming import CONFIG, is_look

SWEEP = "sweep.csv"
DEPTH = 2  # `outputs` holds sweeps, and those hold jobs
PREFIX = "validation/"
OWN = {"experiment_name", "output_directory", "resume", "overwrite", "debug"}  # differ without meaning anything
DERIVED = ("problem.recommended.", "problem.metrics", "problem.scores", "problem.loss.scores")  # follow the problem
METRIC_FILES = ("metrics", "text_metrics", "class_metrics", "number_metrics")
UNFINISHED = "not finished"


@dataclass(frozen=True)
class ComparedRun:
    """One run, or a job of a sweep that has left nothing but a line in the sweep's table.

    Attributes:
        name: that no other run of the comparison has.
        folder: of the run.
        files: what it holds.
        status: how it ended.
        reason: why it is not done; empty if it is, or nobody says.
    """

    name: str
    folder: Path
    files: RunFiles
    status: str
    reason: str = ""

    @cached_property
    def settings(self) -> dict[str, str]:
        """Its settings as texts, by dotted key; without names of folders, and without what follows the problem."""
        found = dict(_flat(self.files.config or {}))
        return {key: value for key, value in found.items() if key not in OWN and not key.startswith(DERIVED)}

    @cached_property
    def metrics(self) -> dict[str, float]:
        """What the model that is kept was worth, by the metric's name; of a run without results, the latest values."""
        ended = self.status in ENDED and not is_of_earlier(self.files)
        results, policy = (self.files.results if ended else None) or {}, self.files.setting("checkpoint.policy")
        kept = (results.get("best") if policy == "best" else None) or results.get("final")
        if not kept:
            series = self.files.series
            kept = {name: rows["value"].iloc[-1] for name, rows in series.items() if name.startswith(PREFIX)}
        return {
            name.removeprefix(PREFIX): float(value)
            for name, value in kept.items()
            if name.startswith(PREFIX) and isinstance(value, int | float)
        }

    @cached_property
    def logged(self) -> Counter[str]:
        """How often each number was logged."""
        return Counter() if self.files.metrics is None else Counter(self.files.metrics["name"].tolist())

    @property
    def monitored(self) -> str | None:
        """The metric that says which of its evaluations is best."""
        return next(iter(self.files.setting("metric") or ()), None)

    @property
    def problem(self) -> str:
        """Its problem type; empty if its settings cannot be read."""
        return self.settings.get("problem", "")

    def fact(self, key: str) -> Any:
        """Something its manifest says; None without one."""
        return (self.files.manifest or {}).get(key)


@dataclass
class Found:
    """What there is to compare.

    Attributes:
        runs: in the order they were named.
        left_out: folders that are no runs, with the reason.
    """

    runs: list[ComparedRun] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)


def find_runs(folders: Sequence[Path]) -> Found:
    """Read the runs among these folders, and those inside of folders that hold runs, as a sweep does.

    Args:
        folders: that are there.
    """
    found, seen = Found(), set[Path]()
    for folder in folders:
        _collect(folder, found, seen, DEPTH)
    found.runs = _named(found.runs)
    return found


def differing(runs: Sequence[ComparedRun]) -> dict[str, list[str | None]]:
    """The settings that not all runs have alike: a text for each run, None where it has no such setting."""
    read = [run for run in runs if run.files.config is not None]
    keys = dict.fromkeys(key for run in read for key in run.settings)
    differ = [key for key in keys if len({run.settings.get(key) for run in read}) > 1]
    return {key: [run.settings.get(key) for run in runs] for key in differ}


def direction(name: str, runs: Sequence[ComparedRun]) -> str | None:
    """Which way a metric is better, "min" or "max", as settings or code say; None where neither does.

    No code of the run is imported: a folder from elsewhere may name any.
    """
    if name == "loss":
        return "min"
    for run in runs:
        choice = (run.files.setting("metric") or {}).get(name)
        if isinstance(choice, Mapping):
            said = choice.get("direction") or _marked(str(choice.get("_target_")))
            if said in ("min", "max"):
                return str(said)
    return next((said for file in METRIC_FILES if (said := _marked(f"leyden.problem.{file}.{name}"))), None)


def _collect(folder: Path, found: Found, seen: set[Path], depth: int) -> None:
    if folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    try:
        _collect_from(folder, found, seen, depth)
    except OSError as error:  # of another user, say
        found.left_out.append((folder, f"it cannot be read ({error.strerror or error})"))


def _collect_from(folder: Path, found: Found, seen: set[Path], depth: int) -> None:
    if not folder.is_dir():
        found.left_out.append((folder, "no folder"))
    elif (folder / CONFIG).is_file():
        files = RunFiles.read(folder)
        if files.config is None:
            found.left_out.append((folder, f"{CONFIG} cannot be read ({files.damaged.get(CONFIG, 'empty')})"))
        elif is_look(folder):
            found.left_out.append((folder, "only its data was looked at"))
        else:
            found.runs.append(ComparedRun(folder.name, folder, files, *_end(files)))
    else:
        _collect_inside(folder, found, seen, depth)


def _collect_inside(folder: Path, found: Found, seen: set[Path], depth: int) -> None:
    inside = [one for one in sorted(folder.iterdir(), key=_by_number) if one.is_dir() and not one.name.startswith(".")]
    holders = [one for one in inside if (one / CONFIG).is_file() or (depth > 1 and any(one.glob(f"*/{CONFIG}")))]
    jobs = _jobs(folder / SWEEP)
    if not depth or not (holders or jobs):
        found.left_out.append((folder, f"no {CONFIG}"))
        return
    before = len(found.runs)
    for one in inside:
        _collect(one, found, seen, depth - 1)
    for place, run in enumerate(found.runs[before:], before):
        if run.folder.parent == folder and (job := jobs.pop(run.folder.name, None)) and job["status"] != "done":
            found.runs[place] = replace(run, status=job["status"], reason=job["reason"] or run.reason)
    for number, job in jobs.items():  # those that came to no run
        own = folder / number
        if is_look(own) or own.resolve() in {run.folder.resolve() for run in found.runs}:  # or named already
            continue
        reason = ": ".join(filter(None, (job["overrides"], job["reason"])))
        found.left_out = [one for one in found.left_out if one[0] != own]
        found.runs.append(ComparedRun(number, own, RunFiles(own), job["status"], reason))


def _jobs(path: Path) -> dict[str, dict[str, str]]:
    """The lines of a sweep's table, by the number of the job; none where there is no such table."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        return {}
    wanted = ("job", "status", "overrides", "reason")
    return {
        row["job"]: {name: row[name] for name in wanted} for row in rows if all(row.get(n) is not None for n in wanted)
    }


def _end(files: RunFiles) -> tuple[str, str]:
    """How a run ended, and why that was not well: as the run said last."""
    faults = ending(files).get("faults")
    told = [str(one) for kind in faults.values() for one in kind] if isinstance(faults, Mapping) else []
    status = status_of(files) or ("done" if files.manifest else UNFINISHED)
    if status == KILLED:
        return status, without_a_word(files)
    return status, str((files.progress or {}).get("reason") or " ".join(told))


def _named(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """The runs under names that tell them apart: with the folder above for a job, and wherever two are alike."""
    names = [run.folder.absolute().parts[-1:] for run in runs]
    names = [
        run.folder.absolute().parts[-2:] if name[0].isdigit() else name for run, name in zip(runs, names, strict=True)
    ]
    while len(set(names)) < len(names):
        twice = {name for name in names if names.count(name) > 1}
        longer = [
            run.folder.absolute().parts[-len(name) - 1 :] if name in twice else name
            for run, name in zip(runs, names, strict=True)
        ]
        if longer == names:
            break
        names = longer
    return [replace(run, name="/".join(name)) for run, name in zip(runs, names, strict=True)]


def _by_number(path: Path) -> tuple[bool, int, str]:
    return (not path.name.isdigit(), int(path.name) if path.name.isdecimal() else 0, path.name)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if name == "_target_":
            yield prefix.rstrip("."), str(value).rpartition(".")[2]
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{key}.")
        else:
            yield key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


@cache
def _marked(target: str) -> str | None:
    """The direction that a metric of ours is marked with."""
    node = definition(target)
    for mark in node.decorator_list if isinstance(node, ast.FunctionDef | ast.ClassDef) else ():
        if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "metric":
            return str(ast.literal_eval(mark.args[0]))
    return None
