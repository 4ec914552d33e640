"""Lines that say how far long work on a table is, in terminals and pipes alike; short work says nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

EVERY = 10.0  # seconds

log = logging.getLogger(__name__)
Item = TypeVar("Item")


def with_progress(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """The items as they are; a line every ten seconds says how many of them are done and what time is left.

    Args:
        items: of the work; one that has a length counts as so many.
        what: they are, as the line calls them: `Tokenizing the column prompt`.
        total: of all that will be counted.
    """
    begun = said = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += len(item) if isinstance(item, Sized) else 1
        now = time.monotonic()
        if now - said >= EVERY and done < total:
            said = now
            log.info(
                "%s: %s of %s, %.0f s left.", what, f"{done:,}", f"{total:,}", (now - begun) / done * (total - done)
            )
