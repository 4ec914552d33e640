"""Token trees to batches: packed into one row, padded to one row per path, or split between encoder and decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leyden.data.augmentation import Noise
from leyden.data.batches import Batch, Distinct, Segments
from leyden.data.merging import merge, side_by_side
from leyden.data.trees import Tree

Integers = NDArray[np.int32] | NDArray[np.int64]


def pack(
    trees: Sequence[Tree], samples: Sequence[int], seeds: Sequence[int] | None = None, *, merged: bool = False
) -> Batch:
    """Put trees one after another into one row without padding.

    Args:
        trees: at least one.
        samples: the caller's number of each; `~i` marks a ghost, a copy of sample i that only keeps a rank busy: its
            tokens are computed, it has no targets and no sequences.
        seeds: of the noise on each sample's embeddings; None for no noise.
        merged: compute equal beginnings of the trees once; not with noise, which is another for every sample.

    Raises:
        ValueError: no trees, or not as many sample numbers.
    """
    _check(trees, samples)
    forest, places = merge(trees) if merged and seeds is None else side_by_side(trees)
    clean = _joined([forest.tokens])[None]
    scored: list[Integers] = []
    for tree, place in zip(trees, places, strict=True):
        sources = place[tree.sources]
        scored.append(np.stack([np.zeros_like(sources), sources]))
    lasts = [(0, int(place[-1]) if len(place) else 0) for place in places]
    targets = _targets(trees, samples, scored, lasts)
    return Batch(
        input_ids=_joined([forest.inputs])[None],
        position_ids=_joined([forest.positions()])[None],
        attention_mask=None,
        segments=Segments(forest.starts[:-1], forest.starts[1:], forest.parents),
        decoder_input_ids=None,
        clean_ids=clean if _hidden(trees) else None,
        noise=_noise(trees, seeds, None),
        distinct=_distinct(targets) if merged else None,
        num_tokens=len(forest.tokens),
        num_shared=sum(map(len, places)) - len(forest.tokens),
        **targets,
    )


def pad(
    trees: Sequence[Tree], samples: Sequence[int], pad_id: int, seeds: Sequence[int] | None = None, width: int = 0
) -> Batch:
    """Give each path from a root to a leaf a row of its own, padded on the left to the longest.

    A target that lies on several rows is taken from the first of them.

    Args:
        trees: at least one.
        samples: as for `pack`.
        pad_id: token id of the padding; padding is recognised by the mask, never by this id.
        seeds: as for `pack`.
        width: of a row at least.

    Raises:
        ValueError: no trees, or not as many sample numbers.
    """
    _check(trees, samples)
    rows = [(number, path) for number, tree in enumerate(trees) for path in tree.paths() if len(path)]
    width = max([width, *(len(path) for _, path in rows)])
    offsets = np.cumsum([0, *(len(tree.tokens) for tree in trees)]).tolist()
    positions = np.zeros((len(rows), width), dtype=np.int64)
    origin = np.full_like(positions, -1)  # which token, of all trees one after another, stands where
    where = [np.zeros((2, len(tree.tokens)), dtype=np.int64) for tree in trees]  # row and column of each token
    for row, (number, path) in reversed(list(enumerate(rows))):
        left = width - len(path)
        positions[row, left:] = np.arange(len(path))
        origin[row, left:] = offsets[number] + path
        where[number][0, path] = row
        where[number][1, path] = np.arange(left, width)
    clean = _placed([tree.tokens for tree in trees], origin, pad_id)
    return Batch(
        input_ids=_placed([tree.inputs for tree in trees], origin, pad_id),
        position_ids=torch.from_numpy(positions),
        attention_mask=torch.from_numpy((origin >= 0).astype(np.int64)),
        segments=None,
        decoder_input_ids=None,
        clean_ids=clean if _hidden(trees) else None,
        noise=_noise(trees, seeds, torch.from_numpy(origin)),
        distinct=None,
        num_tokens=int((origin >= 0).sum()),
        num_shared=0,
        **_targets(trees, samples, *_found(trees, where)),
    )


def _found(trees: Sequence[Tree], where: Sequence[Integers]) -> tuple[list[Integers], list[tuple[int, int]]]:
    """Where each tree's targets are scored, and its last token stands, given the row and column of its tokens."""
    scored: list[Integers] = []
    lasts = []
    for tree, place in zip(trees, where, strict=True):
        at = place[:, tree.targets].copy()
        at[1] -= 1
        scored.append(at)
        lasts.append((int(place[0, -1]), int(place[1, -1])) if len(tree.tokens) else (0, 0))
    return scored, lasts


def pad_encoder_decoder(  # noqa: PLR0913, PLR0917
    trees: Sequence[Tree],
    samples: Sequence[int],
    pad_id: int,
    start_id: int,
    seeds: Sequence[int] | None = None,
    width: int = 0,
) -> Batch:
    """Give each sample a row of the encoder (its first segment) and one of the decoder (its second).

    The decoder reads the start token and the target without its last token; so the output in column j scores target j,
    without a shift. Sources are padded on the left, targets on the right (rule N19).

    Args:
        trees: of two segments each, source and target.
        samples: as for `pack`.
        pad_id: token id of the padding.
        start_id: the decoder's start token.
        seeds: as for `pack`, of the noise on the source.
        width: of a source row at least.

    Raises:
        ValueError: no trees, or not as many sample numbers.
    """
    _check(trees, samples)
    cuts = [tree.starts[1] for tree in trees]
    width = max([width, *cuts])
    depth = max(len(tree.tokens) - cut for tree, cut in zip(trees, cuts, strict=True))
    offsets = np.cumsum([0, *(len(tree.tokens) for tree in trees)]).tolist()
    origin = np.full((len(trees), width), -1, dtype=np.int64)
    decoder = np.full((len(trees), max(depth, 1)), pad_id, dtype=np.int64)
    decoder[:, 0] = start_id
    places: list[Integers] = []
    for row, (tree, cut, offset) in enumerate(zip(trees, cuts, offsets, strict=False)):
        origin[row, width - cut :] = np.arange(offset, offset + cut)
        decoder[row, 1 : len(tree.tokens) - cut] = tree.inputs[cut:-1]
        places.append(np.stack([np.full(len(tree.targets), row), tree.targets - cut]))
    clean = _placed([tree.tokens for tree in trees], origin, pad_id)
    return Batch(
        input_ids=_placed([tree.inputs for tree in trees], origin, pad_id),
        position_ids=torch.from_numpy(np.maximum(np.arange(width) - (width - np.array(cuts)[:, None]), 0)),
        attention_mask=torch.from_numpy((origin >= 0).astype(np.int64)),
        segments=None,
        decoder_input_ids=torch.from_numpy(decoder),
        clean_ids=clean if _hidden(trees) else None,
        noise=_noise(trees, seeds, torch.from_numpy(origin), cuts),
        distinct=None,
        num_tokens=offsets[-1],
        num_shared=0,
        **_targets(trees, samples, places, [(row, width - 1) for row in range(len(trees))]),
    )


class _Targets(TypedDict):
    target_rows: Tensor
    target_columns: Tensor
    target_ids: Tensor
    target_sequences: Tensor
    target_weights: Tensor
    num_sequences: int
    readout_rows: Tensor
    readout_columns: Tensor
    labels: Tensor
    weights: Tensor
    samples: tuple[int, ...]


def _targets(
    trees: Sequence[Tree], samples: Sequence[int], places: Sequence[Integers], lasts: Sequence[tuple[int, int]]
) -> _Targets:
    """Join what the trees predict, ghosts left out; places hold row and column of what scores each target."""
    real = [number for number, sample in enumerate(samples) if sample >= 0]
    firsts = np.cumsum([0, *(trees[number].num_sequences for number in real)]).tolist()
    readout = torch.tensor([lasts[number] for number in real], dtype=torch.int64).reshape(-1, 2)
    weights = [np.empty(0, dtype=np.float32), *(trees[number].target_weights for number in real)]
    return _Targets(
        target_rows=_joined([places[number][0] for number in real]),
        target_columns=_joined([places[number][1] for number in real]),
        target_ids=_joined([trees[number].tokens[trees[number].targets] for number in real]),
        target_sequences=_joined([trees[n].sequences + first for n, first in zip(real, firsts, strict=False)]),
        target_weights=torch.from_numpy(np.concatenate(weights)),
        num_sequences=firsts[-1],
        readout_rows=readout[:, 0],
        readout_columns=readout[:, 1],
        labels=torch.tensor([trees[number].labels for number in real], dtype=torch.float64).reshape(
            len(real), len(trees[0].labels)
        ),
        weights=torch.tensor([trees[number].weight for number in real], dtype=torch.float32),
        samples=tuple(samples[number] for number in real),
    )


def _distinct(targets: _Targets) -> Distinct | None:
    """The targets of a packed batch without repetition."""
    columns, ids = targets["target_columns"].numpy(), targets["target_ids"].numpy()
    kept, first, places = np.unique(columns << 32 | ids, return_index=True, return_inverse=True)
    if len(kept) == len(ids):
        return None
    return Distinct(*map(torch.from_numpy, (columns[first], ids[first], places)))


def _placed(tokens: Sequence[Integers], origin: NDArray[np.int64], pad_id: int) -> Tensor:
    """Token ids where `origin` says which of all tokens stands, padding where it is -1."""
    joined = np.concatenate([*tokens, np.array([pad_id])]).astype(np.int64)
    return torch.from_numpy(joined[origin])


def _hidden(trees: Sequence[Tree]) -> bool:
    return any(tree.inputs is not tree.tokens for tree in trees)


def _noise(
    trees: Sequence[Tree], seeds: Sequence[int] | None, places: Tensor | None, paths: Sequence[int] | None = None
) -> Noise | None:
    if seeds is None:
        return None
    longest = [tree.longest() for tree in trees] if paths is None else paths
    return Noise(tuple(seeds), tuple(len(tree.tokens) for tree in trees), tuple(longest), places)


def _joined(arrays: Sequence[Integers]) -> Tensor:
    return torch.from_numpy(np.concatenate([np.empty(0, dtype=np.int64), *arrays]).astype(np.int64))


def _check(trees: Sequence[Tree], samples: Sequence[int]) -> None:
    if not trees or len(trees) != len(samples):
        raise ValueError(
            f"A batch needs one sample number per tree and at least one tree, got {len(samples)} numbers "
            f"for {len(trees)} trees."
        )
