"""The page of one run: its sections, in order, and where it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from leyden.report import configuration, curves, data, prediction_figures, predictions, summary
from leyden.report.page import Section, render_page, write_page
from leyden.report.run_files import RunFiles

FILE = "report.html"

# Each says what it can of a run as far as it has come; None: nothing yet.
SECTIONS: Sequence[Callable[[RunFiles], Section | None]] = (
    summary.section,
    data.section,
    curves.section,
    prediction_figures.section,
    predictions.section,
    configuration.section,
)


def write_report(folder: Path) -> Path:
    """Write the page of a run folder anew, from what its files say now.

    Args:
        folder: of the run; it may go on, have ended well or not.

    Returns:
        The page.
    """
    run = RunFiles.read(folder)
    sections = [section for make in SECTIONS if (section := make(run)) is not None]
    page = render_page(run.name, sections, kind="Leyden run", subtitle=summary.described(run))
    write_page(folder / FILE, page)
    return folder / FILE
