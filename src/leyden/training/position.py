"""Where in its epochs a training is, and how many updates it has in all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import lightning as L

from leyden.data.sampler import TrainingLoader
from leyden.settings.errors import ConfigError
from leyden.settings.schema import Settings
from leyden.settings.training_groups import Schedule
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
        planned: updates of the whole run, as it was planned then.
    """

    updates: int
    epoch: int
    consumed: int
    processes: int
    planned: int = 0

    @classmethod
    def of(cls, trainer: L.Trainer, planned: int) -> Position:
        """Where a training is at the moment."""
        consumed = loader_of(trainer).state_dict()["consumed"]
        epoch = trainer.current_epoch
        return cls(trainer.global_step, epoch, consumed, trainer.world_size, planned)


@dataclass(frozen=True)
class Epochs:
    """How an epoch is cut.

    Attributes:
        samples: of the training part.
        step: samples that all processes take at once.
        steps: batches per process and epoch.
        accumulation: batches per update.
        count: epochs of the run.
        whole_only: an incomplete last step is left out.
    """

    samples: int
    step: int
    steps: int
    accumulation: int
    count: int
    whole_only: bool = False

    @property
    def updates(self) -> int:
        """Of one epoch."""
        return math.ceil(self.steps / self.accumulation)

    def batches_at(self, position: Position) -> int:
        """Batches of the position's epoch that are behind it, if every process takes as many samples as now."""
        left = self.samples - position.consumed
        return max(0, self.steps - (left // self.step if self.whole_only else math.ceil(left / self.step)))

    def planned(self, position: Position | None) -> int:
        """Updates of the whole run: those that are done and those that are left."""
        if position is None:
            return self.count * self.updates
        behind = self.batches_at(position)
        begun = self.updates - behind // self.accumulation if behind < self.steps else 0
        return position.updates + begun + max(0, self.count - position.epoch - 1) * self.updates


def rows_of(material: Material) -> dict[str, str]:
    """Sha256 of the table of each part."""
    parts = {"train": material.train, "validation": material.validation}
    return {name: part.trees.part.source.table.sha256 for name, part in parts.items()}


def check_position(state: SavedState, settings: Settings, material: Material) -> None:
    """Refuse to go on where the epochs are over, or with other rows.

    Raises:
        ConfigError: all faults.
    """
    epochs, rows = settings.trainer.epochs, rows_of(material)
    faults = [
        f"The {name} table has changed since the run was started (its sha256 was {state.rows[name]}, and is {found}), "
        "so the training cannot go on as it was. Put the file back, or start a new run."
        for name, found in rows.items()
        if state.rows.get(name, found) != found
    ]
    epoch = state.position["epoch"] + 1
    if epoch > epochs:
        faults.append(f"trainer.epochs={epochs}: the run is in its epoch {epoch} already. Set at least {epoch}.")
    if faults:
        raise ConfigError(faults)


def check_curve(schedule: Schedule, position: Position, planned: int) -> None:
    """Refuse another number of updates where the scheduler has laid its curve over them.

    Raises:
        ConfigError: it is one of torch that was told how many there are.
    """
    if position.planned != planned and "updates" in schedule.knobs.values():
        raise ConfigError(
            f"schedule._target_={schedule.target!r} was laid out for {position.planned} updates, and there would be "
            f"{planned}: with it trainer.epochs and trainer.devices cannot change on the way. Leave them as they were."
        )


def loader_of(trainer: L.Trainer) -> TrainingLoader:
    """The loader of a training that has begun."""
    combined = trainer.fit_loop._combined_loader
    assert combined is not None
    (loader,) = combined.flattened
    assert isinstance(loader, TrainingLoader)
    return loader
