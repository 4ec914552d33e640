"""Gates before training: what each part holds, lost, repeats and shares, said once, and what is odd about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from leyden.data.datamodule import Prepared
from leyden.data.fit import ANSWERS, CUT, STOPPED, Fit
from leyden.data.overlap import Overlap
from leyden.data.templates import ChatTemplate, Template
from leyden.settings.wording import counted

Counts = dict[str, float]

SHARE = "share of tokens to predict"
LABELS = "labels to predict"
UNENDED = "answers without a stop token"
# the lines of a block: what each is about, which counts it has, whether it says that there are none
LINES = (
    ("cut to fit", ("samples that lost turns", "samples with a cut prompt", "samples with a cut answer",
                    "samples with a cut system text"), True),
    ("dropped", ("rows left out by dataset.data_sample", "rows of weight 0", "samples without a token to predict"),
     True),
    ("repeated", ("rows equal to an earlier one",), True),
    ("shared with training", ("rows also in training", "rows with a prompt also in training"),
     True),
    ("odd", ("samples without any token, read as one start token", "rows naming a control token, read as text"),
     False),
)  # fmt: skip


def counts_of(parts: Mapping[str, Prepared], overlap: Overlap) -> dict[str, Counts]:
    """What each part holds and what it lost, repeats and shares, in numbers.

    Args:
        parts: with how they fit, under their names.
        overlap: of training and validation; rows that repeat are sought in training, those of training in validation.
    """
    return {name: _counts_of(prepared, overlap, name) for name, prepared in parts.items()}


def _counts_of(prepared: Prepared, overlap: Overlap, name: str) -> Counts:
    part, fit = prepared.trees.part, prepared.fit
    weights, labels = part.source.weights, part.source.labels
    counts: Counts = {"rows": len(part.rows), "samples": len(part.samples), "tokens": fit.tokens}
    counts |= _texts(fit) if labels is None else {LABELS: len(part.samples) * labels.values.shape[1]}
    counts |= {
        "samples that lost turns": fit.cut["turns"],
        "samples with a cut prompt": fit.cut["prompt"],
        "samples with a cut system text": fit.cut["system"],
        "rows left out by dataset.data_sample": part.left_out,
        "rows of weight 0": 0 if weights is None else int((weights[np.asarray(part.rows)] == 0).sum()),
    }
    if name == "train":
        counts["rows equal to an earlier one"] = len(overlap.duplicates)
    else:
        counts["rows also in training"] = len(overlap.exact)
        counts["rows with a prompt also in training"] = len(overlap.similar) - len(overlap.exact)
    counts["samples without any token, read as one start token"] = fit.cut["start"]
    counts["rows naming a control token, read as text"] = len(fit.control_rows)
    missing = {
        f"empty {role} cells": len(np.intersect1d(rows, part.rows)) for role, rows in part.source.missing.items()
    }
    return counts | {name: count for name, count in missing.items() if count}


def _texts(fit: Fit) -> Counts:
    """What answers have that are texts."""
    return {
        "tokens to predict": fit.targets,
        SHARE: round(fit.targets / fit.tokens, 6) if fit.tokens else 0.0,
        ANSWERS: fit.ends[ANSWERS],
        "answers ended by a stop token": fit.ends[STOPPED],
        "answers cut off": fit.ends[CUT],
        UNENDED: fit.ends[ANSWERS] - fit.ends[STOPPED] - fit.ends[CUT],
        "samples with a cut answer": fit.cut["answer"],
        "samples without a token to predict": fit.cut["no target"],
    }


def blocks(counts: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """The lines that say what the gates have counted, part by part."""
    for name, part in counts.items():
        yield from block(name, part)


def block(name: str, counts: Mapping[str, float]) -> Iterator[str]:
    """The lines that say it, each number once; what was looked for and not found is `none`."""
    yield f"{name}: {_joined(counts, ('rows', 'samples', 'tokens'), every=True)}."
    if LABELS in counts:
        yield f"  to predict: {counts[LABELS]:,} labels."
    else:
        yield f"  to predict: {counted(int(counts['tokens to predict']), 'tokens')} ({counts[SHARE]:.1%} of all)."
        yield f"  {_ends(counts)}."
    for about, names, always in LINES:
        known = [one for one in names if one in counts]
        if known and (said := _joined(counts, known) or ("none" if always else "")):
            yield f"  {about}: {said}."
    if empty := _joined(counts, [one for one in counts if one.startswith("empty ")]):
        yield f"  empty: {empty}."


def _ends(counts: Mapping[str, float]) -> str:
    number, stopped = int(counts[ANSWERS]), int(counts["answers ended by a stop token"])
    if number == stopped:
        return f"answers: {number:,}, each with a stop token at its end"
    others = _joined(counts, ("answers cut off", UNENDED))
    return f"answers: {number:,}, of which {stopped:,} end with a stop token; {others}"


def _joined(counts: Mapping[str, float], names: tuple[str, ...] | list[str], *, every: bool = False) -> str:
    return ", ".join(counted(int(counts[one]), one) for one in names if every or counts[one])


def oddities(parts: Mapping[str, Prepared], template: Template) -> Iterator[str]:
    """Warnings about the answers and texts of each part, with where they stand and what to do."""
    for name, prepared in parts.items():
        yield from _oddities(name, prepared, template)


def _oddities(name: str, prepared: Prepared, template: Template) -> Iterator[str]:
    part, fit = prepared.trees.part, prepared.fit
    table = part.source.table
    if len(fit.unended):
        rows = part.samples.last()[np.asarray(fit.unended)]
        cure = (
            "the chat template writes nothing behind an answer that generation stops at: name it in "
            "generation.stop_tokens, or use dataset.chat_template=false"
            if isinstance(template, ChatTemplate)
            else "set dataset.add_eos_token_to_answer=true, or name what your answers end with in "
            "generation.stop_tokens"
        )
        yield (
            f"{table.path}: {name} answers do not end with a stop token ({table.places(rows)}), so the model does not "
            f"learn where an answer ends; {cure}."
        )
    if len(fit.control_rows):
        yield (
            f"{table.path}: {name} texts hold the name of a control token ({table.places(fit.control_rows)}); it is "
            "read as plain text. If it was meant as markup, take it out of the cells: the template writes it."
        )
