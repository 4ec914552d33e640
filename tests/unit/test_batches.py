"""Packed and padded batches made of the same trees."""

from __future__ import annotations

import pytest
import torch

from leyden.data.batches import Batch, Segments
from leyden.data.collation import pack, pad
from leyden.data.trees import Segment, Tree, build_tree

PAD = 99


def pair() -> Tree:
    return build_tree([Segment([1, 2, 3], False), Segment([4, 5], True, 0, 0), Segment([6], True, 0, 1)], 2)


def document() -> Tree:
    return build_tree([Segment([7, 8, 9], True)])


def scored(batch: Batch) -> list[tuple[int, int, int]]:
    """(source token, target token, sequence) of each target, read back from the batch."""
    sources = batch.input_ids[batch.target_rows, batch.target_columns]
    return list(zip(sources.tolist(), batch.target_ids.tolist(), batch.target_sequences.tolist(), strict=True))


def test_pack_lays_trees_one_after_another() -> None:
    batch = pack([pair(), document()], [4, 2])
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 0, 1, 2]]
    assert batch.segments == Segments((0, 3, 5, 6), (3, 5, 6, 9), (-1, 0, 0, -1))
    assert batch.attention_mask is None
    assert batch.target_rows.tolist() == [0] * 5
    assert batch.target_columns.tolist() == [2, 3, 2, 6, 7]
    assert (batch.num_sequences, batch.samples, batch.num_tokens) == (3, (4, 2), 9)


def test_parents_are_renumbered() -> None:
    assert pack([document(), pair()], [0, 1]).segments == Segments((0, 3, 6, 8), (3, 6, 8, 9), (-1, -1, 1, 1))


def test_pad_gives_each_path_a_row_padded_on_the_left() -> None:
    batch = pad([pair(), document()], [4, 2], PAD)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5], [PAD, 1, 2, 3, 6], [PAD, PAD, 7, 8, 9]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4], [0, 0, 1, 2, 3], [0, 0, 0, 1, 2]]
    assert batch.attention_mask is not None
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert batch.segments is None
    assert batch.target_rows.tolist() == [0, 0, 1, 2, 2]
    assert batch.target_columns.tolist() == [2, 3, 3, 2, 3]
    assert (batch.num_sequences, batch.samples, batch.num_tokens) == (3, (4, 2), 12)


def test_a_target_on_several_rows_is_taken_once() -> None:
    tree = build_tree([Segment([1, 2, 3], True), Segment([4], True, 0), Segment([5], True, 0)])
    batch = pad([tree], [0], PAD)
    assert batch.input_ids.shape == (2, 4)
    assert batch.target_ids.tolist() == [2, 3, 4, 5]
    assert batch.target_rows.tolist() == [0, 0, 0, 1]


def test_both_score_the_same() -> None:
    trees = [document(), pair(), build_tree([Segment([], False), Segment([10, 11], True, 0)]), pair()]
    assert scored(pack(trees, range(4))) == scored(pad(trees, range(4), PAD))
    assert scored(pack(trees, range(4))) == [
        (7, 8, 0), (8, 9, 0),
        (3, 4, 1), (4, 5, 1), (3, 6, 2),
        (10, 11, 3),
        (3, 4, 4), (4, 5, 4), (3, 6, 5),
    ]  # fmt: skip


@pytest.mark.parametrize("make", [pack, lambda trees, samples: pad(trees, samples, PAD)], ids=["pack", "pad"])
def test_ghosts_are_computed_and_not_counted(make) -> None:
    batch = make([pair(), document(), pair()], [3, ~0, 5])
    assert batch.samples == (3, 5)
    assert batch.num_sequences == 4
    assert scored(batch) == [(3, 4, 0), (4, 5, 0), (3, 6, 1), (3, 4, 2), (4, 5, 2), (3, 6, 3)]
    assert batch.num_tokens == make([pair(), document(), pair()], [3, 0, 5]).num_tokens
    assert 7 in batch.input_ids

    only = make([document()], [~0])
    assert (only.samples, only.num_sequences, only.num_tokens) == ((), 0, 3)
    assert only.target_ids.shape == only.target_rows.shape == only.target_columns.shape == (0,)
    assert only.target_ids.dtype == torch.int64


def test_trees_and_samples_must_match() -> None:
    with pytest.raises(ValueError, match="2 numbers for 1 trees"):
        pack([document()], [0, 1])
    with pytest.raises(ValueError, match="0 numbers for 0 trees"):
        pad([], [], PAD)


def test_to_moves_every_tensor_and_nothing_else() -> None:
    for batch in (pack([pair()], [0]), pad([pair()], [0], PAD)):
        moved = batch.to("meta")
        tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
        assert len(tensors) == (11 if batch.segments else 12)
        assert {tensor.device.type for tensor in tensors} == {"meta"}
        assert (moved.segments, moved.samples, moved.num_tokens) == (batch.segments, batch.samples, batch.num_tokens)


def test_lightning_moves_a_batch() -> None:
    from lightning.fabric.utilities import move_data_to_device

    moved = move_data_to_device(pack([pair()], [0]), torch.device("meta"))
    assert isinstance(moved, Batch)
    assert moved.input_ids.device.type == "meta"
