"""What a run is trained on, in numbers and samples, for `data.json`: bounded work, however large the tables are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leyden.data.columns import describe_columns, shortened
from leyden.data.dataset import TreeDataset
from leyden.data.integers import Integers
from leyden.data.labels import Labels
from leyden.data.rows import Part
from leyden.data.sources import Source
from leyden.data.table import Note
from leyden.data.templates import ChatTemplate
from leyden.data.token_lengths import length_histogram, number_histogram, target_lengths, whole_lengths
from leyden.data.token_texts import TokenTexts
from leyden.data.token_view import chosen_samples, token_view
from leyden.settings.schema import Settings
from leyden.training.prepare import Material

Lengths = NDArray[np.int64]

SAMPLES = {"train": 12, "validation": 4}  # that are shown of each part
EXAMPLES = 5  # rows that are named where rows repeat or overlap
OTHERS = 16  # samples of one conversation that are compared
MOST_CLASSES = 200  # that are counted one by one


def describe_data(settings: Settings, material: Material) -> dict[str, Any]:
    """Everything that `data.json` says: see docs/data_check.md.

    Args:
        settings: of the run, with its columns found.
        material: from `prepare`.
    """
    parts = {"train": material.train.trees, "validation": material.validation.trees}
    texts, lengths = TokenTexts(material.tokenizer), {name: whole_lengths(trees) for name, trees in parts.items()}
    return {
        "problem": type(material.problem).__name__,
        "backbone": material.checkpoint.name,
        "template": "chat template" if isinstance(material.template, ChatTemplate) else "markers",
        "form": settings.dataset.format,
        "tables": _tables(parts, settings, material),
        "counts": material.counts,
        "warnings": [str(line) for line in material.warnings if not isinstance(line, Note)],
        "notes": [str(line) for line in material.warnings if isinstance(line, Note)],
        **_repeated(material),
        **_labels({name: trees.part for name, trees in parts.items()}),
        "lengths": _lengths(parts, lengths),
        "samples": [sample for name in parts for sample in _samples(name, parts[name], lengths[name], texts, settings)],
    }


def _tables(parts: Mapping[str, TreeDataset], settings: Settings, material: Material) -> list[dict[str, Any]]:
    """Each table once, with the parts that it serves."""
    served: dict[int, tuple[Source, list[str]]] = {}
    for name, trees in parts.items():
        source = trees.part.source
        served.setdefault(id(source), (source, []))[1].append(name)
    return [
        {
            "parts": names,
            "path": str(source.table.path),
            "formats": sorted({file.kind for file in source.table.files}),
            "files": len(source.table.files),
            "rows": len(source.table),
            "columns": describe_columns(source.table, settings.dataset, material.problem.targets),
        }
        for source, names in served.values()
    ]


def _repeated(material: Material) -> dict[str, Any]:
    """Rows that stand twice in training, and rows of validation that stand in training."""
    train, validation, shared = material.train.trees.part, material.validation.trees.part, material.overlap
    similar = Integers(np.setdiff1d(shared.similar, shared.exact))
    return {
        "duplicates": {"rows": len(shared.duplicates), "examples": _examples(train.source, shared.duplicates)},
        "overlap": {
            "exact": len(shared.exact),
            "prompt": len(similar),
            "examples": _examples(validation.source, Integers([*shared.exact[:EXAMPLES], *similar[:EXAMPLES]])),
        },
    }


def _examples(source: Source, rows: Integers) -> list[dict[str, str]]:
    """Where the first of some rows stand, and how they begin."""
    roles = [role for role in ("prompt", "answer") if role in source.texts]
    return [
        {"place": source.table.places([row]), **{role: shortened(source.texts[role][row]) for role in roles}}
        for row in rows[:EXAMPLES]
    ]


def _labels(parts: Mapping[str, Part]) -> dict[str, Any]:
    """`balance`, rows of each label by part; `targets`, a histogram of each column of numbers; None where none are."""
    labels = {name: part.source.labels.of(part.rows) for name, part in parts.items() if part.source.labels}
    first = next(iter(labels.values()), None)
    if first is None:
        return {"balance": None, "targets": None}
    if first.kind == "numbers":
        columns = {
            column: number_histogram({name: one.values[:, place] for name, one in labels.items()})
            for place, column in enumerate(first.columns)
        }
        return {"balance": None, "targets": columns}
    return {"balance": {name: _balance(one) for name, one in labels.items()}, "targets": None}


def _balance(labels: Labels) -> dict[str, int]:
    """Rows of each label, the commonest first where there are many; of binary columns the rows that have the tag."""
    if labels.class_names is None:
        counts = np.nansum(labels.values > 0, axis=0).tolist()
        return dict(zip(labels.columns, map(int, counts), strict=True))
    numbers = labels.values[:, 0]
    counts = np.bincount(numbers[np.isfinite(numbers)].astype(int), minlength=len(labels.class_names)).tolist()
    found = dict(zip(labels.class_names, counts, strict=True))
    if len(found) <= MOST_CLASSES:
        return found
    ordered = sorted(found.items(), key=lambda one: -one[1])
    rest = sum(count for _, count in ordered[MOST_CLASSES:])
    return dict(ordered[:MOST_CLASSES]) | {f"{len(found) - MOST_CLASSES} more classes": rest}


def _lengths(parts: Mapping[str, TreeDataset], wholes: Mapping[str, Lengths]) -> list[dict[str, Any]]:
    """Lengths before anything is cut, against the limit: of samples, or of sources and targets apart."""
    limits = parts["train"].limits
    of = "samples" if limits.target_length is None else "sources"
    if parts["train"].pieces is not None:
        of = "pieces"
    found = [{"of": of, "setting": "tokenizer.max_length", "limit": limits.max_length,
              **length_histogram(dict(wholes), limits.max_length)}]  # fmt: skip
    targets = {name: lengths for name, trees in parts.items() if (lengths := target_lengths(trees)) is not None}
    if targets and limits.target_length is not None:
        found.append({"of": "targets", "setting": "problem.max_target_length", "limit": limits.target_length,
                      **length_histogram(targets, limits.target_length)})  # fmt: skip
    return found


def _samples(
    name: str, trees: TreeDataset, lengths: Lengths, texts: TokenTexts, settings: Settings
) -> list[dict[str, Any]]:
    table, source = trees.part.source.table, trees.part.source
    chosen = chosen_samples(lengths, SAMPLES[name])
    ids = settings.dataset.id_column
    found = []
    for sample, why in chosen.items():
        rows = trees.part.samples[sample]
        cell = table.rows([rows[-1]])[ids][0] if ids is not None and ids in table.frame.columns else None
        labels = None if source.labels is None else _said(source.labels, rows[-1])
        found.append({
            "part": name, "sample": sample, "place": table.places([rows[-1]]),
            "id": None if cell is None else str(cell), "why": why,
            "turns": len(rows), "before": int(lengths[sample]), "labels": labels,
            **token_view(trees, sample, texts, _others(trees, sample)),
        })  # fmt: skip
    return found


def _others(trees: TreeDataset, sample: int) -> list[int]:
    """Some samples of the same conversation."""
    if trees.pieces is not None:
        return []
    samples = trees.part.samples
    roots = samples.values[samples.offsets[:-1]]
    return [other for other in np.flatnonzero(roots == roots[sample])[:OTHERS].tolist() if other != sample]


def _said(labels: Labels, row: int) -> dict[str, str]:
    """The labels of one row by their columns."""
    values: Sequence[float] = labels.values[row].tolist()
    if labels.class_names is not None:
        missing = not np.isfinite(values[0])
        return {labels.columns[0]: "" if missing else labels.class_names[int(values[0])]}
    return {column: f"{value:g}" for column, value in zip(labels.columns, values, strict=True)}
