"""The last step of a worker process: the samples of one step become a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from leyden.data.batches import Batch
from leyden.data.collation import pack, pad, pad_encoder_decoder
from leyden.data.dataset import Sample
from leyden.data.merging import merge, side_by_side
from leyden.data.trees import Tree
from leyden.data.trimming import filling, quantile_width, trimmed

Layout = Literal["packed", "padded", "encoder_decoder"]


@dataclass(frozen=True)
class Collator:
    """Trees become a batch; small and picklable, for worker processes.

    Attributes:
        layout: `packed`, one row without padding; `padded`, one row per path; `encoder_decoder`, sources and targets.
        pad_id: token id of the padding, which is recognised by the mask, never by the id.
        start_id: the decoder's start token.
        quantile: width of a batch among the lengths of its samples; longer ones lose their oldest tokens. 1 cuts
            nothing, 0 fills every sample up to `max_length`: for a test of the memory that is needed.
        max_length: of a sample; read for the quantile 0 only.
        tokens: of one pass through the model at most, if its samples are not longer; None: no limit.
        merged: compute equal beginnings of packed samples once, where nothing is filled up.
    """

    layout: Layout
    pad_id: int
    start_id: int = 0
    quantile: float = 1.0
    max_length: int = 0
    tokens: int | None = None
    merged: bool = True

    def passes(self, samples: Sequence[Sample]) -> list[Batch]:
        """Join the samples of one step, in order, to as few batches as the limit of tokens allows."""
        trees = self._trimmed([sample.tree for sample in samples])
        samples = [sample._replace(tree=tree) for sample, tree in zip(samples, trees, strict=True)]
        if self.tokens is None or self.quantile == 0:
            return [self._joined(samples)]
        groups: list[list[Sample]] = []
        for sample in samples:
            if groups and self._fits([*groups[-1], sample], self.tokens):
                groups[-1].append(sample)
            else:
                groups.append([sample])
        return [self._joined(group) for group in groups]

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Join the samples of one step to one batch."""
        trees = self._trimmed([sample.tree for sample in samples])
        return self._joined([sample._replace(tree=tree) for sample, tree in zip(samples, trees, strict=True)])

    def _fits(self, samples: Sequence[Sample], tokens: int) -> bool:
        """Whether samples go through the model in one pass; merging only takes tokens away, so try it last."""
        if self.layout == "packed" and sum(len(sample.tree.tokens) for sample in samples) <= tokens:
            return True
        return self._size(samples) <= tokens

    def _size(self, samples: Sequence[Sample]) -> int:
        """Tokens that go through the model for a batch: shared ones once, and with its padding."""
        if self.layout == "packed":
            shares = self.merges and all(sample.seed is None for sample in samples)
            trees = [sample.tree for sample in samples]
            return len((merge(trees) if shares else side_by_side(trees)).tree.tokens)
        paths = [len(path) for sample in samples for path in sample.tree.paths()]
        return len(paths) * max(paths, default=0)

    def _joined(self, samples: Sequence[Sample]) -> Batch:
        numbers, trees = [sample.number for sample in samples], [sample.tree for sample in samples]
        seeds = [sample.seed for sample in samples if sample.seed is not None] or None
        width = self.max_length if self.quantile == 0 else 0
        if self.layout == "encoder_decoder":
            return pad_encoder_decoder(trees, numbers, self.pad_id, self.start_id, seeds, width)
        if self.layout == "padded":
            return pad(trees, numbers, self.pad_id, seeds, width)
        extra = filling(trees, width, self.pad_id)
        if extra is not None:  # a ghost that belongs to no sample
            trees, numbers = [*trees, extra], [*numbers, -1]
            seeds = None if seeds is None else [*seeds, 0]
        return pack(trees, numbers, seeds, merged=self.merges)

    @property
    def merges(self) -> bool:
        """Whether samples that begin alike share their beginnings in a batch."""
        return self.merged and self.layout == "packed" and self.quantile > 0

    def for_evaluation(self) -> Collator:
        """The same without a width: evaluation cuts nothing and fills nothing up."""
        return replace(self, quantile=1.0)

    def _trimmed(self, trees: list[Tree]) -> list[Tree]:
        if self.quantile in (0, 1):
            return trees
        apart = [len(tree.tokens) - tree.starts[1] if self.layout == "encoder_decoder" else 0 for tree in trees]
        width = quantile_width([tree.longest() - own for tree, own in zip(trees, apart, strict=True)], self.quantile)
        return [trimmed(tree, width + own) for tree, own in zip(trees, apart, strict=True)]
