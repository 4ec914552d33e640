"""How long samples are before anything is cut, from the lengths of their texts alone; and histograms of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from leyden.data.dataset import TreeDataset

LAID_OUT = 16  # turns up to which a template is asked for its frames; each further turn takes as many as the last one
BINS = 32
USUAL = 0.995  # share of the samples that have bins of equal width; longer ones share one


def whole_lengths(trees: TreeDataset) -> NDArray[np.int64]:
    """Tokens of each sample's longest path before anything is cut; of the source alone where targets are apart.

    Pieces of documents have the length they were cut to: nothing of them is lost.
    """
    if trees.pieces is not None:
        return np.fromiter((end - start for start, end in trees.pieces), dtype=np.int64, count=len(trees))
    samples, tokens = trees.part.samples, trees.tokens
    first, last = samples.values[samples.offsets[:-1]], samples.last()
    lengths = {name: column.lengths() for name, column in tokens.items()}
    zero = np.zeros(len(lengths["prompt"]), dtype=np.int64)
    answer = lengths.get("answer", zero)
    answered = trees.limits.answers and trees.limits.target_length is None
    inner = lengths["prompt"] + answer
    final = np.maximum(lengths["prompt"], lengths.get("rejected_prompt", zero))
    if answered:
        final = final + np.maximum(answer, lengths.get("rejected", zero))
    system = lengths.get("system", zero)[first]
    texts = np.add.reduceat(inner[samples.values], samples.offsets[:-1]) - inner[last] + final[last] + system
    turns = np.diff(samples.offsets)
    frames = np.zeros(len(turns), dtype=np.int64)
    for with_system in np.unique(system > 0).tolist():
        chosen = (system > 0) == with_system
        frames[chosen] = _frame_lengths(trees, turns[chosen], system=with_system, answered=answered)
    whole: NDArray[np.int64] = texts + frames
    return whole


def target_lengths(trees: TreeDataset) -> NDArray[np.int64] | None:
    """Tokens of each sample's target before anything is cut, where targets have a limit of their own."""
    if trees.limits.target_length is None or "answer" not in trees.tokens:
        return None
    end = len(trees.template.layout(1, system=False).answers[0].after)
    found: NDArray[np.int64] = trees.tokens["answer"].lengths()[trees.part.samples.last()] + end
    return found


def _frame_lengths(trees: TreeDataset, turns: NDArray[np.int64], *, system: bool, answered: bool) -> NDArray[np.int64]:
    """Tokens that the template adds, by number of turns."""
    known = np.zeros(LAID_OUT + 1, dtype=np.int64)
    most = min(int(turns.max()), LAID_OUT)
    for number in {*np.minimum(turns, LAID_OUT).tolist(), most, max(1, most - 1)}:
        layout = trees.template.layout(number, system=system)
        answers = layout.answers if answered else layout.answers[:-1]
        frames = (layout.system, *layout.prompts, *answers)
        known[number] = sum(len(frame.before) + len(frame.after) for frame in frames)
    beyond = np.maximum(0, turns - LAID_OUT) * (known[LAID_OUT] - known[LAID_OUT - 1])
    found: NDArray[np.int64] = known[np.minimum(turns, LAID_OUT)] + beyond
    return found


def length_histogram(parts: dict[str, NDArray[np.int64]], limit: int) -> dict[str, Any]:
    """Counts of lengths in the same bins for all parts, of which one ends at the limit if samples come near it.

    Args:
        parts: tokens of each sample, by part.
        limit: that longer ones are cut to.
    """
    every = np.concatenate(list(parts.values()))
    longest = int(every.max(initial=0))
    usual = int(np.quantile(every, USUAL)) if len(every) else 0
    if longest * 2 > limit:
        steps = max(1, min(BINS // 2, limit, 2 * BINS * limit // max(usual, 1)))
        bins = min(2 * BINS, max(1, -(-usual * steps // limit)))
        edges = [round(limit * place / steps) + 1 for place in range(bins + 1)]
    else:  # far below the limit, which is no edge then
        width = -(-max(longest, 1) // BINS)
        edges = list(range(1, longest + width + 1, width)) if longest else [1, 2]
    if longest >= edges[-1]:
        edges.append(longest + 1)
    return {
        "edges": edges,
        "parts": {
            name: {
                "counts": np.histogram(lengths, [0, *edges[1:]])[0].tolist(),
                "longest": int(lengths.max(initial=0)),
                "median": float(np.median(lengths)) if len(lengths) else 0.0,
                "over": int((lengths > limit).sum()),
            }
            for name, lengths in parts.items()
        },
    }


def number_histogram(parts: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    """Counts of numbers in the same bins for all parts; what is not finite is left out."""
    finite = {name: values[np.isfinite(values)] for name, values in parts.items()}
    every = np.concatenate(list(finite.values()))
    edges = _edges(every) if len(every) else np.asarray([0.0, 1.0])
    return {
        "edges": edges.tolist(),
        "parts": {name: {"counts": np.histogram(values, edges)[0].tolist()} for name, values in finite.items()},
    }


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of as many equal bins as there are different numbers, up to `BINS`; also of numbers as large as there are."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        half = max(0.5, abs(low) / 4)
        return np.asarray([low - half, low + half])
    edges: NDArray[np.float64] = 2 * np.linspace(low / 2, high / 2, min(BINS, len(np.unique(values))) + 1)
    return edges
