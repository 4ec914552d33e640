"""The training samples with this epoch's augmentation; equal for any number of workers."""

from __future__ import annotations

from dataclasses import dataclass

from torch.utils.data import Dataset

from leyden.data.augmentation import Augmentor
from leyden.data.dataset import Sample, TreeDataset


@dataclass
class AugmentedTrees(Dataset[Sample]):
    """Samples whose turns, tokens and embeddings are changed by draws from (seed, epoch, sample).

    Attributes:
        trees: the samples as they are.
        augmentor: draws what changes.
        special: token ids that are never hidden.
        mask_id: token id that hides another.
        epoch: whose draws; the loader sets it before its workers start.
    """

    trees: TreeDataset
    augmentor: Augmentor
    special: frozenset[int]
    mask_id: int
    epoch: int = 0

    def __len__(self) -> int:
        """Samples."""
        return len(self.trees)

    @property
    def noisy(self) -> bool:
        """Whether every sample has noise of its own on its embeddings."""
        return self.augmentor.settings.neftune_noise_alpha > 0

    def __getitem__(self, sample: int) -> Sample:
        """The sample's number, its changed tree and the seed of its noise; `~i` gives sample i as a ghost."""
        number = sample if sample >= 0 else ~sample
        draw, trees = (self.epoch, number), self.trees
        before, rows = self.augmentor.turns(trees.part.samples[number], trees.part.rows, *draw)
        conversation = trees.conversation(number, answered=trees.limits.answers, rows=rows, before=before)
        tree = trees.tree(number, conversation)
        source_only = None if trees.limits.target_length is None else tree.starts[1]  # of an encoder-decoder
        hidden = self.augmentor.mask(tree, self.special, self.mask_id, *draw, end=source_only)
        return Sample(sample, hidden, self.augmentor.noise_seed(*draw) if self.noisy else None)
