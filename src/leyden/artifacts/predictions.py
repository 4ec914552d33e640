"""The table of predictions: the rows of the part as they were, and what the model makes of them."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from leyden.artifacts.csv_cells import inert_table
from leyden.data.dataset import TreeDataset
from leyden.problem.base import Problem
from leyden.training.evaluation import Evaluation

log = logging.getLogger(__name__)

FILES = ("predictions.csv", "predictions.parquet")


def prediction_table(
    trees: TreeDataset,
    prompts: Mapping[int, str],
    texts: Mapping[int, str],
    problem: Problem,
    evaluation: Evaluation | None,
) -> pd.DataFrame:
    """One row per row of the part, in its order, with the columns of the table first.

    Args:
        trees: the part.
        prompts: what the model was shown, by sample.
        texts: what it answered, by sample.
        problem: says which columns of an evaluation belong into the table.
        evaluation: losses and the like of the samples; None without targets.

    Returns:
        The table's own columns, `prompt_text`, `target`, `prediction`, then the problem's columns and
        `score_perplexity`. Plain texts have no `prediction`, as nothing is generated; rows that are no sample (earlier
        turns of a conversation) have an empty one.
    """
    part = trees.part
    sample_of = {row: sample for sample, row in reversed(list(enumerate(part.samples.last().tolist())))}
    samples = [sample_of.get(row) for row in part.rows]
    table = part.source.table.rows(part.rows)
    added: dict[str, Sequence[object]] = {"prompt_text": _by_sample(samples, prompts)}
    if "answer" in part.source.texts:
        added["target"] = [part.source.texts["answer"][row] for row in part.rows]
    elif texts:
        added["target"] = [None] * len(part.rows)
    if texts:
        added["prediction"] = _by_sample(samples, texts)
    if evaluation is not None:
        numbers, columns = evaluation.samples, evaluation.columns
        if trees.pieces is not None:
            numbers, columns = _whole_texts(evaluation, [sample_of[part.samples[n][-1]] for n in evaluation.samples])
        for name, cells in problem.tabulate(columns).items():
            added[name] = _by_sample(samples, dict(zip(numbers, cells, strict=True)))
        kept = [n for n, good in zip(evaluation.samples, evaluation.scored.tolist(), strict=True) if good]
        for name, remarks in evaluation.remarks.items():
            added[name] = _by_sample(samples, dict(zip(kept, remarks, strict=True)))
    extra = pd.DataFrame(added)
    return pd.concat([table.rename(columns=_renamed(list(table.columns), set(extra.columns))), extra], axis=1)


def write_predictions(table: pd.DataFrame, folder: Path) -> None:
    """Write `predictions.csv`, and the same as `predictions.parquet`.

    In the csv file, texts that a spreadsheet would take for formulas have an apostrophe in front; see `csv_cells`.

    A column of the user's whose cells are of several types, as json lines may hold them, goes into Parquet as text.
    """
    typed, mixed = storable(table)
    for name in mixed:
        log.warning("Column %r of the table holds several types; predictions.parquet holds them as text.", name)
    # every text in quotes: of those that need them the writer misses a lone carriage return, which ends a row elsewhere
    inert_table(table).to_csv(
        folder / "predictions.csv", index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC
    )
    typed.to_parquet(folder / "predictions.parquet", index=False)


def storable(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """A table that Parquet can hold, and its columns of several types, which are texts now."""
    typed, mixed = table.copy(), []
    for name in typed.columns:
        try:
            pa.array(typed[name], from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            typed[name] = [None if cell is None else str(cell) for cell in typed[name]]
            mixed.append(name)
    return typed, mixed


def _renamed(own: Sequence[str], ours: set[str]) -> dict[str, str]:
    """New names for columns of the table that are called like one of ours: `table_` before them, until unique."""
    taken, names = {*own, *ours}, {}
    for name in own:
        if name in ours:
            fresh = f"table_{name}"
            while fresh in taken:
                fresh = f"table_{fresh}"
            taken.add(fresh)
            names[name] = fresh
    return names


def _by_sample(samples: Sequence[int | None], values: Mapping[int, object]) -> list[object]:
    return [None if sample is None else values.get(sample) for sample in samples]


def _whole_texts(evaluation: Evaluation, firsts: Sequence[int]) -> tuple[list[int], dict[str, Tensor]]:
    """Add up the pieces that a text was cut into, under the number of its first piece."""
    numbers = sorted(set(firsts))
    places = torch.tensor([numbers.index(first) for first in firsts])
    sums = {
        name: torch.zeros(len(numbers), dtype=torch.float64).index_add(0, places, evaluation.columns[name].double())
        for name in ("logps", "counts")
    }
    return numbers, {**sums, "loss": -sums["logps"] / sums["counts"]}
