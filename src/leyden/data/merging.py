"""Trees of one batch become one forest, in which every common beginning stands once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leyden.data.trees import Indices, Tree

# A shorter beginning is left in each of its samples: it saves fewer tokens than another segment costs in calls of the
# attention kernel, and nearly all samples of a table begin with the same few tokens of its template.
SHORTEST = 16


class Forest(NamedTuple):
    """The segments of one packed row, and where the samples stand in it.

    Args:
        tree: all segments; it has no targets.
        places: for each sample's tree one index in `tree.tokens` per token; tokens that are shared have the same.
    """

    tree: Tree
    places: list[Indices]


class _Path(NamedTuple):
    """One way from a root to a leaf: its number, whose it is, which tokens of that tree, and what tells them apart."""

    number: int
    owner: int
    indices: Indices
    tokens: NDArray[np.int64]


class _Span(NamedTuple):
    """Paths in sorted order, from the first up to the last, that hang from segment `parent` after `depth` tokens."""

    first: int
    last: int
    depth: int
    parent: int


class _Piece(NamedTuple):
    """A segment: the tokens of a path from one depth to another, behind segment `parent`."""

    path: int
    start: int
    end: int
    parent: int


def side_by_side(trees: Sequence[Tree]) -> Forest:
    """Put trees one after another and share nothing between them.

    Args:
        trees: at least one.
    """
    offsets = np.cumsum([0, *(len(tree.tokens) for tree in trees)]).tolist()
    starts, parents = [0], list[int]()
    for tree, offset in zip(trees, offsets, strict=False):
        first = len(parents)
        parents += [first + parent if parent >= 0 else -1 for parent in tree.parents]
        starts += [offset + end for end in tree.starts[1:]]
    tokens, inputs = [tree.tokens for tree in trees], [tree.inputs for tree in trees]
    places = [np.arange(start, end, dtype=np.int32) for start, end in zip(offsets, offsets[1:], strict=False)]
    return Forest(_bare(tokens, inputs, starts, parents), places)


def merge(trees: Sequence[Tree], shortest: int = SHORTEST) -> Forest:
    """Put trees into one forest in which equal beginnings are one segment, whoever they belong to.

    Two tokens become one where everything up to them is equal, both what the model reads and what it is to predict. So
    position, sight and logits are those of the separate samples, and what a cut or a draw has made different stands
    alone from there on. Segments end exactly where paths part; a sample that ends inside another's path adds nothing.
    There are never more tokens than in the trees side by side.

    Args:
        trees: at least one.
        shortest: a beginning of fewer tokens is shared only where a tree parts itself.
    """
    paths = [(owner, indices) for owner, tree in enumerate(trees) for indices in tree.paths()]
    known = [_Path(number, *path, _told_apart(trees[path[0]], path[1])) for number, path in enumerate(paths)]
    known.sort(key=lambda path: path.tokens.tobytes())
    common = [_common(one.tokens, other.tokens) for one, other in zip(known, known[1:], strict=False)]
    # in this order a path that is the beginning of others stands right before one of them, and goes its way
    kept = [place for place, shared in enumerate([*common, -1]) if shared < len(known[place].indices)]
    pieces, leaves = _pieces([known[place] for place in kept], [common[place] for place in kept[:-1]], shortest)
    starts = np.cumsum([0, *(piece.end - piece.start for piece in pieces)]).tolist()
    places = [np.empty(len(tree.tokens), dtype=np.int32) for tree in trees]
    for place, path in enumerate(known):
        way = _way(pieces, starts, leaves[np.searchsorted(kept, place)])
        places[path.owner][path.indices] = way[: len(path.indices)]
    sources = [(trees[known[kept[piece.path]].owner], known[kept[piece.path]].indices[piece.start : piece.end])
               for piece in pieces]  # fmt: skip
    tokens, inputs = [tree.tokens[own] for tree, own in sources], [tree.inputs[own] for tree, own in sources]
    return Forest(_bare(tokens, inputs, starts, [piece.parent for piece in pieces]), places)


def _pieces(paths: Sequence[_Path], common: Sequence[int], shortest: int) -> tuple[list[_Piece], list[int]]:
    """The segments, parents first and otherwise in the order of the paths' numbers; and each path's last segment.

    Args:
        paths: sorted; none is the beginning of another.
        common: how many tokens each shares with the next.
        shortest: as for `merge`.
    """
    pieces: list[_Piece] = []
    leaves = [-1] * len(paths)
    spans = [_Span(0, len(paths), 0, -1)]
    while spans:
        first, last, depth, parent = spans.pop()
        if last - first == 1:
            leaves[first] = len(pieces)
            pieces.append(_Piece(first, depth, len(paths[first].indices), parent))
            continue
        end = min(common[first : last - 1])
        cuts = [first, *(place + 1 for place in range(first, last - 1) if common[place] == end), last]
        groups = list(zip(cuts, cuts[1:], strict=False))
        if end - depth >= shortest or (end > depth and _parts_itself(paths, groups)):
            pieces.append(_Piece(first, depth, end, parent))
            depth, parent = end, len(pieces) - 1
        groups.sort(key=lambda group: min(path.number for path in paths[slice(*group)]), reverse=True)
        spans += [_Span(*group, depth, parent) for group in groups]
    return pieces, leaves


def _parts_itself(paths: Sequence[_Path], groups: Sequence[tuple[int, int]]) -> bool:
    """Whether a single tree has paths in several of the groups."""
    owners = [owner for group in groups for owner in {path.owner for path in paths[slice(*group)]}]
    return len(set(owners)) < len(owners)


def _way(pieces: Sequence[_Piece], starts: Sequence[int], leaf: int) -> Indices:
    """The tokens of the forest from the root to the end of a segment."""
    way: list[Indices] = []
    while leaf >= 0:
        way.append(np.arange(starts[leaf], starts[leaf + 1], dtype=np.int32))
        leaf = pieces[leaf].parent
    return np.concatenate(way[::-1])


def _told_apart(tree: Tree, indices: Indices) -> NDArray[np.int64]:
    """One number per token that says both what it is and what the model reads in its place."""
    return tree.tokens[indices].astype(np.int64) << 32 | tree.inputs[indices]


def _common(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    """How many tokens two paths share from their beginnings on."""
    length = min(len(one), len(other))
    differing = np.flatnonzero(one[:length] != other[:length])
    return int(differing[0]) if len(differing) else length


def _bare(tokens: Sequence[Indices], inputs: Sequence[Indices], starts: Sequence[int], parents: Sequence[int]) -> Tree:
    """A tree without targets."""
    none = np.empty(0, dtype=np.int32)
    return Tree(
        tokens=np.concatenate(tokens),
        starts=tuple(starts),
        parents=tuple(parents),
        targets=none,
        sources=none,
        sequences=none,
        target_weights=none.astype(np.float32),
        num_sequences=0,
        inputs=np.concatenate(inputs),
    )
