"""How far apart two models' outputs are, and where two texts part."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from leyden.artifacts.probe import Answers
from leyden.settings.wording import show

QUOTED = 40  # characters of a text


class Share(NamedTuple):
    """How much of what the training has changed is there: 0 for the base, 1 for what was trained.

    Attributes:
        found: the share.
        uncertain: by how much rounding may have moved it.
    """

    found: float
    uncertain: float


def difference_of(outputs: Tensor, expected: Tensor) -> float:
    """The largest difference of two outputs.

    Infinite where one is not a number, the shapes differ, or an infinite one has no equal in its place.
    """
    finite = expected.isfinite()
    if outputs.shape != expected.shape or not torch.equal(outputs[~finite], expected[~finite]):
        return math.inf
    found = largest_of((outputs - expected)[finite], finite=False)
    return math.inf if math.isnan(found) else found


def share_of(outputs: Sequence[Tensor], expected: Answers, least: float) -> Share | None:
    """How much of what an adapter changes of the outputs is there, by least squares over all that are finite.

    With a residual r beside a change c of P positions, rounding that is alike at all entries of a position moves the
    share by about |r| / (|c| sqrt(P)).

    Args:
        outputs: of each row.
        expected: of each row.
        least: change that is more than rounding, as a share of the outputs, both by the root of their squares.

    Returns:
        None without a base, where the adapter changes less than that, or where the outputs have other shapes.
    """
    shapes = [[one.shape for one in each] for each in (outputs, *expected)]
    if not expected.bases or not shapes[0] == shapes[1] == shapes[2]:
        return None
    ours, trained, base = (torch.cat([one.flatten() for one in each]).double() for each in (outputs, *expected))
    finite = ours.isfinite() & trained.isfinite() & base.isfinite()
    change, away = (trained - base)[finite], (ours - base)[finite]
    size = float(change.square().sum())
    if not size or math.sqrt(size) < least * float(trained[finite].norm()):
        return None
    found = float(away @ change) / size
    positions = sum(len(one) for one in expected.outputs)
    return Share(found, float((away - found * change).norm()) / math.sqrt(size * positions))


def largest_of(outputs: Tensor, *, finite: bool = True) -> float:
    """The largest size of an output; by default of those that are finite."""
    sizes = (outputs[outputs.isfinite()] if finite else outputs).abs()
    return float(sizes.max()) if sizes.numel() else 0.0


def parting(one: Mapping[str, Any], tokens: Sequence[int], text: str) -> str:
    """Where a conversation begins to be another one than what was trained, and how the two go on."""
    trained = one["text"] if one["trained"] is None else one["trained"]
    if text != trained:
        start = len(os.path.commonprefix([text, trained]))
        ours, theirs = (show(each[start : start + QUOTED]) for each in (text, trained))
        return f"from character {start + 1} on {ours} stands where {theirs} was trained"
    start = len(os.path.commonprefix([list(tokens), list(one["ids"])]))
    found, expected = (each[start : start + 1] for each in (list(tokens), list(one["ids"])))
    return f"the text is the same, and token {start + 1} is {found} where {expected} was trained"
