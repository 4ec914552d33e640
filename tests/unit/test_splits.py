from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedShuffleSplit

from leyden.data.splits import sample, split, stratified_split
from leyden.settings.errors import DataError

CONVERSATIONS = st.lists(st.integers(0, 30), min_size=2, max_size=80)
SHARE = st.integers(1, 99).map(lambda percent: percent / 100)


@pytest.mark.parametrize(
    ("rows", "size", "validation"), [(1000, 0.1, 100), (1000, 0.01, 10), (100, 0.29, 29), (100, 0.145, 15), (3, 0.5, 2)]
)
def test_sizes_of_rows_that_stand_alone(rows: int, size: float, validation: int) -> None:
    train, held_out = split(range(rows), size, seed=1337)
    assert (len(train), len(held_out)) == (rows - validation, validation)


def test_the_split_is_the_same_on_every_machine() -> None:
    # sha256 of split/1337/0 to split/1337/9, sorted with sha256sum and sort: 2, 4, 9 come first
    assert split(range(10), 0.3, seed=1337)[1] == [2, 4, 9]


def test_seeds_differ() -> None:
    assert split(range(1000), 0.1, seed=1) != split(range(1000), 0.1, seed=2)


@given(CONVERSATIONS, SHARE, st.integers(0, 2**32))
def test_split_properties(conversations: list[int], size: float, seed: int) -> None:
    total = len(set(conversations))
    count = floor(total * Fraction(str(size)) + Fraction(1, 2))
    if count in (0, total):
        with pytest.raises(DataError):
            split(conversations, size, seed)
        return
    train, held_out = split(conversations, size, seed)
    assert sorted(train + held_out) == list(range(len(conversations)))
    assert (train, held_out) == (sorted(train), sorted(held_out))
    assert len({conversations[row] for row in held_out}) == count
    assert not {conversations[row] for row in held_out} & {conversations[row] for row in train}
    assert split(conversations, size, seed) == (train, held_out)


@pytest.mark.parametrize("seed", range(5))
def test_a_larger_size_keeps_what_a_smaller_one_chose(seed: int) -> None:
    assert set(split(range(200), 0.1, seed)[1]) < set(split(range(200), 0.2, seed)[1])


def test_every_row_is_chosen_equally_often() -> None:
    counts = [0] * 20
    for seed in range(2000):
        for row in split(range(20), 0.25, seed)[1]:
            counts[row] += 1
    # binomial(2000, 1/4): mean 500, deviation 19.4
    assert all(abs(count - 500) < 5 * 19.4 for count in counts)


@pytest.mark.parametrize(
    ("conversations", "size", "words"),
    [
        (range(40), 0.01, ["=0.01 of 40 rows leaves 40 to train on and 0", "between 0.025 and 0.975"]),
        (range(3), 0.9, ["=0.9 of 3 rows leaves 0 to train on and 3", "0.333333"]),
        ([0] * 5, 0.5, ["the table has 1 conversation,", "validation_strategy=custom"]),
        ([0], 0.5, ["the table has 1 row,"]),
        ([0, 0, 1], 0.1, ["0.1 of 2 conversations"]),
    ],
)
def test_a_side_without_rows_is_an_error(conversations: list[int], size: float, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        split(conversations, size, seed=0)
    assert "dataset.validation_size=" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("total", [2, 3, 7, 99, 12_345])
def test_the_sizes_that_the_message_names_work(total: int) -> None:
    with pytest.raises(DataError) as caught:
        split(range(total), 1e-9, seed=0)
    named = re.findall(r"between (\S+) and (\S+),", str(caught.value))[0]
    for size in named:
        train, held_out = split(range(total), float(size), seed=0)
        assert min(len(train), len(held_out)) == 1


@pytest.mark.parametrize(
    ("total", "share", "kept"),
    [(1000, 0.05, 50), (100, 0.05, 10), (6, 0.05, 6), (100, 0.29, 29), (100, 1.0, 100), (0, 0.5, 0)],
)
def test_sample_sizes_without_chains(total: int, share: float, kept: int) -> None:
    rows = list(range(0, 2 * total, 2))
    result = sample([0] * (2 * total), rows, share, seed=7331, chained=False)
    assert len(result) == kept
    assert result == sorted(set(result) & set(rows))


@pytest.mark.parametrize(
    ("conversations", "share", "kept"),
    [
        ([row // 20 for row in range(400)], 0.01, 20),  # one conversation is 20 rows
        ([row // 2 for row in range(200)], 0.01, 10),  # five of them make ten rows
        ([row // 2 for row in range(200)], 0.5, 100),
        ([row // 2 for row in range(6)], 0.01, 6),  # there are not ten
    ],
)
def test_sample_sizes_with_chains(conversations: list[int], share: float, kept: int) -> None:
    assert len(sample(conversations, range(len(conversations)), share, seed=0, chained=True)) == kept


@given(CONVERSATIONS, SHARE, st.integers(0, 2**32), st.booleans())
def test_sample_properties(conversations: list[int], share: float, seed: int, chained: bool) -> None:
    rows = [row for row, conversation in enumerate(conversations) if conversation % 3]
    kept = sample(conversations, rows, share, seed, chained)
    assert kept == sorted(set(kept))
    assert set(kept) <= set(rows)
    assert len(kept) >= min(10, len(rows))
    if chained:
        chosen = {conversations[row] for row in kept}
        assert kept == [row for row in rows if conversations[row] in chosen]
        assert len(chosen) >= floor(len({conversations[row] for row in rows}) * Fraction(str(share)))
    else:
        assert len(kept) == min(len(rows), max(10, floor(len(rows) * Fraction(str(share)))))
    # what lies outside this part has no say
    longer = [*conversations, 5, 6, 7]
    assert sample(longer, rows, share, seed, chained) == kept


def test_sample_and_split_are_drawn_apart() -> None:
    validation = split(range(1000), 0.1, seed=1)[1]
    both = set(validation) & set(sample(range(1000), range(1000), 0.1, seed=1, chained=False))
    assert len(both) < 40


def classes_of(*counts: int) -> list[int]:
    """Classes mixed: first one row of each, then the second of each, ..."""
    return [number for turn in range(max(counts)) for number, count in enumerate(counts) if turn < count]


@pytest.mark.parametrize(
    ("counts", "size", "held"),
    [
        ((50, 30, 20), 0.1, (5, 3, 2)),
        ((87, 13), 0.1, (9, 1)),
        ((4, 3, 3), 0.2, (1, 1, 0)),  # of 0.8, 0.6 and 0.6 the largest remainders, and of equals the lower number
        ((97, 2, 1), 0.1, (10, 0, 0)),
        ((6, 2, 2), 0.7, (5, 1, 1)),  # 4.2, 1.4 and 1.4: the small ones keep one row to train on
        ((90, 5, 5), 0.5, (45, 3, 2)),
    ],
)
def test_classes_keep_their_shares(counts: tuple[int, ...], size: float, held: tuple[int, ...]) -> None:
    classes = classes_of(*counts)
    train, held_out, _ = stratified_split(classes, "abc", size, seed=1337)
    assert sorted(train + held_out) == list(range(len(classes)))
    assert (train, held_out) == (sorted(train), sorted(held_out))
    assert tuple(Counter(classes[row] for row in held_out)[number] for number in range(len(counts))) == held


@given(
    st.lists(st.integers(0, 6), min_size=2, max_size=90), st.integers(1, 60).map(lambda percent: percent / 100),
    st.integers(0, 2**32),
)  # fmt: skip
def test_stratified_split_properties(classes: list[int], size: float, seed: int) -> None:
    names = list("abcdefg")
    count = floor(len(classes) * Fraction(str(size)) + Fraction(1, 2))
    if count in (0, len(classes)):
        with pytest.raises(DataError, match=r"dataset\.validation_size="):
            stratified_split(classes, names, size, seed)
        return
    train, held_out, warnings = stratified_split(classes, names, size, seed)
    assert stratified_split(classes, names, size, seed) == (train, held_out, warnings)
    assert sorted(train + held_out) == list(range(len(classes)))
    assert len(held_out) == count == len(split(range(len(classes)), size, seed)[1])
    sizes, held = Counter(classes), Counter(classes[row] for row in held_out)
    if any("not split evenly" in warning for warning in warnings):
        assert sum(rows - 1 for rows in sizes.values()) < count
        assert (train, held_out) == split(range(len(classes)), size, seed)
        return
    assert all(held[number] < rows for number, rows in sizes.items())  # each class trains
    lone = [names[number] for number in sorted(sizes) if sizes[number] == 1]
    assert [f"{len(lone)} of {len(sizes)} classes have one row" in warning for warning in warnings] == [True] * bool(
        lone
    )
    for number, rows in sizes.items():
        assert held[number] >= floor(rows * Fraction(str(size)))
        if all(other * (1 - size) >= 1 for other in sizes.values()):  # no class is kept from its share
            assert held[number] < rows * Fraction(str(size)) + 1
        # within a class the order is that of the plain split: what it holds out first, this one does too
        rank = {row: place for place, row in enumerate(ranked(len(classes), seed))}
        own = [row for row in range(len(classes)) if classes[row] == number]
        assert {row for row in held_out if classes[row] == number} == set(sorted(own, key=rank.get)[: held[number]])  # type: ignore[arg-type]


def ranked(total: int, seed: int) -> list[int]:
    """Rows in the order in which larger and larger plain splits hold them out."""
    order: list[int] = []
    for count in range(1, total):
        order += sorted(set(split(range(total), count / total, seed)[1]) - set(order))
    return [*order, *(set(range(total)) - set(order))]


def test_shares_are_those_of_scikit_learn() -> None:
    counts = (331, 77, 41, 12, 9, 5)
    classes = classes_of(*counts)
    for size in (0.1, 0.25, 0.5):
        held_out = stratified_split(classes, "abcdef", size, seed=1)[1]
        _, theirs = next(StratifiedShuffleSplit(1, test_size=len(held_out), random_state=0).split(classes, classes))
        ours, theirs = Counter(classes[row] for row in held_out), Counter(classes[row] for row in theirs)
        assert all(abs(ours[number] - theirs[number]) <= 1 for number in range(len(counts)))


def test_classes_of_one_row_train_and_are_counted() -> None:
    classes = [0] * 20 + [1] * 20 + list(range(2, 9))
    train, _, (warning,) = stratified_split(classes, "abcdefghi", 0.2, seed=3)
    assert set(range(40, 47)) <= set(train)
    assert warning == "7 of 9 classes have one row, which trains: c, d, e, f, g and 2 more."


def test_a_split_that_would_leave_classes_without_training_rows_is_plain_and_says_so() -> None:
    classes = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    train, held_out, (warning,) = stratified_split(classes, "abcde", 0.7, seed=1)
    assert (train, held_out) == split(range(10), 0.7, seed=1)
    assert "dataset.validation_size=0.7 holds out 7 of 10 rows; each of 5 classes cannot keep one" in warning
    assert stratified_split(classes, "abcde", 0.5, seed=1)[2] == []


def test_rows_of_a_class_are_chosen_equally_often() -> None:
    counts = Counter[int]()
    for seed in range(1000):
        counts.update(stratified_split([0, 1] * 10, "ab", 0.2, seed)[1])
    # binomial(1000, 1/5): mean 200, deviation 12.6
    assert all(abs(counts[row] - 200) < 5 * 12.6 for row in range(20))
