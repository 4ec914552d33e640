"""The page over many runs: their table, settings against the metric, curves over each other, two runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leyden.report.compared_runs import find_runs
from leyden.report.comparison_charts import curves_section, settings_section
from leyden.report.comparison_predictions import predictions_section
from leyden.report.comparison_table import runs_section
from leyden.report.page import render_page, write_page
from leyden.report.ranking import Comparison, compare
from leyden.settings.wording import counted

FILE = "comparison.html"
KIND = "Leyden comparison"  # stands in the title of every page


def write_comparison(folders: Sequence[Path], path: Path, metric: str | None = None) -> Comparison:
    """Compare the runs of these folders and write the page.

    Args:
        folders: of runs, or holding runs.
        path: of the page.
        metric: that orders them; None: what most of them were watched by.

    Raises:
        ConfigError: there is no run, or none of them has that metric.
    """
    compared = compare(find_runs(folders), metric)
    write_page(path, comparison_page(compared, path.parent))
    return compared


def comparison_page(compared: Comparison, folder: Path) -> str:
    """The page as text.

    Args:
        compared: what is shown.
        folder: that the page will be in, for links to the pages of the runs.
    """
    made = [
        runs_section(compared, folder),
        settings_section(compared),
        curves_section(compared),
        predictions_section(compared.runs, compared.metric),
    ]
    said = f"Ordered by {compared.metric}" + {"min": ", lowest first", "max": ", highest first"}.get(
        compared.better or "", ""
    )
    title = f"{counted(len(compared.runs), 'runs')} compared" if len(compared.runs) != 1 else "1 run"
    return render_page(title, [one for one in made if one is not None], kind=KIND, subtitle=f"{said}.")
