"""Which samples make a batch on which rank; the order is a function of seed and epoch, the position is state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Sampler


@dataclass(frozen=True)
class Rank:
    """This process among all that train together."""

    index: int = 0
    world: int = 1


class TrainingSampler(Sampler[list[int]]):
    """Batches of sample numbers in a random order that depends on seed and epoch alone.

    A step takes `batch_size * world` samples; each rank gets its own consecutive share. In the last step of an epoch the
    rest is spread evenly; a rank that gets nothing gets a ghost, `~i`, whose targets do not count.

    Args:
        num_samples: of the training part.
        batch_size: samples per rank and step.
        seed: of the order.
        rank: this process.
        drop_last: leave out an incomplete last step, unless it is the only one.
    """

    def __init__(self, num_samples: int, batch_size: int, seed: int, rank: Rank, *, drop_last: bool) -> None:
        self.num_samples, self.batch_size, self.seed, self.rank = num_samples, batch_size, seed, rank
        step = batch_size * rank.world
        whole = num_samples // step
        self.steps = whole if drop_last and whole else ceil(num_samples / step)
        self.epoch = 0
        self.consumed = 0  # samples of this epoch that all ranks have taken
        self.sampler = self  # where Lightning looks for set_epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this rank's batches, from `consumed` on; the next epoch starts at its beginning."""
        order = np.random.Generator(np.random.PCG64([self.seed, self.epoch])).permutation(self.num_samples).tolist()
        step = self.batch_size * self.rank.world
        first, self.consumed = self.consumed, 0
        for start in range(first, min(self.steps * step, self.num_samples), step):
            yield _share(order[start : start + step], self.rank)

    def state_dict(self) -> dict[str, Any]:
        """Position in samples; independent of batch size and number of ranks."""
        return {"epoch": self.epoch, "consumed": self.consumed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where the state was taken."""
        self.epoch, self.consumed = state["epoch"], state["consumed"]


class TrainingLoader(DataLoader[Any]):
    """A loader that knows how many samples it has handed out, and can go on from there.

    `DataLoader` reads ahead, so the position is counted here, at the batches that were used.
    """

    batch_sampler: TrainingSampler  # type: ignore[assignment]

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield batches and count their samples."""
        sampler = self.batch_sampler
        step = sampler.batch_size * sampler.rank.world
        self._handed_out = sampler.consumed
        for batch in super().__iter__():
            self._handed_out = min(self._handed_out + step, sampler.num_samples)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state at the batches that were used."""
        return {**self.batch_sampler.state_dict(), "consumed": getattr(self, "_handed_out", 0)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where the state was taken; a finished epoch continues with the next one."""
        done = state["consumed"] >= min(self.batch_sampler.num_samples, len(self.batch_sampler) * self._step)
        self.batch_sampler.load_state_dict({**state, "consumed": 0 if done else state["consumed"]})

    @property
    def _step(self) -> int:
        return self.batch_sampler.batch_size * self.batch_sampler.rank.world


def evaluation_batches(lengths: Sequence[int], batch_size: int, rank: Rank) -> list[list[int]]:
    """This rank's share of all samples, without copies, in batches of similar length, the longest first.

    Args:
        lengths: tokens of each sample.
        batch_size: samples per batch.
        rank: this process.
    """
    order = sorted(range(len(lengths)), key=lambda sample: (-lengths[sample], sample))[rank.index :: rank.world]
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _share(step: list[int], rank: Rank) -> list[int]:
    """This rank's part of a step: as even as it goes, in order; a ghost where there is none."""
    base, extra = divmod(len(step), rank.world)
    start = rank.index * base + min(rank.index, extra)
    own = step[start : start + base + (rank.index < extra)]
    return own or [~step[0]]
