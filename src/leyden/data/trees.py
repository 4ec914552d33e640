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
        weights: of its targets in the loss, one per token, or one for all of them.
    """

    tokens: Sequence[int]
    targets: Sequence[bool] | bool
    parent: int = -1
    sequence: int = 0
    weights: Sequence[float] | float = 1.0


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
        target_weights: [N], share of each target in the loss, float32.
        num_sequences: how many sequences the sample has, those without targets included.
        inputs: [T], the token ids that the model in training reads: `tokens`, unless augmentation hid some.
        weight: share of the sample in losses that count samples.
        labels: what a head should say of the sample, one value per output column; empty without a head.
    """

    tokens: Indices
    starts: tuple[int, ...]
    parents: tuple[int, ...]
    targets: Indices
    sources: Indices
    sequences: Indices
    target_weights: NDArray[np.float32]
    num_sequences: int
    inputs: Indices
    weight: float = 1.0
    labels: tuple[float, ...] = ()

    def depths(self) -> list[int]:
        """Tokens from the root to the end of each segment."""
        depths: list[int] = []
        for start, end, parent in zip(self.starts, self.starts[1:], self.parents, strict=False):
            depths.append(end - start + (depths[parent] if parent >= 0 else 0))
        return depths

    def longest(self) -> int:
        """Tokens of the longest path."""
        return max(self.depths(), default=0)

    def ends(self) -> Indices:
        """Return the index in `tokens` of the last token of each run of targets: [runs].

        A run is what a sequence predicts without a gap: one answer, or with unmasked prompts all of it.
        """
        targets, sequences = self.targets, self.sequences
        apart = (targets[1:] != targets[:-1] + 1) | (sequences[1:] != sequences[:-1])
        return np.concatenate([targets[:-1][apart], targets[-1:]])

    def positions(self) -> Indices:
        """Return [T], the number of tokens before each token on its path from the root."""
        spans = zip(self.depths(), np.diff(self.starts).tolist(), strict=True)
        runs = [np.arange(depth - length, depth, dtype=np.int32) for depth, length in spans]
        return np.concatenate([np.empty(0, dtype=np.int32), *runs])

    def paths(self) -> list[Indices]:
        """Return for each leaf segment, in order, the indices in `tokens` from its root to its last token."""
        paths: list[Indices] = []
        for start, end, parent in zip(self.starts, self.starts[1:], self.parents, strict=False):
            own = np.arange(start, end, dtype=np.int32)
            paths.append(np.concatenate([paths[parent], own]) if parent >= 0 else own)
        inner = set(self.parents)
        return [path for index, path in enumerate(paths) if index not in inner]


def build_tree(segments: Sequence[Segment], num_sequences: int = 1, weight: float = 1.0) -> Tree:
    """Join segments to one tree.

    The first token of a path has no token before it that could score it, so it is no target, whatever its segment says.

    Args:
        segments: parents before their children.
        num_sequences: how many sequences the sample has.
        weight: of the sample.

    Raises:
        ValueError: a parent does not stand before its child, a sequence is out of range, or the targets of a segment
            are not as many as its tokens.
    """
    starts = np.concatenate([[0], np.cumsum([len(segment.tokens) for segment in segments], dtype=np.int64)])
    last: list[int] = []
    scored: list[tuple[int, int, int, float]] = []
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
            (segment.sequence, target, source, share)
            for target, source, wanted, share in zip(
                range(start, end), sources, chosen, _weights(segment, end - start), strict=True
            )
            if wanted and source >= 0
        ]
    scored.sort()
    table = np.array([row[:3] for row in scored], dtype=np.int32).reshape(-1, 3)
    tokens = np.concatenate([np.empty(0, dtype=np.int32), *(np.asarray(s.tokens, dtype=np.int32) for s in segments)])
    return Tree(
        tokens=tokens,
        starts=tuple(starts.tolist()),
        parents=tuple(segment.parent for segment in segments),
        targets=table[:, 1].copy(),
        sources=table[:, 2].copy(),
        sequences=table[:, 0].copy(),
        target_weights=np.array([row[3] for row in scored], dtype=np.float32),
        num_sequences=num_sequences,
        inputs=tokens,
        weight=weight,
    )


def _weights(segment: Segment, count: int) -> Sequence[float]:
    return [segment.weights] * count if isinstance(segment.weights, int | float) else segment.weights


def _check(index: int, segment: Segment, num_sequences: int) -> None:
    if not -1 <= segment.parent < index:
        raise ValueError(f"Segment {index} has parent {segment.parent}; a parent stands before its child, -1 is none.")
    if segment.targets is not False and not 0 <= segment.sequence < num_sequences:
        raise ValueError(f"Segment {index} belongs to sequence {segment.sequence}; the sample has {num_sequences}.")
    if not isinstance(segment.targets, bool) and len(segment.targets) != len(segment.tokens):
        raise ValueError(f"Segment {index} has {len(segment.tokens)} tokens and {len(segment.targets)} targets.")
    if not isinstance(segment.weights, int | float) and len(segment.weights) != len(segment.tokens):
        raise ValueError(f"Segment {index} has {len(segment.tokens)} tokens and {len(segment.weights)} weights.")
