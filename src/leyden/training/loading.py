"""What a dead process that built batches means to the user."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from leyden.settings.errors import TrainingError

DEAD = re.compile(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\) (?:exited unexpectedly|is killed by signal: (\w+))")


@contextmanager
def worker_errors(workers: int) -> Iterator[None]:
    """Name the cure where a process of the loader was killed.

    Args:
        workers: how many there are.

    Raises:
        TrainingError: one of them has ended.
    """
    try:
        yield
    except RuntimeError as error:
        found = DEAD.search(str(error))
        if found is None:
            raise
        how = f" ({found[2]})" if found[2] else ""
        raise TrainingError(
            f"A process that builds batches has ended: pid {found[1]}{how}. Mostly the memory was not enough for "
            f"trainer.number_of_workers={workers}: lower it, 0 needs none."
        ) from error
