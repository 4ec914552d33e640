"""The page of a run that goes on: written at its start, after each evaluation and at its end, however that comes."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from leyden.artifacts.evaluation_tables import EvaluationTables
from leyden.artifacts.folder import FAILED, RUNNING, STOPPED
from leyden.artifacts.manifest import write_json
from leyden.artifacts.parent import PARENT
from leyden.report.report import write_report
from leyden.report.run_files import PROGRESS, progress_of
from leyden.settings.errors import LeydenError
from leyden.settings.schema import Settings
from leyden.training.devices import is_later_rank
from leyden.training.interrupts import Stopped
from leyden.training.outcome import Run
from leyden.training.prepare import Material
from leyden.training.used_memory import peak_memory_gib

SHARE = 0.03  # of the time of a run that pages may take, besides the first one, which loads what they are made with

log = logging.getLogger(__name__)


class Reports:
    """Writes `progress.json` and the page of a run, on the first process alone.

    A page that cannot be written is one warning and a word in the manifest; the run goes on without it. Where
    evaluations follow each other so fast that pages would take more than their share of the time, some are passed over,
    and counted; what the page is made of is written each time, and the page of the end always.

    Args:
        folder: of the run.
        material: what it trains on.
        settings: of the run.
        requested_seed: what the settings said before a seed was drawn.
    """

    def __init__(self, folder: Path, material: Material, settings: Settings, requested_seed: int) -> None:
        self._folder, self._clock = folder, time.perf_counter()
        self._tables = EvaluationTables(folder, material, settings)
        self._known: dict[str, Any] = {
            "started": _now(),
            "requested_seed": requested_seed,
            "metrics": {one.name: one.direction for one in material.metrics},
            "counts": material.counts,
            "warnings": [str(line) for line in material.warnings],
        }
        self._written, self._passed, self._seconds = 0, 0, 0.0
        self._due = -math.inf  # when the next page may be written
        self._fault: str | None = None

    def record(self) -> dict[str, Any]:
        """For the manifest: how often the page was written, how long that took, and what was in the way."""
        return {
            "written": self._written, "passed_over": self._passed, "seconds": round(self._seconds, 3),
            "fault": self._fault,
        }  # fmt: skip

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Write the page at the start of the block, and once more if it ends before its time."""
        self.write(RUNNING)
        try:
            yield
        except Stopped as stop:
            self.write(STOPPED, reason=f"signal {stop.signum}")
            raise
        except BaseException as error:
            # where one of several processes has failed, its launcher soon kills this one: the parent writes the page
            self.write(FAILED, reason=_reason(error), page=PARENT not in os.environ)
            raise

    def evaluated(self, run: Run) -> None:
        """Write what an evaluation says of each row, and the page."""
        self.write(RUNNING, run)

    def finish(self, status: str, run: Run, write_manifest: Callable[..., None]) -> None:
        """Write the manifest and then the page that reads it; what the page met goes into the manifest again.

        Args:
            status: of the run.
            run: that has come to its end.
            write_manifest: takes the status, and more of the manifest.
        """
        write_manifest(status)
        self.write(status, run)
        write_manifest(status, report=self.record())

    def write(self, status: str, run: Run | None = None, reason: str = "", *, page: bool = True) -> None:
        """Write how far the run is, and the page.

        Args:
            status: of the run.
            run: as it is now; None: as it was told last.
            reason: why it has ended before its time.
            page: false: write `progress.json` alone.
        """
        if is_later_rank():
            return
        clock = time.perf_counter()
        try:
            if run is not None:
                self._known |= _reached(run)
                if status == RUNNING:
                    self._tables.write(run)
            now = {"status": status, "reason": reason, "written": _now(), "seconds": round(clock - self._clock, 3)}
            write_json(self._folder / PROGRESS, {**now, **self._known, "peak_memory_gib": round(peak_memory_gib(), 3)})
            if page and status == RUNNING and clock < self._due:
                self._passed += 1
            elif page:
                self._write_page()
        except Exception as error:  # of any kind: a page is never worth a run
            if self._fault is None:
                self._fault = f"the report could not be written ({type(error).__name__}: {error})"
                log.warning("%s; the run goes on without it.", self._fault[:1].upper() + self._fault[1:])
        self._seconds += time.perf_counter() - clock

    def _write_page(self) -> None:
        clock = time.perf_counter()
        write_report(self._folder)
        now = time.perf_counter()
        if self._written:
            self._due = now + (now - clock) / SHARE
        self._written += 1


@contextmanager
def ended_without_a_word(folder: Path) -> Iterator[None]:
    """Write the page of a run whose processes have ended without a word: killed, say, or before they could begin.

    Args:
        folder: of the run.
    """
    try:
        yield
    except BaseException as error:
        try:
            said = progress_of(folder)
            if said.get("status") in (RUNNING, None):
                status = STOPPED if isinstance(error, Stopped) else FAILED
                write_json(folder / PROGRESS, {**said, "status": status, "reason": _reason(error), "written": _now()})
            write_report(folder)
        except Exception as fault:
            log.warning("The report could not be written (%s: %s).", type(fault).__name__, fault)
        raise


def goes_on_again(folder: Path) -> None:
    """Have a run that is gone on with say so from now on, and not how its earlier part has ended.

    Args:
        folder: of the run.
    """
    if said := progress_of(folder):
        write_json(folder / PROGRESS, {**said, "status": RUNNING, "reason": "", "written": _now(), "seconds": 0.0})


def _reached(run: Run) -> Mapping[str, Any]:
    """How far a run is."""
    history = run.history
    return {
        "updates": run.updates,
        "updates_done": run.trainer.global_step,
        "samples": history.samples,
        "tokens_per_second": history.tokens / history.seconds if history.seconds else None,
        "skipped_updates": run.module.skipped_updates,
        "empty_updates": run.module.empty_updates,
    }


def _reason(error: BaseException) -> str:
    """What an error says, without its traceback."""
    if isinstance(error, Stopped):
        return f"signal {error.signum}"
    if isinstance(error, LeydenError):
        return " ".join(error.faults)
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
