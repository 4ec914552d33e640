"""A look at a run before it is trained: its tables alone (mode=inspect), or one trial of its longest batch too."""

from __future__ import annotations

import logging
import math
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from leyden.artifacts.endings import disk_errors
from leyden.artifacts.folder import RunFolder, created_folder, plan_folder
from leyden.artifacts.manifest import write_json
from leyden.artifacts.preparation import announce, prepared, with_seed
from leyden.artifacts.run_log import RunLog
from leyden.report.page import duration
from leyden.report.report import write_report
from leyden.settings.command import typed_overrides
from leyden.settings.reference_facts import plain
from leyden.settings.resuming import by_key
from leyden.settings.schema import Settings
from leyden.training.estimate import estimate
from leyden.training.reading import find_columns
from leyden.training.trial import try_run

LOOKING = ("mode", "dry_run")
PARTS = ("load", "score the reference", "evaluate", "answer")
LEAST = 0.005  # GiB that are worth a word

log = logging.getLogger(__name__)


def look(settings: Settings, job_folder: Path | None = None) -> float:
    """Do all that comes before the weights, and write what was seen: `data.json` and `report.html`.

    The folder is that of the run; a training takes its place without `overwrite`.

    Args:
        settings: checked.
        job_folder: the folder of this job inside a sweep.

    Returns:
        NaN: nothing was trained that could be measured.
    """
    settings = with_seed(settings)
    folder, lines = plan_folder(settings, job_folder), list[str]()
    with disk_errors(folder.path), RunLog() as run_log, ExitStack() as stack:
        settings = find_columns(settings)
        material = stack.enter_context(prepared(settings, folder))
        stack.enter_context(created_folder(folder, settings, typed_overrides()))
        run_log.open(folder.log)
        announce(material, settings, folder, needed=True)
        page = _page(folder)
        if settings.dry_run:
            found = estimate(try_run(settings, material, folder.path), material.train.fit.lengths.array)
            write_json(folder.path / "dry_run.json", found)
            lines += told(found)
    print(*lines, last_words(folder, page, typed_overrides()), sep="\n")
    return math.nan


def told(found: Mapping[str, Any]) -> Iterator[str]:
    """What a dry run has found, in lines for a terminal.

    Args:
        found: from `estimate`.
    """
    memory, seconds, measured = found["memory_gib"], found["seconds"], found["measured"]
    verdict = "fits" if found["fits"] else "does not fit"
    if not found["tried"]:
        yield (
            f"The longest batch was not tried: it would need about {memory['peak']:.1f} GiB, and there are "
            f"{memory['available']:.1f} GiB."
        )
    else:
        yield (
            f"{found['updates']:,} updates: about {duration(seconds['train'])} of training, and "
            f"{duration(seconds['in all'])} in all "
            f"({', '.join(f'{name} {duration(took)}' for name, took in seconds.items() if name in PARTS and took)})."
        )
        yield (
            f"If every update were as the longest one, which took {duration(measured['seconds of the longest update'])}"
            f", training would take {duration(seconds['train at most'])}."
        )
        yield f"Memory: at most {memory['peak']:.2f} GiB of {memory['available']:.1f} GiB; it {verdict}."
    for line in found["advice"]:
        saved = f"saves about {line['saves_gib']:.2f} GiB; " if line["saves_gib"] >= LEAST else ""
        yield f"  {line['setting']}={plain(line['to'])} (now {plain(line['now'])}): {saved}{line['note']}."


def _page(folder: RunFolder) -> Path:
    """Where the page is; one that cannot be written is a warning, and what was seen is in data.json."""
    try:
        return write_report(folder.path)
    except Exception as error:  # of any kind: a page is never worth a look
        log.warning("The report could not be written (%s: %s).", type(error).__name__, error)
        return folder.path / "data.json"


def _flags(words: Sequence[str]) -> list[str]:
    """Where a command line takes its config from."""
    return [
        word
        for before, word in zip(["", *words], words, strict=False)
        if word.startswith(("--config-dir", "--config-name")) or before in ("--config-dir", "--config-name")
    ]


def last_words(folder: RunFolder, page: Path, typed: Iterable[str]) -> str:
    """Where things are, and the command that trains.

    Args:
        folder: that was written into.
        page: with what was seen.
        typed: the overrides of the command line.
    """
    words = [*_flags(sys.argv[1:]), *(text for key, text in by_key(typed).items() if key not in LOOKING)]
    if "experiment_name" not in by_key(typed):
        words.append(f"experiment_name={folder.path.name}")
    command = " ".join(shlex.quote(word) for word in ["python", "train.py", *words])
    return f"The data check is in {page}. Nothing was trained. Next: {command}"
