"""The devices of this machine: how many processes they make, and what they cannot do."""

from __future__ import annotations

import os

import lightning as L
import torch

from leyden.settings.errors import ConfigError
from leyden.settings.schema import Settings
from leyden.settings.training_groups import Trainer


def world_size(settings: Trainer) -> int:
    """How many processes train together."""
    devices = len(settings.devices) if isinstance(settings.devices, list) else settings.devices
    if devices == "auto":
        devices = torch.cuda.device_count() if settings.accelerator != "cpu" and torch.cuda.is_available() else 1
    return devices * settings.num_nodes


def check_device(settings: Settings) -> None:
    """Refuse a device or precision that this machine does not have.

    Raises:
        ConfigError: no GPU, too few of them, or half precision without one.
    """
    trainer, cuda = settings.trainer, torch.cuda.is_available()
    faults = []
    if trainer.accelerator == "gpu" and not cuda:
        faults.append("trainer.accelerator='gpu': no GPU is visible here. Use trainer=cpu or trainer=auto.")
    if trainer.precision.startswith("16-") and not cuda and trainer.accelerator != "cpu":
        faults.append(f"trainer.precision={trainer.precision!r} needs a GPU, and none is visible. Use 32-true.")
    if cuda and trainer.accelerator != "cpu":
        if trainer.precision.startswith("bf16-") and not torch.cuda.is_bf16_supported(including_emulation=False):
            faults.append(f"trainer.precision={trainer.precision!r}: the GPU has no bfloat16. Use 16-mixed.")
        count, there = trainer.devices, torch.cuda.device_count()
        wanted = [count - 1] if isinstance(count, int) else count if isinstance(count, list) else []
        if any(not 0 <= device < there for device in wanted):
            faults.append(f"trainer.devices={trainer.devices}: this machine has {there} GPUs, numbered from 0.")
        if trainer.devices == "auto" and there > 1 and trainer.strategy == "auto":
            faults.append(f"trainer.devices='auto' means {there} GPUs here. Set trainer=ddp, or trainer.devices=1.")
    elif isinstance(trainer.devices, list):
        faults.append(
            f"trainer.devices={trainer.devices} names GPUs, and none is used here. Give a count of processes."
        )
    if faults:
        raise ConfigError(faults)


def is_later_rank() -> bool:
    """Whether this process is another than the one that speaks and writes."""
    return any(int(os.environ.get(name, "0")) for name in ("LOCAL_RANK", "RANK"))


def agreed(wish: int, trainer: L.Trainer) -> int:
    """The largest number that any process names, so that all of them do the same; every one has to ask."""
    if trainer.world_size == 1:
        return wish
    named = torch.tensor(wish, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(named, torch.distributed.ReduceOp.MAX)
    return int(named)
