"""Batches of a chosen width: longer samples lose their oldest tokens, or all are filled up to one width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from leyden.data.trees import Segment, Tree, build_tree


def quantile_width(lengths: Sequence[int], quantile: float) -> int:
    """That quantile of the lengths, interpolated and rounded down; 1 is the longest of all."""
    return int(np.quantile(lengths, quantile) + 1e-9)


def trimmed(tree: Tree, width: int) -> Tree:
    """The tree without its oldest tokens, so that no path is longer than `width`.

    A segment loses as many tokens as the longest path through it is too long; so what is shared stays shared, and a
    short answer stays whole when a long one beside it uses up the prompt. A target whose source went is no target any
    more.
    """
    excess = [depth - width for depth in tree.depths()]
    for index, parent in reversed(list(enumerate(tree.parents))):
        if parent >= 0:
            excess[parent] = max(excess[parent], excess[index])
    if max(excess, default=0) <= 0:
        return tree
    lengths = np.diff(tree.starts)
    limit = np.repeat(excess, lengths)
    kept = tree.positions() >= limit
    places = np.cumsum(kept) - 1
    scored = kept[tree.targets] & kept[tree.sources]
    counts = np.add.reduceat(np.append(kept, False), tree.starts[:-1]) * (lengths > 0)
    hidden = tree.inputs is not tree.tokens
    tokens = tree.tokens[kept]
    return replace(
        tree,
        tokens=tokens,
        starts=(0, *np.cumsum(counts).tolist()),
        targets=places[tree.targets[scored]].astype(np.int32),
        sources=places[tree.sources[scored]].astype(np.int32),
        sequences=tree.sequences[scored],
        target_weights=tree.target_weights[scored],
        inputs=tree.inputs[kept] if hidden else tokens,
    )


def filling(trees: Sequence[Tree], width: int, pad_id: int) -> Tree | None:
    """Padding that brings packed trees to `width` tokens per path: a tree of roots without targets, one per gap."""
    gaps = [width - len(path) for tree in trees for path in tree.paths()]
    roots = [Segment([pad_id] * gap, False) for gap in gaps if gap > 0]
    return build_tree(roots, num_sequences=0) if roots else None
