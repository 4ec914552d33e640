"""The samples of one step as passes through the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from leyden.data import collator, merging
from leyden.data.collator import Collator
from leyden.data.dataset import Sample
from leyden.data.trees import Segment, Tree, build_tree

PAD = 99


def samples(lengths: Sequence[int], common: int) -> list[Sample]:
    """Each begins with the same `common` tokens and goes on with its own."""
    shared = list(range(1000, 1000 + common))
    trees = [
        build_tree([Segment(shared, False), Segment([number] * own, True, 0)]) for number, own in enumerate(lengths)
    ]
    return [Sample(number, tree) for number, tree in enumerate(trees)]


def groups_by_merging(found: Sequence[Sample], tokens: int) -> list[tuple[int, ...]]:
    """As many as fit, each candidate merged whole."""
    groups: list[list[Sample]] = []
    for sample in found:
        if groups and len(merging.merge([one.tree for one in [*groups[-1], sample]]).tree.tokens) <= tokens:
            groups[-1].append(sample)
        else:
            groups.append([sample])
    return [tuple(sample.number for sample in group) for group in groups]


@pytest.mark.parametrize("common", [4, 40])
@pytest.mark.parametrize("tokens", [1, 60, 100, 150, 10_000])
def test_passes_are_those_of_merging_every_candidate(common: int, tokens: int) -> None:
    found = samples(np.random.default_rng(0).integers(1, 30, 40).tolist(), common)
    passes = Collator("packed", PAD, tokens=tokens).passes(found)
    assert [batch.samples for batch in passes] == groups_by_merging(found, tokens)


def test_samples_that_fit_side_by_side_are_not_merged_to_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(trees: Sequence[Tree]) -> merging.Forest:
        calls.append(len(trees))
        return merging.merge(trees)

    monkeypatch.setattr(collator, "merge", counted)
    (one,) = Collator("packed", PAD, tokens=50 * 16).passes(samples([6] * 50, 10))
    assert (one.samples, calls) == (tuple(range(50)), [])
    assert len(Collator("packed", PAD, tokens=50 * 16 - 1).passes(samples([6] * 50, 10))) == 2
    assert calls == [50]
