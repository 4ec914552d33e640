from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

from leyden.data.sampler import Rank, TrainingLoader, TrainingSampler, epoch_order, evaluation_batches

sizes = st.integers(1, 40)
few = st.integers(1, 5)
ALONE = Rank()
ORDERS = [
    [3, 2, 1, 8, 6, 0, 7, 4, 5, 9],
    [7, 4, 5, 1, 9, 8, 6, 2, 0, 3],
    [9, 2, 4, 7, 5, 0, 8, 6, 3, 1],
]


class Numbers(Dataset[int]):
    """Sample i is the number i, so a batch says what it is made of."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, sample: int) -> int:
        return sample


def as_they_are(batch: list[int]) -> list[int]:
    return batch


def sampler(
    size: int, batch_size: int, rank: Rank = ALONE, *, seed: int = 7, drop_last: bool = False
) -> TrainingSampler:
    return TrainingSampler(size, batch_size, seed, rank, drop_last=drop_last)


def loader(size: int, batch_size: int, rank: Rank = ALONE, *, workers: int = 0, **options: Any) -> TrainingLoader:
    return TrainingLoader(
        Numbers(size),
        batch_sampler=sampler(size, batch_size, rank, **options),
        collate_fn=as_they_are,
        num_workers=workers,
    )


def steps(size: int, batch_size: int, world: int, epoch: int = 0, **options: Any) -> list[list[list[int]]]:
    """What all ranks get in each step of an epoch."""
    ranks = [sampler(size, batch_size, Rank(index, world), **options) for index in range(world)]
    for each in ranks:
        each.set_epoch(epoch)
    return [list(step) for step in zip(*ranks, strict=True)]


def taken(step: list[list[int]]) -> list[int]:
    return [sample for batch in step for sample in batch if sample >= 0]


def test_the_order_is_the_same_on_every_machine_and_version() -> None:
    # written down once: a change of these numbers breaks every run that is to be continued
    assert epoch_order(10, 0, 0) == ORDERS[0]
    assert epoch_order(10, 0, 1) == ORDERS[1]
    assert epoch_order(10, 1, 0) == ORDERS[2]


@given(st.integers(0, 200), st.integers(0, 2**40), st.integers(0, 9))
def test_an_order_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    assert sorted(epoch_order(size, seed, epoch)) == list(range(size))


def test_an_order_has_no_pattern() -> None:
    # the mean rank correlation of neighbours over many orders is 0 within four standard errors
    total = 0.0
    for seed in range(200):
        order = epoch_order(50, seed, 0)
        total += sum((a - 24.5) * (b - 24.5) for a, b in zip(order, order[1:], strict=False)) / 49
    assert abs(total / 200) < 4 * (50**2 - 1) / 12 / math.sqrt(200 * 49)
    firsts = {epoch_order(50, 0, epoch)[0] for epoch in range(100)}
    assert len(firsts) > 30


@given(sizes, few, few, st.integers(0, 3))
def test_each_sample_is_taken_once_an_epoch(size: int, batch_size: int, world: int, epoch: int) -> None:
    found = steps(size, batch_size, world, epoch)
    assert [sample for step in found for sample in taken(step)] == epoch_order(size, 7, epoch)
    assert len(found) == math.ceil(size / (batch_size * world)) == len(sampler(size, batch_size, Rank(0, world)))
    assert all(len(batch) == batch_size for step in found[:-1] for batch in step)
    shares = [len([sample for sample in batch if sample >= 0]) for batch in found[-1]]
    assert max(shares) - min(shares) <= 1
    ghosts = [batch for batch, share in zip(found[-1], shares, strict=True) if share == 0]
    assert all(len(ghost) == 1 and 0 <= ~ghost[0] < size for ghost in ghosts)


@given(sizes, few, few)
def test_an_incomplete_last_step_is_left_out_unless_it_is_the_only_one(size: int, batch_size: int, world: int) -> None:
    whole = size // (batch_size * world)
    found = steps(size, batch_size, world, drop_last=True)
    assert len(found) == max(whole, 1) == len(sampler(size, batch_size, Rank(0, world), drop_last=True))
    kept = whole * batch_size * world if whole else size
    assert [sample for step in found for sample in taken(step)] == epoch_order(size, 7, 0)[:kept]


def test_seed_and_epoch_choose_the_order_and_nothing_else() -> None:
    orders = {
        (seed, epoch): tuple(sum((taken(step) for step in steps(30, 4, 1, epoch, seed=seed)), []))
        for seed in (0, 1, 2)
        for epoch in (0, 1, 2)
    }
    assert len(set(orders.values())) == 9
    assert orders[1, 2] == tuple(sum((taken(step) for step in steps(30, 3, 2, 2, seed=1)), []))


def remaining(size: int, batch_size: int, world: int, state: dict[str, Any], **options: Any) -> list[list[int]]:
    """What all ranks take in each step after the state was loaded."""
    loaders = [loader(size, batch_size, Rank(index, world), **options) for index in range(world)]
    for each in loaders:
        each.load_state_dict(state)
        each.batch_sampler.set_epoch(state["epoch"])  # as Lightning does inside an epoch
    return [taken(list(step)) for step in zip(*loaders, strict=True)]


@settings(deadline=None)
@given(sizes, few, few, st.integers(0, 3), st.booleans(), st.data())
def test_from_every_position_exactly_the_rest_follows(
    size: int, batch_size: int, world: int, epoch: int, drop_last: bool, data: st.DataObject
) -> None:
    whole = [taken(step) for step in steps(size, batch_size, world, epoch, drop_last=drop_last)]
    position = data.draw(st.integers(0, len(whole) - 1))
    first = loader(size, batch_size, Rank(0, world), drop_last=drop_last)
    first.batch_sampler.set_epoch(epoch)
    batches = iter(first)
    for _ in range(position):
        next(batches)
    state = first.state_dict()
    assert state == {"epoch": epoch, "consumed": position * batch_size * world}
    assert remaining(size, batch_size, world, state, drop_last=drop_last) == whole[position:]


@settings(deadline=None)
@given(sizes, few, few, few, few, st.booleans(), st.data())
def test_a_run_goes_on_with_another_batch_size_or_number_of_ranks(
    size: int, batch_size: int, world: int, other_size: int, other_world: int, drop_last: bool, data: st.DataObject
) -> None:
    whole = steps(size, batch_size, world, 1)
    position = data.draw(st.integers(0, len(whole) - 1))
    state = {"epoch": 1, "consumed": position * batch_size * world}
    rest = epoch_order(size, 7, 1)[state["consumed"] :]
    found = remaining(size, other_size, other_world, state, drop_last=drop_last)
    step = other_size * other_world
    if not (drop_last and size >= step):
        assert sum(found, []) == rest
        assert all(len(each) == step for each in found[:-1])
    else:
        assert sum(found, []) == rest[: len(rest) // step * step]
        assert all(len(each) == step for each in found)


@pytest.mark.parametrize("workers", [0, 2])
def test_positions_count_batches_that_were_used_not_those_read_ahead(workers: int) -> None:
    whole = list(loader(23, 3, workers=workers))
    assert whole == list(sampler(23, 3))
    first = loader(23, 3, workers=workers)
    states = [first.state_dict()]
    for batch, expected in zip(first, whole, strict=True):
        assert batch == expected
        states.append(first.state_dict())
    assert [state["consumed"] for state in states] == [0, 3, 6, 9, 12, 15, 18, 21, 23]
    for position in (0, 2, 5) if workers else range(8):
        again = loader(23, 3, workers=workers)
        again.load_state_dict(states[position])
        assert again.state_dict() == states[position]  # also before its first batch
        assert list(again) == whole[position:]
        assert list(again) == whole
        again.batch_sampler.set_epoch(1)
        assert again.state_dict() == {"epoch": 1, "consumed": 0}
        assert list(again) == [step[0] for step in steps(23, 3, 1, 1)]


@pytest.mark.parametrize("drop_last", [False, True])
def test_of_a_finished_epoch_nothing_is_left_and_the_next_is_whole(drop_last: bool) -> None:
    first = loader(11, 4, drop_last=drop_last)
    assert len(list(first)) == (2 if drop_last else 3)
    again = loader(11, 4, drop_last=drop_last)
    again.load_state_dict(first.state_dict())
    again.batch_sampler.set_epoch(0)
    assert list(again) == []
    again.batch_sampler.set_epoch(1)
    assert list(again) == [step[0] for step in steps(11, 4, 1, 1, drop_last=drop_last)]


def test_an_epoch_that_was_left_early_starts_anew() -> None:
    first = loader(10, 2)
    whole = list(first)
    batches = iter(first)
    next(batches)
    batches.close()
    assert list(first) == whole
    assert len(first) == 5


def test_the_state_holds_plain_numbers() -> None:
    first = loader(10, 2)
    next(iter(first))
    assert {key: type(value) for key, value in first.state_dict().items()} == {"epoch": int, "consumed": int}


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), few, few)
def test_evaluation_covers_each_sample_once(lengths: list[int], batch_size: int, world: int) -> None:
    shares = [evaluation_batches(lengths, batch_size, Rank(index, world)) for index in range(world)]
    assert all(shares)
    found = [sample for share in shares for batch in share for sample in batch]
    assert sorted(sample for sample in found if sample >= 0) == list(range(len(lengths)))
    assert len({len(share) for share in shares}) == 1, "ranks that share weights wait for each other"
    ghosts = [batch for share in shares for batch in share[-1:] if min(batch) < 0]
    assert all(len(batch) == 1 and 0 <= ~batch[0] < len(lengths) for batch in ghosts)
    assert sum(sample < 0 for sample in found) == len(ghosts)
    for share in shares:
        assert all(len(batch) == batch_size for batch in share[:-2])
        order = [lengths[sample if sample >= 0 else ~sample] for batch in share for sample in batch]
        assert order == sorted(order, reverse=True)
