"""Which samples make a batch on which rank; the order is a function of seed and epoch, the position is state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Sampler

from leyden.data.augmented import AugmentedTrees
from leyden.data.grouping import Groups, fitted


@dataclass(frozen=True)
class Rank:
    """This process among all that train together."""

    index: int = 0
    world: int = 1


class TrainingSampler(Sampler[list[int]]):
    """Batches of sample numbers in a random order that depends on seed and epoch alone.

    A step takes `batch_size * world` samples; each rank gets its own consecutive share. In the last step of an epoch
    the rest is spread evenly; a rank that gets nothing gets a ghost, `~i`, whose targets do not count. The order holds
    for every machine and version of numpy, so that a run can be continued elsewhere. Samples of a group follow each
    other.

    Args:
        num_samples: of the training part.
        batch_size: samples per rank and step.
        seed: of the order.
        rank: this process.
        drop_last: leave out an incomplete last step, unless it is the only one.
        groups: samples that stay together; None for none.
    """

    def __init__(  # noqa: PLR0913
        self, num_samples: int, batch_size: int, seed: int, rank: Rank, *, drop_last: bool, groups: Groups | None = None
    ) -> None:
        self.num_samples, self.batch_size, self.seed, self.rank = num_samples, batch_size, seed, rank
        self.groups = groups
        self.step = step = batch_size * rank.world  # samples that all ranks take together
        self.whole_only = drop_last and num_samples >= step
        self.steps = num_samples // step if self.whole_only else ceil(num_samples / step)
        self.epoch = 0
        self.consumed = 0  # samples of this epoch that all ranks have taken
        self.sampler = self  # where Lightning looks for set_epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; called by Lightning at the start of each epoch, also of one that is continued."""
        if epoch != self.epoch:
            self.epoch, self.consumed = epoch, 0

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this rank's batches, from `consumed` on; the next epoch starts at its beginning."""
        order = epoch_order(self.num_samples, self.seed, self.epoch, self.groups)
        first, self.consumed = self.consumed, 0
        for start in range(first, self.end(first), self.step):
            yield _share(order[start : start + self.step], self.rank)

    def end(self, first: int) -> int:
        """Samples taken when an epoch ends that goes on from `first`: all, or those of whole steps."""
        left = self.num_samples - first
        return self.num_samples - (left % self.step if self.whole_only else 0)

    def state_dict(self) -> dict[str, Any]:
        """Position in samples; independent of batch size and number of ranks."""
        return {"epoch": self.epoch, "consumed": self.consumed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where the state was taken; of a finished epoch nothing is left."""
        self.epoch, self.consumed = state["epoch"], state["consumed"]


class TrainingLoader(DataLoader[Any]):
    """A loader that knows how many samples it has handed out, and can go on from there.

    `DataLoader` reads ahead, so the position is counted here, at the batches that were used.
    """

    batch_sampler: TrainingSampler
    resumed_at: tuple[int, int] | None = None  # epoch, samples
    _handed_out: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield batches and count their samples."""
        sampler = self.batch_sampler
        epoch, taken = sampler.epoch, sampler.consumed
        if isinstance(self.dataset, AugmentedTrees):
            self.dataset.epoch = epoch
        end = sampler.end(taken)
        for batch in super().__iter__():
            taken = min(taken + sampler.step, end)
            self._handed_out = (epoch, taken)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state at the batches that were used."""
        state = self.batch_sampler.state_dict()
        if self._handed_out is not None and self._handed_out[0] == state["epoch"]:
            state["consumed"] = self._handed_out[1]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where the state was taken; of a finished epoch nothing is left."""
        self.batch_sampler.load_state_dict(state)
        self._handed_out = None
        self.resumed_at = (state["epoch"], state["consumed"])


def epoch_order(num_samples: int, seed: int, epoch: int, groups: Groups | None = None) -> list[int]:
    """The order of the samples in an epoch: a permutation of their numbers; groups are drawn and stay whole."""
    count = num_samples if groups is None else len(groups)
    # numpy promises equal streams for its bit generators only, not for permutation()
    order: list[int] = np.argsort(np.random.PCG64([seed, epoch]).random_raw(count), kind="stable").tolist()
    return order if groups is None else fitted(groups, order)


def evaluation_batches(
    lengths: Sequence[int], batch_size: int, rank: Rank, groups: Groups | None = None
) -> list[list[int]]:
    """This rank's share of all samples, without copies, in batches of similar length, the longest first.

    Every rank has equally many batches, if need be one more with a ghost, `~i`: ranks that share weights wait for each
    other in every forward pass.

    Args:
        lengths: tokens of each sample.
        batch_size: samples per batch.
        rank: this process.
        groups: samples that stay together, at the place of their longest; ranks then take whole batches in turn.
    """
    if groups is None:
        order = sorted(range(len(lengths)), key=lambda sample: (-lengths[sample], sample))
        own = order[rank.index :: rank.world]
        batches = [own[start : start + batch_size] for start in range(0, len(own), batch_size)]
        most = ceil(len(order[:: rank.world]) / batch_size)
    else:
        longest = np.maximum.reduceat(np.asarray(lengths)[groups.members], groups.starts[:-1])
        order = groups.joined(np.argsort(-longest, kind="stable").tolist())
        every = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        batches, most = every[rank.index :: rank.world], ceil(len(every) / rank.world)
    return batches + [[~order[-1]]] * (most - len(batches))


def _share(step: list[int], rank: Rank) -> list[int]:
    """This rank's part of a step: as even as it goes, in order; a ghost where there is none."""
    base, extra = divmod(len(step), rank.world)
    start = rank.index * base + min(rank.index, extra)
    own = step[start : start + base + (rank.index < extra)]
    return own or [~step[0]]
