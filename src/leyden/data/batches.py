"""Token trees to batches: packed into one row, or padded to one row per path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leyden.data.trees import Tree

Integers = NDArray[np.int32] | NDArray[np.int64]


@dataclass(frozen=True)
class Segments:
    """Which tokens of a packed row see which: plain ints, so that attention is planned without asking the device.

    Args:
        starts: S, first token of each segment.
        ends: S, one past its last token.
        parents: S, index of the segment it continues, standing before it; -1 for a root.
    """

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    parents: tuple[int, ...]


@dataclass
class Batch:
    """What a model is called with, and where the logits are that score each target.

    Args:
        input_ids: packed [1, T]; padded [B, L], padding on the left.
        position_ids: as `input_ids`: depth on the path from the root, 0 on padding.
        attention_mask: [B, L], 1 on real tokens; padded batches only.
        segments: layout of the row; packed batches only.
        target_rows: [N], row of the position that scores each target.
        target_columns: [N], column of that position.
        target_ids: [N], token ids to predict.
        target_sequences: [N], numbered through the batch: a sample's own number plus those of the samples before it.
        num_sequences: of all samples, those without targets included.
        samples: the caller's number of each sample, ghosts left out.
        num_tokens: real tokens in the forward pass, those of ghosts included.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None
    segments: Segments | None
    target_rows: Tensor
    target_columns: Tensor
    target_ids: Tensor
    target_sequences: Tensor
    num_sequences: int
    samples: tuple[int, ...]
    num_tokens: int

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the batch with its tensors on `device`."""
        return self._moved(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the batch with its tensors in page-locked memory."""
        return self._moved(Tensor.pin_memory)

    def _moved(self, move: Callable[[Tensor], Tensor]) -> Batch:
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {name: move(value) for name, value in values.items() if isinstance(value, Tensor)}
        return Batch(**values)


def pack(trees: Sequence[Tree], samples: Sequence[int]) -> Batch:
    """Put trees one after another into one row without padding.

    Args:
        trees: at least one.
        samples: the caller's number of each; `~i` marks a ghost, a copy of sample i that only keeps a rank busy: its
            tokens are computed, it has no targets and no sequences.

    Raises:
        ValueError: no trees, or not as many sample numbers.
    """
    _check(trees, samples)
    offsets = np.cumsum([0, *(len(tree.tokens) for tree in trees)]).tolist()
    starts: list[int] = []
    ends: list[int] = []
    parents: list[int] = []
    for tree, offset in zip(trees, offsets, strict=False):
        first = len(starts)
        starts += [offset + start for start in tree.starts[:-1]]
        ends += [offset + end for end in tree.starts[1:]]
        parents += [first + parent if parent >= 0 else -1 for parent in tree.parents]
    columns = [tree.sources + offset for tree, offset in zip(trees, offsets, strict=False)]
    rows = [np.zeros_like(tree.sources) for tree in trees]
    return Batch(
        input_ids=_joined([tree.tokens for tree in trees])[None],
        position_ids=_joined([tree.positions() for tree in trees])[None],
        attention_mask=None,
        segments=Segments(tuple(starts), tuple(ends), tuple(parents)),
        num_tokens=offsets[-1],
        **_targets(trees, samples, rows, columns),
    )


def pad(trees: Sequence[Tree], samples: Sequence[int], pad_id: int) -> Batch:
    """Give each path from a root to a leaf a row of its own, padded on the left to the longest.

    A target that lies on several rows is taken from the first of them.

    Args:
        trees: at least one.
        samples: as for `pack`.
        pad_id: token id of the padding; padding is recognised by the mask, never by this id.

    Raises:
        ValueError: no trees, or not as many sample numbers.
    """
    _check(trees, samples)
    rows = [(number, path) for number, tree in enumerate(trees) for path in tree.paths() if len(path)]
    width = max((len(path) for _, path in rows), default=0)
    input_ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    positions = np.zeros_like(input_ids)
    mask = np.zeros_like(input_ids)
    where = [np.zeros((2, len(tree.tokens)), dtype=np.int64) for tree in trees]  # row and column of each token
    for row, (number, path) in reversed(list(enumerate(rows))):
        left = width - len(path)
        input_ids[row, left:] = trees[number].tokens[path]
        positions[row, left:] = np.arange(len(path))
        mask[row, left:] = 1
        where[number][0, path] = row
        where[number][1, path] = np.arange(left, width)
    found = [place[:, tree.targets] for tree, place in zip(trees, where, strict=True)]
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(positions),
        attention_mask=torch.from_numpy(mask),
        segments=None,
        num_tokens=int(mask.sum()),
        **_targets(trees, samples, [place[0] for place in found], [place[1] - 1 for place in found]),
    )


class _Targets(TypedDict):
    target_rows: Tensor
    target_columns: Tensor
    target_ids: Tensor
    target_sequences: Tensor
    num_sequences: int
    samples: tuple[int, ...]


def _targets(
    trees: Sequence[Tree], samples: Sequence[int], rows: Sequence[Integers], columns: Sequence[Integers]
) -> _Targets:
    """Join what the trees predict, ghosts left out."""
    real = [number for number, sample in enumerate(samples) if sample >= 0]
    firsts = np.cumsum([0, *(trees[number].num_sequences for number in real)]).tolist()
    return _Targets(
        target_rows=_joined([rows[number] for number in real]),
        target_columns=_joined([columns[number] for number in real]),
        target_ids=_joined([trees[number].tokens[trees[number].targets] for number in real]),
        target_sequences=_joined([trees[n].sequences + first for n, first in zip(real, firsts, strict=False)]),
        num_sequences=firsts[-1],
        samples=tuple(samples[number] for number in real),
    )


def _joined(arrays: Sequence[Integers]) -> Tensor:
    return torch.from_numpy(np.concatenate([np.empty(0, dtype=np.int64), *arrays]).astype(np.int64))


def _check(trees: Sequence[Tree], samples: Sequence[int]) -> None:
    if not trees or len(trees) != len(samples):
        raise ValueError(
            f"A batch needs one sample number per tree and at least one tree, got {len(samples)} numbers "
            f"for {len(trees)} trees."
        )
