"""The longest prompt of a part, found without writing out every one."""

from __future__ import annotations

import numpy as np

from leyden.data.dataset import TreeDataset


def longest_prompt(trees: TreeDataset) -> int:
    """Tokens of the longest generation prompt; its texts bound each, so that few have to be written out."""
    if trees.pieces is not None:
        return 0
    tokens, samples = trees.tokens, trees.part.samples
    sizes = tokens["prompt"].lengths() + (tokens["answer"].lengths() if "answer" in tokens else 0)
    bounds = np.add.reduceat(sizes[samples.values], samples.offsets[:-1])
    if "system" in tokens:
        bounds += tokens["system"].lengths()[samples.values[samples.offsets[:-1]]]
    turns = np.diff(samples.offsets)
    for count in np.unique(turns).tolist():
        kinds = [trees.template.layout(count, system=system) for system in {False, "system" in tokens}]
        bounds[turns == count] += max(layout.before_answer() for layout in kinds)
    bounds -= tokens["answer"].lengths()[samples.last()] if "answer" in tokens else 0
    bounds, longest = np.clip(bounds, 1, trees.limits.max_length), 0
    for sample in np.argsort(-bounds, kind="stable").tolist():
        if longest >= bounds[sample]:
            break
        longest = max(longest, len(trees.conversation(sample, answered=False).history))
    return longest
