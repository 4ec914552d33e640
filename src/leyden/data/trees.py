"""Token trees: one sample as a shared beginning and what hangs from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int32]


class Segment(NamedTuple):
    """A run of tokens, as a problem hands it in.

    Args:
        tokens: token ids; may be empty.
        targets: which of them are to be predicted, one bool per token, or one bool for all of them.
        parent: index in the list of the segment this one continues; -1 makes it a root.
        sequence: the sequence of the sample that its targets belong to.
    """

    tokens: Sequence[int]
    targets: Sequence[bool] | bool
    parent: int = -1
    sequence: int = 0


@dataclass(frozen=True, eq=False)
class Tree:
    """One sample: T tokens in S segments, N of them to be predicted.

    A token sees its ancestors and the earlier tokens of its own segment. A token that is a target of several
    sequences stands in `targets` once for each.

    Args:
        tokens: [T], token ids, segments one after another, parents before children.
        starts: S + 1 boundaries of the segments in `tokens`.
        parents: S, index of each segment's parent, -1 for a root.
        targets: [N], index in `tokens` of each token to predict; ascending within a sequence, sequences ascending.
        sources: [N], index of the token before it on its path: the position whose logits score it.
        sequences: [N], the sequence of each target.
        num_sequences: how many sequences the sample has, those without targets included.
    """

    tokens: Indices
    starts: tuple[int, ...]
    parents: tuple[int, ...]
    targets: Indices
    sources: Indices
    sequences: Indices
    num_sequences: int

    def positions(self) -> Indices:
        """Return [T], the number of tokens before each token on its path from the root."""
        depths: list[int] = []
        runs = [np.empty(0, dtype=np.int32)]
        for start, end, parent in zip(self.starts, self.starts[1:], self.parents, strict=False):
            first = depths[parent] if parent >= 0 else 0
            depths.append(first + end - start)
            runs.append(np.arange(first, depths[-1], dtype=np.int32))
        return np.concatenate(runs)

    def paths(self) -> list[Indices]:
        """Return for each leaf segment, in order, the indices in `tokens` from its root to its last token."""
        paths: list[Indices] = []
        for start, end, parent in zip(self.starts, self.starts[1:], self.parents, strict=False):
            own = np.arange(start, end, dtype=np.int32)
            paths.append(np.concatenate([paths[parent], own]) if parent >= 0 else own)
        inner = set(self.parents)
        return [path for index, path in enumerate(paths) if index not in inner]


def build_tree(segments: Sequence[Segment], num_sequences: int = 1) -> Tree:
    """Join segments to one tree.

    The first token of a path has no token before it that could score it, so it is no target, whatever its segment says.

    Args:
        segments: parents before their children.
        num_sequences: how many sequences the sample has.

    Raises:
        ValueError: a parent does not stand before its child, a sequence is out of range, or the targets of a segment
            are not as many as its tokens.
    """
    starts = np.concatenate([[0], np.cumsum([len(segment.tokens) for segment in segments], dtype=np.int64)])
    last: list[int] = []
    scored: list[tuple[int, int, int]] = []
    for index, segment in enumerate(segments):
        _check(index, segment, num_sequences)
        start, end = int(starts[index]), int(starts[index + 1])
        before = last[segment.parent] if segment.parent >= 0 else -1
        last.append(end - 1 if end > start else before)
        if segment.targets is False:
            continue
        sources = [before, *range(start, end - 1)] if end > start else []
        chosen = [True] * (end - start) if segment.targets is True else segment.targets
        scored += [
            (segment.sequence, target, source)
            for target, source, wanted in zip(range(start, end), sources, chosen, strict=True)
            if wanted and source >= 0
        ]
    table = np.array(sorted(scored), dtype=np.int32).reshape(-1, 3)
    tokens = [np.asarray(segment.tokens, dtype=np.int32) for segment in segments]
    return Tree(
        tokens=np.concatenate(tokens) if tokens else np.empty(0, dtype=np.int32),
        starts=tuple(starts.tolist()),
        parents=tuple(segment.parent for segment in segments),
        targets=table[:, 1].copy(),
        sources=table[:, 2].copy(),
        sequences=table[:, 0].copy(),
        num_sequences=num_sequences,
    )


def _check(index: int, segment: Segment, num_sequences: int) -> None:
    if not -1 <= segment.parent < index:
        raise ValueError(f"Segment {index} has parent {segment.parent}; a parent stands before its child, -1 is none.")
    if not 0 <= segment.sequence < num_sequences:
        raise ValueError(f"Segment {index} belongs to sequence {segment.sequence}; the sample has {num_sequences}.")
    if not isinstance(segment.targets, bool) and len(segment.targets) != len(segment.tokens):
        raise ValueError(f"Segment {index} has {len(segment.tokens)} tokens and {len(segment.targets)} targets.")
