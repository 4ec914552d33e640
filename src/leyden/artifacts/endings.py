"""A run that ends before its time: what a disk that takes no more means, and where to go on from."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from leyden.artifacts.folder import RunFolder
from leyden.artifacts.summary import argument
from leyden.settings.errors import LeydenError, TrainingError
from leyden.training.devices import is_later_rank
from leyden.training.disk import refusal
from leyden.training.saved_states import PATTERN

log = logging.getLogger(__name__)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Name the cure where a file of a run cannot be written.

    Args:
        folder: of the run.

    Raises:
        TrainingError: the disk, its quota or its permissions are in the way.
    """
    try:
        yield
    except LeydenError:
        raise
    except Exception as error:
        number = refusal(error)
        if number is None:
            raise
        named = getattr(error, "filename", None)
        raise TrainingError(
            f"{named or folder} cannot be read or written: {os.strerror(number)}. What {folder} has is kept. Free "
            f"some space or mend the folder, then go on with resume={folder}."
        ) from error


@contextmanager
def where_to_go_on(folder: RunFolder) -> Iterator[None]:
    """Say, when a run ends before its time, which checkpoint it can be gone on from."""
    try:
        yield
    except BaseException:
        newest = max(folder.checkpoints.glob(PATTERN), default=None)
        if newest is not None and not is_later_rank():
            log.warning(
                "The newest checkpoint is %s. To go on from there: python train.py %s",
                newest.name, argument("resume", str(folder.path)),
            )  # fmt: skip
        raise
