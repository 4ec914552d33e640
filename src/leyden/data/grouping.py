"""Samples of one conversation stay together, so that a batch has beginnings to share."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

WINDOW = 64  # groups among which the next one may be chosen: few, so that the order stays nearly that of the draw
SIZES = (2, 4, 8, 16, 32, 64)  # of the steps that groups are fitted to; independent of the real one, as the order is


@dataclass(frozen=True, eq=False)
class Groups:
    """Which samples belong together.

    Attributes:
        members: [n], sample numbers, group after group.
        starts: [groups + 1], where each group begins in `members`.
    """

    members: NDArray[np.int64]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        """Groups."""
        return len(self.starts) - 1

    def joined(self, order: Sequence[int]) -> list[int]:
        """The samples of the groups in this order."""
        parts = [self.members[self.starts[group] : self.starts[group + 1]] for group in order]
        found: list[int] = np.concatenate([np.empty(0, dtype=np.int64), *parts]).tolist()
        return found


def conversations(samples: Sequence[tuple[int, ...]]) -> Groups | None:
    """Group samples whose conversations have the same first row.

    Within a group a sample is followed by those that go on from it, so that neighbours share most.

    Args:
        samples: for each its rows, from the root of its conversation on.

    Returns:
        None where every sample has a first row of its own.
    """
    roots = np.fromiter((rows[0] for rows in samples), dtype=np.int64, count=len(samples))
    if len(np.unique(roots)) == len(roots):
        return None
    members = np.array(sorted(range(len(samples)), key=samples.__getitem__), dtype=np.int64)
    cuts = np.flatnonzero(np.diff(roots[members])) + 1
    return Groups(members, np.array([0, *cuts, len(members)], dtype=np.int64))


def fitted(groups: Groups, order: Sequence[int]) -> list[int]:
    """The samples in the order of the groups, moved a little so that steps part few groups.

    Out of each `WINDOW` groups in turn, the one follows that is parted by the fewest of the steps of 2, 4, … samples
    beyond what its size needs; of equals the largest, and then the first. It says nothing about the real step, so a run
    may go on with another.

    Args:
        groups: of the samples.
        order: of the groups, as it was drawn.
    """
    sizes = np.diff(groups.starts)[np.asarray(order, dtype=np.int64)].tolist()
    found: list[int] = []
    place = 0
    for start in range(0, len(order), WINDOW):
        for chosen in _chosen(sizes[start : start + WINDOW], place):
            found.append(order[start + chosen])
            place += sizes[start + chosen]
    return groups.joined(found)


def _chosen(sizes: Sequence[int], place: int) -> Iterator[int]:
    """The places of a window in the order in which its groups follow."""
    waiting: dict[int, deque[int]] = {}
    for number, size in enumerate(sizes):
        waiting.setdefault(size, deque()).append(number)
    while waiting:
        size = min(waiting, key=lambda size: (_parted(place % SIZES[-1], size), -size))
        yield waiting[size].popleft()
        place += size
        if not waiting[size]:
            del waiting[size]


@cache
def _parted(place: int, size: int) -> int:
    """How many more pieces than needed a group has that begins here, over steps of all sizes."""
    return sum((place + size - 1) // step - place // step + 1 - -(-size // step) for step in SIZES)
