"""Useful floating-point operations of a case: what the mathematics asks for, without padding, masks or repetition.

Per token and weight matrix of m x n below the adapter, which is frozen: 2mn forward and 2mn for the gradient of its
input. Per matrix of the adapter: 2mn forward, 4mn backward. Per layer and pair of a token with one that it sees,
itself included, with heads of d numbers in all: 4d forward (scores, mixture), 8d backward. Per labelled position and
vocabulary entry of h numbers: 2h forward, 2h backward. Elementwise work is not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.work import IGNORED, Shape, Work


@dataclass(frozen=True)
class Counts:
    """What a model does in all updates together.

    Attributes:
        tokens: that go through the layers; a shared beginning once.
        pairs: of a token and one that it sees, itself included.
        labelled: positions that the output head is evaluated at.
    """

    tokens: int
    pairs: int
    labelled: int


def useful_flops(shape: Shape, counts: Counts) -> float:
    """Operations of forward and backward passes; the formula stands at the top of the file."""
    linear = (4 * shape.frozen + 6 * shape.adapter) * counts.tokens
    return float(linear + 12 * shape.attended * counts.pairs + 4 * shape.head * counts.labelled)


def counts_of(work: Work) -> Counts:
    """What a case asks for: shared beginnings once per pair and, with chains, once per update."""
    tokens = pairs = labelled = 0
    for epoch in work.epochs:
        for update in epoch:
            samples = [work.samples[place] for place in update]
            groups = [samples] if work.chained else [[sample] for sample in samples]
            for group in groups:
                for depth, scored in _positions(group, work.kind == "pairs"):
                    tokens, pairs, labelled = tokens + 1, pairs + depth, labelled + scored
    return Counts(tokens, pairs, labelled)


def _positions(samples: Sequence[dict[str, Any]], paired: bool) -> Iterable[tuple[int, bool]]:
    """Each position that differs from all others: its depth, counted from 1, and whether its successor is a label."""
    found: dict[tuple[int, int], bool] = {}
    paths = [path for sample in samples for path in _paths(sample, paired)]
    for ids, labels in paths:
        prefix: tuple[int, int] = (0, 0)
        for depth, token in enumerate(ids, start=1):
            prefix = (hash((prefix, token)), depth)
            scored = depth < len(ids) and labels[depth] != IGNORED
            found[prefix] = found.get(prefix, False) or scored
    return [(depth, scored) for (_, depth), scored in found.items()]


def _paths(sample: dict[str, Any], paired: bool) -> list[tuple[list[int], list[int]]]:
    """Token ids and labels of each sequence of a sample."""
    if paired:
        hidden = [IGNORED] * len(sample["prompt"])
        return [(sample["prompt"] + sample[side], hidden + sample[side]) for side in ("chosen", "rejected")]
    ids = sample["input_ids"]
    return [(ids, sample.get("labels", [IGNORED] * len(ids)))]
