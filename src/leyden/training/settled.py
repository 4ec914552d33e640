"""Settings that say `auto`, settled on the machine and the rows at hand before the training."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from leyden.data.collator import Collator
from leyden.settings.schema import Settings
from leyden.training.assembly import make_data, make_module
from leyden.training.finders import UPDATES, find_batch_size, find_learning_rate, rate_curve
from leyden.training.module import FineTuner
from leyden.training.prepare import Material
from leyden.training.trainer import make_trainer

FOUND = ("backbone.dtype", "trainer.batch_size", "trainer.tokens_per_pass", "optimizer.learning_rate")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trials:
    """Short trainings of a run's own kind, whose weights are put back.

    Attributes:
        settings: of the run, as far as they are settled.
        material: from `prepare`.
        backbone: of the run.
        collator: of the run.
        folder: of the run.
    """

    settings: Settings
    material: Material
    backbone: nn.Module
    collator: Collator
    folder: Path

    def trainer(self, callbacks: list[Callback], updates: int) -> L.Trainer:
        """A trainer for so many updates, which logs nothing."""
        return make_trainer(self.settings.trainer, callbacks, [], self.folder, updates)

    def module(self) -> FineTuner:
        """A module whose optimizer is fresh and whose rate stays where it begins."""
        return make_module(self.settings, self.material, self.backbone, 1, 1, make_schedule=_flat)

    def longest(self, size: int) -> DataLoader[Any]:
        """One batch of the longest training samples, in one pass that shares nothing, as often as an update takes."""
        train = self.material.train
        order = np.argsort(-train.fit.lengths.array, kind="stable")[:size].tolist()
        passes = self.settings.trainer.grad_accumulation
        whole = replace(self.collator, tokens=None, merged=False)
        return DataLoader(train.trees, batch_sampler=[order] * passes, collate_fn=whole.passes)

    def rate(self) -> float:
        """The learning rate at which the loss falls fastest; an update that cannot be applied ends the test alone."""
        trainer = self.settings.trainer.model_copy(update={"max_bad_steps": UPDATES})
        patient = self.settings.model_copy(update={"trainer": trainer})
        module = make_module(patient, self.material, self.backbone, UPDATES, UPDATES, make_schedule=_growing)
        data = make_data(self.settings, self.material, self.collator)
        return find_learning_rate(module, data.train_dataloader(), self.trainer)


def _flat(optimizer: Optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda _: 1.0)


def _growing(optimizer: Optimizer) -> LambdaLR:
    return LambdaLR(optimizer, rate_curve)


def settled(
    settings: Settings, material: Material, backbone: nn.Module, collator: Collator, folder: Path
) -> tuple[Settings, dict[str, str]]:
    """The settings with a number wherever they said `auto`, and why it is that number, by key.

    The batch size comes first, since the learning rate is looked for with it. Without training nothing is looked for.

    Args:
        settings: of the run.
        material: from `prepare`.
        backbone: of the run; its weights are as before afterwards.
        collator: of the run.
        folder: of the run.

    Raises:
        ConfigError: there is no such number.
    """
    found: dict[str, str] = {}
    if not settings.trainer.epochs:
        return settings, found
    if settings.trainer.batch_size == "auto":
        trials = Trials(settings, material, backbone, collator, folder)
        samples = len(material.train.trees)
        size = find_batch_size(trials.module, trials.longest, trials.trainer, samples)
        settings = settings.model_copy(update={"trainer": settings.trainer.model_copy(update={"batch_size": size})})
        found["trainer.batch_size"] = "the largest power of two whose longest samples the memory holds"
        log.info("trainer.batch_size=auto is %d. To repeat this run elsewhere, write the number.", size)
    if settings.optimizer.learning_rate == "auto":
        log.info("optimizer.learning_rate=auto: up to %d updates with a growing rate, until the loss is lost.", UPDATES)
        rate = Trials(settings, material, backbone, collator, folder).rate()
        settings = settings.model_copy(
            update={"optimizer": settings.optimizer.model_copy(update={"learning_rate": rate})}
        )
        found["optimizer.learning_rate"] = f"where the loss fell fastest in a range test of {UPDATES} updates"
        log.info("optimizer.learning_rate=auto is %g: %s.", rate, found["optimizer.learning_rate"])
    return settings, found


def settled_values(settings: Settings) -> dict[str, Any]:
    """What stands for every `auto` of a run, by key; `auto` still where the machine alone decides."""
    keys = [key.split(".") for key in FOUND]
    return {f"{group}.{name}": getattr(getattr(settings, group), name) for group, name in keys}


def with_settled(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The settings with what an earlier part of the run has found, wherever they say `auto`."""
    for key, value in values.items():
        group, name = key.split(".")
        part = getattr(settings, group)
        if getattr(part, name) == "auto" and value != "auto":
            log.info("%s=auto is %s, as before.", key, value)
            settings = settings.model_copy(update={group: part.model_copy(update={name: value})})
    return settings
