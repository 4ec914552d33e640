"""The page of one run: its sections, in order, and where it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from markupsafe import Markup

from leyden.report import configuration, curves, data, prediction_figures, predictions, summary
from leyden.report.page import Section, render_page, write_page
from leyden.report.run_files import RunFiles
from leyden.settings.errors import PROGRAM_FAULT, LeydenError

FILE = "report.html"


class SectionError(LeydenError):
    """Parts of a page could not be made; the others are written. Exit code 1."""

    kind = "page error"
    code = PROGRAM_FAULT


# Each says what it can of a run as far as it has come; None: nothing yet.
Maker = Callable[[RunFiles], Section | None]
SECTIONS: Sequence[Maker] = (
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

    Raises:
        SectionError: some sections could not be made; the page is written, and says so where they were.
    """
    run, failed = RunFiles.read(folder), dict[str, Exception]()
    sections = [section for make in SECTIONS if (section := _made(make, run, failed)) is not None]
    page = render_page(run.name, sections, kind="Leyden run", subtitle=summary.described(run))
    write_page(folder / FILE, page)
    if failed:
        told = [f"{name}: {type(error).__name__}: {error}" for name, error in failed.items()]
        raise SectionError(told) from next(iter(failed.values()))
    return folder / FILE


def _made(make: Maker, run: RunFiles, failed: dict[str, Exception]) -> Section | None:
    """A section, or where it cannot be made the reason in its place."""
    name = make.__module__.rpartition(".")[2]
    try:
        return make(run)
    except Exception as error:  # of any kind: it is raised again once the rest of the page is written
        failed[name] = error
        said = f"This part could not be made ({type(error).__name__}: {error}). The files of the run are as they were."
        return Section(name, name.replace("_", " ").capitalize(), Markup('<p class="notice bad">{}</p>').format(said))
