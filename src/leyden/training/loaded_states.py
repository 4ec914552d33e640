"""A checkpoint that is read back: only into weights of the same names, and only if it can run no code."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from leyden.settings.errors import TrainingError
from leyden.training.saved_states import STATE
from leyden.training.update import trained_weights


def load_trained(module: nn.Module, path: Path) -> None:
    """Put the trained weights of a checkpoint back into the module, by name.

    Args:
        module: with the same weights in training.
        path: folder of the checkpoint.

    Raises:
        TrainingError: the names differ, or it holds more than numbers, texts, containers and tensors.
    """
    with pickles_refused(path / STATE):
        found = torch.load(path / STATE, map_location="cpu", weights_only=True)["state_dict"]
    trained = trained_weights(module)
    check_names(found, trained, str(path))
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(found[name])


@contextmanager
def pickles_refused(state: Path | None) -> Iterator[None]:
    """Read a checkpoint in the block: one that would run code is refused.

    Raises:
        TrainingError: it holds more than numbers, texts, containers and tensors.
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        found = re.search(r"Trying to load unsupported (.+?)\.?$", str(error), re.MULTILINE)
        what = found[1] if found else "it is no state of a training"
        raise TrainingError(
            f"{state} holds more than numbers and texts ({what}), so it is not read: it may run code. Leyden has not "
            "written it; delete that folder, and the checkpoint before it is used."
        ) from error


def check_state(module: nn.Module, path: Path) -> None:
    """Look into a checkpoint before a strategy reads it: some leave out what does not fit, without a word.

    Args:
        module: with the weights in training.
        path: folder of the checkpoint.

    Raises:
        TrainingError: the names differ, or it holds more than numbers, texts, containers and tensors.
    """
    with pickles_refused(path / STATE):
        found = torch.load(path / STATE, map_location="cpu", weights_only=True, mmap=True)
    check_names(found["state_dict"], trained_weights(module), str(path))


def check_names(found: Mapping[str, Any], trained: Mapping[str, Any], source: str) -> None:
    """Refuse weights that are not exactly those in training.

    Raises:
        TrainingError: with how many names differ, and one of them.
    """
    if found.keys() != trained.keys():
        odd = sorted(found.keys() ^ trained.keys())
        raise TrainingError(f"{source}: {len(odd)} names differ from the weights in training, such as {odd[0]}.")
