"""The folder of an export: it gets its name once it is whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import PreTrainedModel

from leyden.artifacts.export import SPARE
from leyden.artifacts.whole import whole_folder
from leyden.settings.errors import ConfigError
from leyden.training.disk import refusal

OF_ADAPTERS = ("adapter_*", "config.json", "README.md")  # what a whole model has of its own, or not at all


def write_merged(model: PreTrainedModel, beside: Path, card: str, output: Path) -> None:
    """Write a whole model.

    Args:
        model: that is written.
        beside: model folder of the run, whose tokenizer and other files go with it.
        card: text of its README.
        output: folder that is made.

    Raises:
        ConfigError: it cannot be written; then nothing of it is left.
    """
    model.config.use_cache = True
    with written(output) as partial:
        model.save_pretrained(partial)
        shutil.copytree(beside, partial, ignore=shutil.ignore_patterns(*OF_ADAPTERS), dirs_exist_ok=True)
        (partial / "README.md").write_text(card, encoding="utf-8")


def write_copy(model: Path, output: Path) -> None:
    """Copy a model folder.

    Raises:
        ConfigError: it cannot be written; then nothing of it is left.
    """
    with written(output) as partial:
        shutil.copytree(model, partial, dirs_exist_ok=True)


def check_room(model: PreTrainedModel, dtype: torch.dtype, output: Path) -> None:
    """Refuse a folder whose disk has no room for the model.

    Raises:
        ConfigError: with the space that is needed and the space that is there.
    """
    place = next(path for path in output.absolute().parents if path.exists())
    total, _, free = shutil.disk_usage(place)
    needed = SPARE + dtype.itemsize * sum(weight.numel() for weight in model.parameters())
    if total and free < needed:
        raise ConfigError(
            f"output={str(output)!r}: the merged model needs about {needed / 2**20:.0f} MiB on disk, and "
            f"{free / 2**20:.0f} MiB are free there. Free some space, or name another folder."
        )


@contextmanager
def written(output: Path) -> Iterator[Path]:
    """A folder to write in, which then gets its name.

    Raises:
        ConfigError: it cannot be written; then nothing of it is left.
    """
    try:
        with whole_folder(output, replace=False) as partial:
            yield partial
    except Exception as error:  # the library of the weights raises errors of its own
        if not isinstance(error, OSError) and refusal(error) is None:
            raise
        raise ConfigError(f"output={str(output)!r} cannot be written: {error}. Name another folder.") from error
