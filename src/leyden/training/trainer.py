"""Lightning's trainer as this project uses it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import Logger

from leyden.settings.errors import ConfigError
from leyden.settings.training_groups import Trainer
from leyden.training.checkpoint_io import StraightIO
from leyden.training.strategies import make_precision, make_strategy


def make_trainer(
    settings: Trainer,
    callbacks: list[L.Callback],
    loggers: Sequence[Logger],
    folder: Path,
    max_steps: int = -1,
) -> L.Trainer:
    """The trainer that the settings ask for.

    Its own display, checkpoints, sampler and sanity check stay off: those are ours, or not wanted.

    Args:
        settings: of the loop and its devices.
        callbacks: in the order in which they are called.
        loggers: where every number goes.
        folder: of the run.
        max_steps: end after so many updates; -1: after the epochs of the settings.

    Raises:
        ConfigError: Lightning refuses the combination.
    """
    plugin = make_precision(settings)
    try:
        trainer = L.Trainer(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            strategy=make_strategy(settings),
            precision=None if plugin else settings.precision,
            plugins=[StraightIO(), *([plugin] if plugin else [])],
            max_epochs=settings.epochs if max_steps < 0 else -1,
            max_steps=max_steps,
            accumulate_grad_batches=settings.grad_accumulation,
            gradient_clip_val=settings.gradient_clip or None,
            logger=list(loggers),
            callbacks=callbacks,
            default_root_dir=folder,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            inference_mode=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (ValueError, L.pytorch.utilities.exceptions.MisconfigurationException) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"trainer: {first} Look at trainer.accelerator, devices, strategy and precision.") from error
    # Lightning's handler of SIGTERM talks to other ranks from inside, and ends in the middle of a window; ours stay.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer
