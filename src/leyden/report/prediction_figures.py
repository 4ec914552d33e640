"""The part of a report about all predictions together, in the figures of their problem."""

from __future__ import annotations

from leyden.report.class_section import class_section
from leyden.report.number_section import number_section
from leyden.report.page import Section
from leyden.report.pair_section import pair_section
from leyden.report.prediction_table import PredictionTable
from leyden.report.run_files import RunFiles

MAKERS = {"classes": class_section, "labels": class_section, "numbers": number_section, "pairs": pair_section}


def section(run: RunFiles) -> Section | None:
    """Classes, numbers or preferences; None before there are predictions, or where they are texts.

    Args:
        run: files of the run.
    """
    predictions = PredictionTable.of(run)
    make = MAKERS.get(predictions.kind) if predictions is not None and len(predictions) else None
    return None if make is None or predictions is None else make(predictions)
