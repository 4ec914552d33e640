"""The LightningDataModule: prepared parts in, loaders of batches out."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
from dataclasses import dataclass

import lightning as L
import torch
from torch.utils.data import DataLoader

from leyden.data.augmented import AugmentedTrees
from leyden.data.collator import Collator
from leyden.data.dataset import Sample, TreeDataset
from leyden.data.fit import Fit
from leyden.data.grouping import Groups
from leyden.data.sampler import Rank, TrainingLoader, TrainingSampler, evaluation_batches
from leyden.settings.training_groups import Trainer


@dataclass(frozen=True)
class Prepared:
    """A part that is ready: its trees, and how they fit."""

    trees: TreeDataset
    fit: Fit


class TreeDataModule(L.LightningDataModule):
    """Batches of token trees for training and validation.

    Args:
        train: the training part.
        validation: the validation part.
        collator: packs or pads; its width is for training alone, evaluation cuts nothing.
        settings: batch size, workers, last batch.
        seed: of the order of the training samples.
        evaluation_batch_size: samples per batch in validation; it does not change any metric.
        augmented: the training samples with augmentation; None for none.
        grouped: keep samples of one conversation together.
    """

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        train: Prepared,
        validation: Prepared,
        collator: Collator,
        settings: Trainer,
        seed: int,
        evaluation_batch_size: int,
        augmented: AugmentedTrees | None = None,
        *,
        grouped: bool = True,
    ) -> None:
        super().__init__()
        self.train, self.validation = train, validation
        self.collator, self.settings = collator, settings
        self.seed, self.evaluation_batch_size, self.augmented = seed, evaluation_batch_size, augmented
        self.grouped = grouped

    def steps_per_epoch(self, world: int) -> int:
        """Batches per rank and epoch."""
        return len(self._sampler(Rank(0, world)))

    def train_dataloader(self) -> TrainingLoader:
        """Batches in an order that depends on seed and epoch alone."""
        return TrainingLoader(
            self.train.trees if self.augmented is None else self.augmented,
            batch_sampler=self._sampler(self._rank),
            collate_fn=self.collator.passes,
            num_workers=self.settings.number_of_workers,
            worker_init_fn=leave_signals,
        )

    def val_dataloader(self) -> DataLoader[Sample]:
        """This rank's share of the validation samples, none left out, none twice."""
        return self.evaluation_loader(self._rank)

    def evaluation_loader(self, rank: Rank, generator: torch.Generator | None = None) -> DataLoader[Sample]:
        """A rank's share of the validation samples.

        Args:
            rank: whose.
            generator: of the workers' seeds; None: torch's own.
        """
        return DataLoader(
            self.validation.trees,
            batch_sampler=evaluation_batches(
                self.validation.fit.lengths, self.evaluation_batch_size, rank, self._groups(self.validation)
            ),
            collate_fn=self.collator.for_evaluation().passes,
            num_workers=self.settings.number_of_workers,
            worker_init_fn=leave_signals,
            generator=generator,
        )

    def _groups(self, part: Prepared) -> Groups | None:
        """Samples that stay together, where a batch computes their common beginning once."""
        return part.trees.groups() if self.grouped and self.collator.for_evaluation().merges else None

    def _sampler(self, rank: Rank) -> TrainingSampler:
        noisy = self.augmented is not None and self.augmented.noisy
        return TrainingSampler(
            len(self.train.trees),
            self.settings.rows,
            self.seed,
            rank,
            drop_last=self.settings.drop_last_batch,
            groups=None if noisy else self._groups(self.train),
        )

    @property
    def world(self) -> int:
        """How many processes there are."""
        return self._rank.world

    @property
    def _rank(self) -> Rank:
        return Rank(self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else Rank()


def leave_signals(worker: int) -> None:  # noqa: ARG001
    """Leave SIGTERM and Ctrl-C, which come to all processes of a group, to the one that trains; it ends its workers."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)


@atexit.register
def _end_workers() -> None:
    """Kill the workers that are still there when this process ends.

    A signal can end a run while one of its loaders is alive to the last; multiprocessing then asks its workers by
    SIGTERM, which they leave alone, and waits for them without end.
    """
    if left := multiprocessing.active_children():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch takes the death of a worker for a fault
        for child in left:
            child.kill()
