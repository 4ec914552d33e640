"""What evaluations say of each row, while a run goes on: before training, and at the last evaluation so far."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from leyden.artifacts.predictions import prediction_table, storable
from leyden.settings.schema import Settings
from leyden.training.assembly import make_answerer
from leyden.training.outcome import Run
from leyden.training.prepare import Material

BEFORE, LAST = "before.parquet", "evaluation.parquet"
PROMPT_TEXT = "prompt_text"


class EvaluationTables:
    """Writes the tables of a run's evaluations, on the first process alone.

    `before.parquet` has the problem's columns before training, a row for each of `predictions.parquet`. A run that goes
    on keeps it. `evaluation.parquet` is what `predictions.parquet` will be, as far as the last evaluation knows it.

    Args:
        folder: of the run.
        material: with the validation rows.
        settings: of the run.
    """

    def __init__(self, folder: Path, material: Material, settings: Settings) -> None:
        self._folder, self._material, self._settings = folder, material, settings
        self._prompts: dict[int, str] | None = None

    def write(self, run: Run) -> None:
        """Write what the evaluation that is over said of each row.

        Args:
            run: with the evaluation.
        """
        evaluation, step = run.module.evaluation, run.history.points[-1].step
        if evaluation is None:
            return
        trees = self._material.validation.trees
        if self._prompts is None:  # the same at each evaluation
            answerer = make_answerer(self._settings, self._material, run.module.backbone)
            self._prompts = answerer.shown(range(len(trees)))
        table = prediction_table(trees, self._prompts, evaluation.texts, self._material.problem, evaluation)
        table, _ = storable(table)
        table.attrs["step"] = step
        _replace(self._folder / LAST, table)
        if step == 0:
            told = {PROMPT_TEXT, *(["target"] if "answer" in trees.part.source.texts else [])}
            added = list(table.columns)[list(table.columns).index(PROMPT_TEXT) :]
            _replace(self._folder / BEFORE, table[[name for name in added if name not in told]])


def forget_last(folder: Path) -> None:
    """Delete the table of the last evaluation, once there is one of the model that is kept.

    Args:
        folder: of the run.
    """
    (folder / LAST).unlink(missing_ok=True)


def _replace(path: Path, table: pd.DataFrame) -> None:
    """Write a table so that whoever reads it finds the old one or the new one."""
    draft = path.with_name(f".{path.name}.partial")
    table.to_parquet(draft, index=False)
    draft.replace(path)
