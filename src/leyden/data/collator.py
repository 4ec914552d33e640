"""The last step of a worker process: the samples of one step become a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from leyden.data.batches import Batch
from leyden.data.collation import pack, pad, pad_encoder_decoder
from leyden.data.dataset import Sample
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
        merged: compute equal beginnings of packed samples once, where nothing is filled up.
    """

    layout: Layout
    pad_id: int
    start_id: int = 0
    quantile: float = 1.0
    max_length: int = 0
    merged: bool = True

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Join the samples of one step."""
        numbers = [sample.number for sample in samples]
        trees = self._trimmed([sample.tree for sample in samples])
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
