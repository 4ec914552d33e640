"""The table of all runs of a comparison: how each ended, settings that differ, metrics with the best marked."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from leyden.report.compared_runs import ComparedRun, direction
from leyden.report.measured import GOING_ON, KILLED, ending, moment, said_of
from leyden.report.page import Section, fill, number
from leyden.report.ranking import Comparison, as_number
from leyden.report.report import FILE as REPORT
from leyden.settings.wording import counted

MOST_SETTINGS = 24  # columns of the table
MOST_METRICS = 12
GOOD, BAD = {"done"}, {"failed", "crashed", KILLED}
FACTS = ("updates", "training, s", "tokens/s", "peak GiB")
NO_DIFFERENCE = "The settings of these runs do not differ."


def runs_section(compared: Comparison, folder: Path) -> Section:
    """The table of all runs, with what has to be known before it is read.

    Args:
        compared: the runs.
        folder: that the page will be in.
    """
    settings = list(compared.settings.items())[:MOST_SETTINGS]
    metrics = list(compared.metrics)[:MOST_METRICS]
    comparable = len(compared.problems) <= 1
    best = {name: _best(compared, name) for name in metrics} if comparable else {}
    rows = []
    for place, run in enumerate(compared.runs):
        numbers = [{**_number(run.metrics.get(name)), "best": best.get(name) is run} for name in metrics]
        cells = [numbers[0], *(_cell(values[place]) for _, values in settings), *numbers[1:]]
        cells += [_number(value) for value in _facts(run)]
        rows.append({"run": run, "link": _link(run, folder), "status": _status(run), "cells": cells})
    names = ["Run", "Status", metrics[0], *(key for key, _ in settings), *metrics[1:], *FACTS]
    texts = {
        2 + place for place, (_, values) in enumerate(settings, 1) if any(as_number(text) is None for text in values)
    }
    columns = [{"name": name, "number": place > 1 and place not in texts} for place, name in enumerate(names)]
    body = fill(
        "compare-runs", columns=columns, rows=rows, marked=any(best.values()), notices=list(_notices(compared)),
        left_out=[(str(path), reason) for path, reason in compared.left_out],
        more_settings=list(compared.settings)[MOST_SETTINGS:], more_metrics=compared.metrics[MOST_METRICS:],
        same="" if settings or len(rows) == 1 else NO_DIFFERENCE,
    )  # fmt: skip
    return Section("compare-runs", "Runs", body)


def _notices(compared: Comparison) -> Iterator[str]:
    """What makes numbers of different runs say less than they seem to."""
    if len(compared.problems) > 1:
        yield (
            f"These runs are of different problems ({', '.join(compared.problems)}): a loss or a metric of one name is "
            "not the same number in each, so none is marked as the best."
        )
    elif compared.better is None:
        yield f"Nobody says which way {compared.metric} is better, so no value of it is marked as the best."
    tables = {
        (str((run.fact("data") or {}).get("validation", {}).get("sha256")), str(rows))
        for run in compared.runs
        if run.files.manifest is not None
        for rows in [(run.fact("counts") or {}).get("validation", {}).get("rows")]
    }
    if len(tables) > 1:
        yield "These runs were evaluated on different validation rows: compare their metrics with care."
    unfinished = [run.name for run in compared.runs if run.status not in GOOD and run.status not in GOING_ON]
    if going := [run.name for run in compared.runs if run.status in GOING_ON]:
        now = moment(datetime.now(UTC).isoformat())
        yield (
            f"{counted(len(going), 'runs')} had not ended when this page was written, {now}: it says how things were "
            "then."
        )
    if unfinished:
        yield f"{counted(len(unfinished), 'runs')} did not come to a good end: the latest values stand here, if any."


def _best(compared: Comparison, name: str) -> ComparedRun | None:
    """The run with the best value of a metric, among those that are done; None where nobody says which way that is."""
    better = direction(name, compared.runs)
    having = [run for run in compared.runs if run.status in GOOD and math.isfinite(run.metrics.get(name, math.nan))]
    if better is None or len(having) < 2:  # noqa: PLR2004
        return None
    return (min if better == "min" else max)(having, key=lambda run: run.metrics[name])


def _facts(run: ComparedRun) -> list[Any]:
    seconds = (ending(run.files).get("seconds") or {}).get("train alone")
    return [
        said_of(run.files, "updates_done"), seconds, said_of(run.files, "tokens_per_second"),
        said_of(run.files, "peak_memory_gib"),
    ]  # fmt: skip


def _status(run: ComparedRun) -> dict[str, str]:
    kind = "good" if run.status in GOOD else "bad" if run.status in BAD else "warn"
    return {"kind": kind, "text": run.status, "reason": run.reason}


def _cell(text: str | None) -> dict[str, Any]:
    value = as_number(text)
    return {
        "text": "–" if text is None else text,
        "value": text if value is None else value,
        "number": value is not None,
        "best": False,
    }


def _number(value: Any) -> dict[str, Any]:
    good = isinstance(value, int | float) and math.isfinite(value)
    return {"text": number(value), "value": value if good else None, "number": True, "best": False}


def _link(run: ComparedRun, folder: Path) -> str | None:
    """From the page to that of a run, so that both can be moved together."""
    page = run.folder / REPORT
    return quote(os.path.relpath(page, folder)) if page.is_file() else None
