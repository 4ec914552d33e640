"""Token trees against their definition, spelled out token by token."""

from __future__ import annotations

import random

import numpy as np
import pytest

from leyden.data.trees import Segment, Tree, build_tree


def path_to(segments: list[Segment], index: int) -> list[tuple[int, int]]:
    """(segment, place) of each token from the root to the end of a segment, by climbing."""
    climbed: list[tuple[int, int]] = []
    while index >= 0:
        climbed = [(index, place) for place in range(len(segments[index].tokens))] + climbed
        index = segments[index].parent
    return climbed


def random_segments(generator: random.Random) -> list[Segment]:
    segments: list[Segment] = []
    for index in range(generator.randint(1, 8)):
        tokens = [generator.randrange(100) for _ in range(generator.randint(0, 4))]
        targets = [generator.random() < 0.5 for _ in tokens]
        segments.append(Segment(tokens, targets, generator.randint(-1, index - 1), generator.randrange(3)))
    return segments


def test_a_preference_pair() -> None:
    tree = build_tree([Segment([5, 6, 7], False), Segment([8, 9], True, 0, 0), Segment([10], True, 0, 1)], 2)
    assert tree.tokens.tolist() == [5, 6, 7, 8, 9, 10]
    assert tree.starts == (0, 3, 5, 6)
    assert tree.targets.tolist() == [3, 4, 5]
    assert tree.sources.tolist() == [2, 3, 2]
    assert tree.sequences.tolist() == [0, 0, 1]
    assert tree.positions().tolist() == [0, 1, 2, 3, 4, 3]
    assert [path.tolist() for path in tree.paths()] == [[0, 1, 2, 3, 4], [0, 1, 2, 5]]


def test_first_token_of_a_path_is_no_target() -> None:
    tree = build_tree([Segment([1, 2], True), Segment([], True), Segment([3, 4], True, 1)])
    assert tree.targets.tolist() == [1, 3]
    assert tree.sources.tolist() == [0, 2]


def test_child_of_an_empty_segment_continues_from_the_nearest_ancestor_with_tokens() -> None:
    tree = build_tree([Segment([1, 2], False), Segment([], False, 0), Segment([3], True, 1)])
    assert tree.sources.tolist() == [1]
    assert tree.positions().tolist() == [0, 1, 2]


def test_no_segments_make_an_empty_tree() -> None:
    tree = build_tree([])
    assert tree.tokens.dtype == np.int32
    assert (len(tree.tokens), len(tree.targets), tree.starts, tree.positions().tolist()) == (0, 0, (0,), [])


@pytest.mark.parametrize("seed", range(30))
def test_random_trees_equal_their_definition(seed: int) -> None:
    segments = random_segments(random.Random(seed))
    tree = build_tree(segments, 3)
    where = {(s, p): tree.starts[s] + p for s, segment in enumerate(segments) for p in range(len(segment.tokens))}
    expected: list[tuple[int, int, int]] = []
    for index, segment in enumerate(segments):
        path = path_to(segments, index)
        for depth, (owner, place) in enumerate(path):
            assert tree.tokens[where[owner, place]] == segments[owner].tokens[place]
            assert tree.positions()[where[owner, place]] == depth
            if owner == index and depth > 0 and segment.targets[place]:  # type: ignore[index]
                expected.append((segment.sequence, where[owner, place], where[path[depth - 1]]))
    assert list(zip(tree.sequences, tree.targets, tree.sources, strict=True)) == sorted(expected)
    leaves = [index for index in range(len(segments)) if all(other.parent != index for other in segments)]
    assert [path.tolist() for path in tree.paths()] == [[where[t] for t in path_to(segments, leaf)] for leaf in leaves]


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([Segment([1], True, 0)], "Segment 0 has parent 0"),
        ([Segment([1], True, 1), Segment([1], True)], "Segment 0 has parent 1"),
        ([Segment([1], True, -2)], "parent -2"),
        ([Segment([1], True, -1, 1)], "sequence 1"),
        ([Segment([1, 2], [True])], "2 tokens and 1 targets"),
        ([Segment([], [True])], "0 tokens and 1 targets"),
    ],
)
def test_impossible_segments_are_refused(segments: list[Segment], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_tree(segments)


def test_a_tree_may_be_compared_and_hashed_by_identity() -> None:
    tree: Tree = build_tree([Segment([1], True)])
    assert tree in {tree}
