"""What a model is called with: the tensors of some samples, packed or padded, and where their targets are scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from leyden.data.augmentation import Noise

Movable = TypeVar("Movable")


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


@dataclass(frozen=True)
class Distinct:
    """Targets of several samples at one place, once each: the head runs on these, and every target looks its own up.

    Args:
        columns: [K], column of the position that scores each; ascending.
        ids: [K], token ids to predict.
        places: [N], which of these each target of the batch is.
    """

    columns: Tensor
    ids: Tensor
    places: Tensor


@dataclass
class Batch:
    """What a model is called with, and where the outputs are that score each target.

    B counts samples without ghosts. Padded rows are one per path, which for pairs are two per sample.

    Args:
        input_ids: packed [1, T]; padded [rows, L], padding on the left.
        position_ids: as `input_ids`: depth on the path from the root, 0 on padding.
        attention_mask: [rows, L], 1 on real tokens; padded batches only.
        segments: layout of the row; packed batches only.
        decoder_input_ids: [rows, D], start token and target without its last token, padded on the right;
            encoder-decoder batches only, whose targets stand in these columns.
        target_rows: [N], row of the position that scores each target.
        target_columns: [N], column of that position.
        target_ids: [N], token ids to predict.
        target_sequences: [N], numbered through the batch: a sample's own number plus those of the samples before it.
        target_weights: [N], share of each target in the loss, float32.
        distinct: the targets without repetition; None where none is repeated. Packed batches only.
        num_sequences: of all samples, those without targets included.
        readout_rows: [B], row of each sample's last token.
        readout_columns: [B], column of that token.
        labels: [B, K], what a head should say, float64; K = 0 without a head.
        weights: [B], share of each sample in losses that count samples, float32.
        clean_ids: `input_ids` as they were before tokens were hidden; None where they are the same.
        noise: what to add to the embeddings in training; None for nothing.
        samples: the caller's number of each sample, ghosts left out.
        num_tokens: real tokens in the forward pass, those of ghosts included.
        num_shared: tokens that the samples have besides, and that are not computed since they share their beginnings.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None
    segments: Segments | None
    decoder_input_ids: Tensor | None
    target_rows: Tensor
    target_columns: Tensor
    target_ids: Tensor
    target_sequences: Tensor
    target_weights: Tensor
    distinct: Distinct | None
    num_sequences: int
    readout_rows: Tensor
    readout_columns: Tensor
    labels: Tensor
    weights: Tensor
    clean_ids: Tensor | None
    noise: Noise | None
    samples: tuple[int, ...]
    num_tokens: int
    num_shared: int

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the batch with its tensors on `device`."""
        return _moved(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the batch with its tensors in page-locked memory."""
        return _moved(self, Tensor.pin_memory)

    def without_noise(self) -> Batch:
        """Return the batch as evaluation and the reference see it: nothing hidden, nothing added."""
        if self.clean_ids is None and self.noise is None:
            return self
        clean = self.input_ids if self.clean_ids is None else self.clean_ids
        return replace(self, input_ids=clean, clean_ids=None, noise=None)


def _moved(item: Movable, move: Callable[[Tensor], Tensor]) -> Movable:
    """A copy of a dataclass with its tensors moved, those of its parts too."""
    values: dict[str, Any] = {field.name: getattr(item, field.name) for field in fields(item)}  # type: ignore[arg-type]
    changed = {name: move(value) for name, value in values.items() if isinstance(value, Tensor)}
    changed |= {name: _moved(value, move) for name, value in values.items() if is_dataclass(value)}  # type: ignore[misc]
    return replace(item, **changed)  # type: ignore[type-var]
