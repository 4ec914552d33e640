"""The last words of a run: where it started, where it ended, where things are, and what to type next."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from leyden.artifacts.continuation import RESUMES
from leyden.artifacts.folder import STOPPED
from leyden.settings.escapes import argument, visible
from leyden.settings.stops import unread
from leyden.settings.wording import counted
from leyden.training.outcome import Run
from leyden.training.problems import writes

MANY = 1e6  # from here on digits say less than the exponent
PLACES = {"report": "report.html", "model": "model", "predictions": "predictions.parquet", "log": "train.log"}
TITLES = {"before": "before", "best": "best (kept)", "final": "after", "latest": "latest"}  # as results.json calls them
PREFIX = "validation/"


@dataclass(frozen=True)
class Summary:
    """What is said of a run when it has ended.

    Attributes:
        status: done, failed or stopped.
        folder: of the run.
        metrics: values of each evaluation that is shown: before, best (where it is kept), final, latest.
        times: updates done, seconds of training, seconds in all.
        sentences: what happened.
        warnings: what went wrong on the way.
        commands: what can be typed next.
        plain: say it as in a pipe, wherever it goes (`trainer.progress=none`).
    """

    status: str
    folder: Path
    metrics: Mapping[str, Mapping[str, float]]
    times: Mapping[str, float]
    sentences: Sequence[str]
    warnings: Sequence[str]
    commands: Sequence[str]
    plain: bool = False

    @property
    def places(self) -> dict[str, Path]:
        """Where what the run has written is, of what is there."""
        paths = {name: (self.folder / file).absolute() for name, file in PLACES.items()}
        return {name: path for name, path in paths.items() if path.exists()}

    def show(self) -> None:
        """Say it on standard output: a table on a terminal; in a pipe, or if asked, a `name<TAB>value` on each line."""
        with unread():
            if sys.stdout.isatty() and not self.plain:
                self._draw(Console())
            else:
                print("\n".join(f"{name}\t{_one_line(value)}" for name, value in self.lines()), flush=True)

    def lines(self) -> Iterator[tuple[str, str]]:
        """Names and values for a program: numbers with all their digits, paths from the root on."""
        yield "status", self.status
        yield "run", str(self.folder.absolute())
        yield from ((name, str(path)) for name, path in self.places.items())
        for title, values in self.metrics.items():
            yield from ((f"{title}/{name}", repr(float(value))) for name, value in values.items())
        yield from ((name, f"{value:.15g}") for name, value in self.times.items())
        yield from (("note", sentence) for sentence in self.sentences)
        yield from (("warning", warning) for warning in self.warnings)
        yield from (("next", command) for command in self.commands)

    def _draw(self, console: Console) -> None:
        names = list(dict.fromkeys(name for values in self.metrics.values() for name in values if _is_metric(name)))
        if names:
            console.print("", self._table(names), "", sep="\n")
        for sentence in self.sentences:
            console.print(Text(visible(sentence)))
        for warning in self.warnings:
            console.print(Text(f"warning: {visible(warning)}", style="yellow"))
        console.print()
        for name, path in self.places.items():
            place = Text(visible(str(path)), style=Style(link=path.as_uri()))
            console.print(Text(f"{name:<13}").append_text(place), soft_wrap=True)  # whole, for a click or a copy
        if self.commands:
            console.print(Text("\nNext:", style="bold"))
        for command in self.commands:
            console.print(Text(f"  {visible(command)}"), soft_wrap=True)

    def _table(self, names: Sequence[str]) -> Table:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        table.add_column("", overflow="fold")
        for name in self.metrics:
            table.add_column(TITLES[name], justify="right", no_wrap=True)
        for name in names:
            cells = [number(values[name]) if name in values else "-" for values in self.metrics.values()]
            table.add_row(Text(visible(name)), *cells, style="bold" if name == names[0] else "")
        return table


def summary_of(
    results: Mapping[str, Mapping[str, float] | None], folder: Path, run: Run, status: str, remarks: Sequence[str] = ()
) -> Summary:
    """What is said of a run: metrics before, after and of the model that is kept, its time, what to type next.

    Args:
        results: of `results_of`.
        folder: of the run.
        run: as it ended.
        status: done, failed or stopped.
        remarks: what went wrong on the way.
    """
    points = {**results, "best": results["best"] if run.best else None}
    if status == STOPPED and run.history.points:
        points["latest"] = run.history.points[-1].metrics
    first = f"{PREFIX}{run.history.metric.name}"
    metrics = {name: _led_by(first, points[name] or {}) for name in TITLES if points.get(name)}
    times = {
        "updates": run.trainer.global_step,
        "training_seconds": run.history.seconds,
        "seconds": run.seconds.get("in all", 0.0),
    }
    commands = _commands(folder, run, status)
    plain = run.settings.trainer.progress == "none"
    return Summary(status, folder, metrics, times, list(_sentences(run, metrics, folder)), remarks, commands, plain)


def _sentences(run: Run, metrics: Mapping[str, Mapping[str, float]], folder: Path) -> Iterator[str]:
    skipped, empty, done = run.module.skipped_updates, run.module.empty_updates, run.trainer.global_step
    first = f"{PREFIX}{run.history.metric.name}"
    if metrics and all(math.isnan(values.get(first, math.nan)) for values in metrics.values()):
        yield f"{first} has no value on these rows, so it says nothing about the training (see train.log)."
    since = " since it was gone on with" if (folder / RESUMES).is_file() else " in all"
    of = f" of {run.updates:,}" if run.stopped else ""
    yield (
        (f"Stopped by a signal after {done:,}{of} updates: " if run.stopped else f"{counted(done, 'updates')} in ")
        + f"{run.history.seconds:.0f} s of training"
        + (f", {run.seconds['in all']:.0f} s{since}" if "in all" in run.seconds else "")
        + (f"; {counted(skipped, 'updates')} not applied (see train.log)" if skipped else "")
        + (f"; {counted(empty, 'updates')} left out, as all their rows have weight 0" if empty else "")
        + "."
    )
    if run.best is not None:
        yield f"The model is that of update {run.kept_point.step:,}, the best one (checkpoint=best)."


def _commands(folder: Path, run: Run, status: str) -> list[str]:
    named = argument("run", str(folder))
    if status == STOPPED:
        return [f"python train.py {argument('resume', str(folder))}"]
    if not (folder / PLACES["model"]).is_dir():
        return []
    talk = [f"python predict.py {named} mode=chat"] if writes(run.settings, run.module.problem) else []
    return [f"python predict.py {named} dataset.path=new.csv", *talk]


def _led_by(first: str, values: Mapping[str, float]) -> dict[str, float]:
    return {name: values[name] for name in sorted(values, key=lambda name: name != first)}


def _is_metric(name: str) -> bool:
    return name.startswith(PREFIX)


def _one_line(value: str) -> str:
    return visible(value).replace("\t", "\\t").replace("\n", "\\n")


def number(value: float) -> str:
    """Four decimals; of large numbers four digits and an exponent."""
    return f"{value:.4f}" if abs(value) < MANY or not math.isfinite(value) else f"{value:.4g}"
