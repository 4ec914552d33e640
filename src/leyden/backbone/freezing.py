"""Weights that stay as they are while the rest of the model is trained."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from torch import nn

from leyden.backbone.names import canonical_names, matching
from leyden.settings.errors import ModelError


def freeze_layers(model: nn.Module, entries: Sequence[str]) -> None:
    """Take the gradient from every weight that has a name which contains one of the entries.

    Args:
        model: without an adapter. A weight that several modules share is frozen with any of its names.
        entries: `backbone.freeze_layers`; parts of the names of `canonical_names`.

    Raises:
        ModelError: an entry fits no weight, or no weight would be left to train.
    """
    names = canonical_names(model)
    for weight in chosen(names, entries, "backbone.freeze_layers"):
        weight.requires_grad_(False)
    if entries and not any(weight.requires_grad for weight in names.values()):
        raise ModelError(
            f"backbone.freeze_layers={list(entries)} freezes every weight of {type(model).__name__}, so nothing is "
            f"left to train. Leave an entry out; names look like {_examples(names)}."
        )


def chosen(names: Mapping[str, nn.Parameter], entries: Sequence[str], setting: str) -> list[nn.Parameter]:
    """The weights that any of the entries fits, each once.

    Args:
        names: of `canonical_names`.
        entries: parts of names.
        setting: where the entries stand, for the error.

    Raises:
        ModelError: with all entries that fit nothing.
    """
    found: dict[int, nn.Parameter] = {}
    faults = []
    for entry in entries:
        fitting = matching(names, entry)
        found |= {id(weight): weight for weight in fitting}
        if not fitting:
            parts = sorted({part for name in names for part in name.split(".")})
            near = difflib.get_close_matches(entry, parts, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            faults.append(
                f"{setting}: {entry!r} is part of no weight's name.{hint} Names look like {_examples(names)}."
            )
    if faults:
        raise ModelError(faults)
    return list(found.values())


def _examples(names: Mapping[str, nn.Parameter]) -> str:
    """The first name and the last one, which show what the ends of the model are called."""
    listed = list(names)
    return " and ".join(dict.fromkeys((listed[0], listed[-1])))
