"""Checks of devices, processes and arithmetic, as far as they show without looking at the hardware."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from leyden.settings.schema import Settings
from leyden.settings.torchrun import foreign_world, launched
from leyden.settings.training_groups import Trainer
from leyden.settings.wording import show

STAGE_3 = (
    "stage3_prefetch_bucket_size stage3_param_persistence_threshold stage3_max_live_parameters "
    "stage3_max_reuse_distance"
)


def environment(settings: Settings) -> Iterator[str]:
    """Faults of `trainer`: what goes with which device, and how many processes there are."""
    trainer = settings.trainer
    yield from _precision(trainer)
    yield from _devices(trainer)
    yield from _processes(trainer)
    if settings.checkpoint.policy == "each_evaluation_epoch" and trainer.strategy not in ("auto", "ddp"):
        yield (
            f"checkpoint=each_evaluation_epoch does not go with trainer.strategy={trainer.strategy}, where no process "
            "has all weights before the end. Use checkpoint=best or last."
        )
    if isinstance(trainer.tokens_per_pass, int) and trainer.strategy not in ("auto", "ddp"):
        yield (
            f"trainer.tokens_per_pass={trainer.tokens_per_pass} does not go with trainer.strategy={trainer.strategy}, "
            "whose processes have to make equally many passes. Set it to auto or null, and lower trainer.batch_size."
        )
    if isinstance(trainer.tokens_per_pass, int) and settings.tokenizer.padding_quantile == 0:
        yield (
            f"trainer.tokens_per_pass={trainer.tokens_per_pass} does not go with tokenizer.padding_quantile=0, which "
            "tries the memory of a whole batch. Leave one of them out."
        )
    if trainer.strategy.startswith("deepspeed"):
        yield from _deepspeed(settings)


def unused_strategies(trainer: Trainer) -> list[tuple[bool, str, str, str]]:
    """Keys that only one strategy reads: whether they are off, their group, their names, and why."""
    why = f"trainer.strategy={trainer.strategy}"
    second, third = (trainer.strategy == f"deepspeed_stage_{stage}" for stage in (2, 3))
    return [
        (trainer.strategy != "ddp", "trainer.", "find_unused_parameters", why),
        (second or third, "trainer.", "max_bad_steps", f"{why}: the engine steps before it can be asked not to"),
        (not second and not third, "trainer.deepspeed.", "reduce_bucket_size offload_optimizer", why),
        (not second, "trainer.deepspeed.", "allgather_bucket_size", why),
        (not third, "trainer.deepspeed.", STAGE_3, why),
    ]


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
    if foreign_world() > 1:
        yield (
            f"WORLD_SIZE={foreign_world()} in the environment says that another launcher started several processes. "
            "Start them with torchrun, or run `python train.py trainer=ddp trainer.devices=N` on one machine."
        )
    elif trainer.strategy == "auto" and (trainer.num_nodes > 1 or (isinstance(count, int) and count > 1)):
        yield (
            f"trainer.devices={devices} on trainer.num_nodes={trainer.num_nodes} are several processes, and "
            "trainer.strategy=auto is for one. Set trainer.strategy=ddp, or fsdp to share the weights."
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


def _deepspeed(settings: Settings) -> Iterator[str]:
    trainer, name = settings.trainer, f"trainer.strategy={settings.trainer.strategy}"
    count = len(trainer.devices) if isinstance(trainer.devices, list) else trainer.devices
    if find_spec("deepspeed") is None:
        yield f"{name} needs the package deepspeed. Run pip install -e '.[deepspeed]', or set trainer=fsdp."
    if trainer.accelerator == "cpu" or (count != "auto" and count * trainer.num_nodes == 1):
        yield (
            f"{name} needs two GPUs or more; here are trainer.accelerator={trainer.accelerator} and trainer.devices="
            f"{trainer.devices}. Set trainer=fsdp for CPUs, trainer=gpu for one GPU."
        )
    if trainer.grad_accumulation > 1:
        yield (
            f"trainer.grad_accumulation={trainer.grad_accumulation} does not go with {name}: its engine cannot divide "
            "a gradient by targets that are counted later. Raise trainer.batch_size or devices, or set trainer=fsdp."
        )
    if trainer.precision == "64-true":
        yield f"trainer.precision=64-true does not go with {name}. Set 32-true or bf16-mixed."
    if str(settings.backbone.dtype) in ("int8", "int4"):
        yield (
            f"backbone.dtype={settings.backbone.dtype} does not go with {name}, which cannot share quantised weights. "
            "Set trainer=ddp, or backbone.dtype=bfloat16."
        )
    if getattr(settings.backbone, "compile", False):
        yield f"backbone.compile=true does not go with {name}. Set it to false, or trainer=ddp."
