"""What a training that cannot go on leaves: the error says where its last good checkpoint is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from leyden.settings.errors import TrainingError
from leyden.training.checkpoints import Checkpoints


@contextmanager
def named_in_errors(checkpoints: Checkpoints) -> Iterator[None]:
    """Add to every `TrainingError` inside which weights there are; updates that were not applied are in none of them.

    Args:
        checkpoints: of the training.

    Raises:
        TrainingError: the one from inside, with that sentence behind its last fault.
    """
    try:
        yield
    except TrainingError as error:
        *others, last = error.faults
        raise TrainingError([*others, f"{last} {kept_so_far(checkpoints)}"]) from error


def kept_so_far(checkpoints: Checkpoints) -> str:
    """The sentence that names the newest checkpoint, or says why there is none."""
    if checkpoints.settings.policy == "disable":
        return "There is no checkpoint, because checkpoint=disable keeps none."
    trained = [one for one in checkpoints.saved if one.point.step]
    if not trained:
        return "There is no checkpoint yet: the first evaluation after an update would have written one."
    newest = trained[-1]
    return f"The last good checkpoint is {newest.path}, after update {newest.point.step}."
