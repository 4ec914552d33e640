"""Checks of devices, processes and arithmetic, as far as they show without looking at the hardware."""

from __future__ import annotations

from collections.abc import Iterator

from leyden.settings.schema import Settings
from leyden.settings.torchrun import foreign_world, launched
from leyden.settings.training_groups import Trainer
from leyden.settings.wording import show


def environment(settings: Settings) -> Iterator[str]:
    """Faults of `trainer`: what goes with which device, and how many processes there are."""
    trainer = settings.trainer
    yield from _precision(trainer)
    yield from _devices(trainer)
    yield from _processes(trainer)


def _precision(trainer: Trainer) -> Iterator[str]:
    if trainer.accelerator == "cpu" and trainer.precision.startswith("16-"):
        yield (
            f"trainer.precision={show(trainer.precision)} needs a GPU. On a CPU use 32-true, or bf16-mixed where the "
            "processor has bfloat16."
        )


def _devices(trainer: Trainer) -> Iterator[str]:
    devices = trainer.devices
    if devices == []:
        yield "trainer.devices=[] names no device. For the CPU write trainer=cpu; for GPUs name each by its number."
    elif isinstance(devices, list) and len(set(devices)) < len(devices):
        yield f"trainer.devices={devices} names a device twice. Name each once."
    elif isinstance(devices, list) and trainer.accelerator == "cpu":
        yield f"trainer.devices={devices} names GPUs. With trainer.accelerator=cpu give a count."


def _processes(trainer: Trainer) -> Iterator[str]:
    devices, process = trainer.devices, launched()
    count = len(set(devices)) if isinstance(devices, list) else devices
    if trainer.strategy == "auto" and (trainer.num_nodes > 1 or (isinstance(count, int) and count > 1)):
        yield (
            f"trainer.devices={devices} on trainer.num_nodes={trainer.num_nodes} are several processes, and "
            "trainer.strategy=auto is for one. Set trainer.strategy=ddp, or fsdp to share the weights."
        )
    if foreign_world() > 1:
        yield (
            f"WORLD_SIZE={foreign_world()} in the environment says that another launcher started several processes. "
            "Start them with torchrun, or run `python train.py trainer=ddp trainer.devices=N` on one machine."
        )
    elif process is None and trainer.num_nodes > 1:
        yield (
            f"trainer.num_nodes={trainer.num_nodes}: python starts processes on one machine only. On each machine run "
            "`torchrun --nnodes NUMBER --node-rank R --master-addr HOST --nproc-per-node N train.py ...`."
        )
    elif process is not None and count == "auto":
        if process.world > 1:
            yield "trainer.devices='auto' does not go with torchrun. Set trainer.devices to its --nproc-per-node."
    elif process is not None and (count, count * trainer.num_nodes) != (process.local_world, process.world):
        yield (
            f"trainer.devices={devices} on trainer.num_nodes={trainer.num_nodes}, but torchrun started "
            f"{process.local_world} processes on this machine and {process.world} in all. Set trainer.devices to its "
            "--nproc-per-node and trainer.num_nodes to its --nnodes."
        )
