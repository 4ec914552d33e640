"""Where in its epochs a training is, and how many updates it has in all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import lightning as L

from leyden.data.sampler import TrainingLoader
from leyden.settings.errors import ConfigError
from leyden.training.prepare import Material
from leyden.training.saved_states import SavedState


@dataclass(frozen=True)
class Position:
    """Where in the epochs a checkpoint was written.

    Attributes:
        updates: done.
        epoch: counted from 0.
        consumed: samples of that epoch that all processes have taken.
        processes: that trained together.
    """

    updates: int
    epoch: int
    consumed: int
    processes: int

    @classmethod
    def of(cls, trainer: L.Trainer) -> Position:
        """Where a training is at the moment."""
        consumed = loader_of(trainer).state_dict()["consumed"]
        epoch = trainer.current_epoch
        return cls(trainer.global_step, epoch, consumed, trainer.world_size)


@dataclass(frozen=True)
class Epochs:
    """How an epoch is cut.

    Attributes:
        samples: of the training part.
        step: samples that all processes take at once.
        steps: batches per process and epoch.
        accumulation: batches per update.
        count: epochs of the run.
    """

    samples: int
    step: int
    steps: int
    accumulation: int
    count: int

    @property
    def updates(self) -> int:
        """Of one epoch."""
        return math.ceil(self.steps / self.accumulation)

    def batches_at(self, position: Position) -> int:
        """Batches of the position's epoch that are behind it, if every process takes as many samples as now."""
        left = self.samples - position.consumed
        return max(0, self.steps - math.ceil(left / self.step))

    def planned(self, position: Position | None) -> int:
        """Updates of the whole run: those that are done and those that are left."""
        if position is None:
            return self.count * self.updates
        begun = self.updates - self.batches_at(position) // self.accumulation
        return position.updates + begun + max(0, self.count - position.epoch - 1) * self.updates


def rows_of(material: Material) -> dict[str, str]:
    """Sha256 of the table of each part."""
    parts = {"train": material.train, "validation": material.validation}
    return {name: part.trees.part.source.table.sha256 for name, part in parts.items()}


def position_of(state: SavedState, epochs: Epochs, rows: Mapping[str, str]) -> Position:
    """Where a checkpoint was written, if the run can go on from there.

    Raises:
        ConfigError: the epochs are over by then, or the tables are not those of the run.
    """
    position = Position(**state.position)
    faults = [
        f"The {name} table has changed since the run was started (its sha256 was {state.rows[name]}, and is {found}), "
        "so the training cannot go on as it was. Put the file back, or start a new run."
        for name, found in rows.items()
        if state.rows.get(name, found) != found
    ]
    if position.epoch >= epochs.count:
        faults.append(
            f"trainer.epochs={epochs.count}: the run is in its epoch {position.epoch + 1} already. Set at least "
            f"{position.epoch + 1}."
        )
    if faults:
        raise ConfigError(faults)
    return position


def loader_of(trainer: L.Trainer) -> TrainingLoader:
    """The loader of a training that has begun."""
    combined = trainer.fit_loop._combined_loader
    assert combined is not None
    (loader,) = combined.flattened
    assert isinstance(loader, TrainingLoader)
    return loader
