"""How processes train together, as Lightning's strategies."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.plugins.precision import DeepSpeedPrecision, DoublePrecision, HalfPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy, Strategy

from leyden.backbone.load import PURE_PRECISIONS
from leyden.settings.training_groups import Trainer
from leyden.training.devices import world_size


def make_strategy(settings: Trainer) -> str | Strategy:
    """The strategy that the settings ask for."""
    if settings.strategy == "ddp":
        # Buffers are constants here, and broadcasting them would make ranks with unequal batches wait for each other.
        return DDPStrategy(find_unused_parameters=settings.find_unused_parameters, forward_sync_buffers=False)
    if settings.strategy == "fsdp":
        # by default every device would be one of a tensor-parallel group, and all ranks would see the same rows
        return ModelParallelStrategy(
            data_parallel_size=world_size(settings), tensor_parallel_size=1, save_distributed_checkpoint=False
        )
    if settings.strategy.startswith("deepspeed"):
        return DeepSpeedStrategy(config=engine_config(settings))
    return settings.strategy


def engine_config(settings: Trainer) -> dict[str, Any]:
    """What DeepSpeed's engine is told; Lightning adds precision, clipping and accumulation from the trainer.

    Clipping is the engine's alone, and accumulation is refused with it, so neither happens twice.
    """
    knobs = settings.deepspeed
    zero: dict[str, Any] = {
        "stage": int(settings.strategy[-1]),
        "reduce_bucket_size": knobs.reduce_bucket_size,
        "contiguous_gradients": True,
        "overlap_comm": True,
    }
    if settings.strategy == "deepspeed_stage_2":
        zero["allgather_bucket_size"] = knobs.allgather_bucket_size
    else:
        zero |= {
            name: getattr(knobs, name)
            for name in (
                "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold", "stage3_max_live_parameters",
                "stage3_max_reuse_distance",
            )
        }  # fmt: skip
    if knobs.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    return {
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # whatever `optimizer` names; it is not replaced by one of DeepSpeed's
        "zero_force_ds_cpu_optimizer": False,
        "train_micro_batch_size_per_gpu": settings.rows,
    }


def make_precision(settings: Trainer) -> Precision | None:
    """Lightning's plugin where it must leave batches alone: they hold integers, and it cannot rebuild them.

    None: the plugin that Lightning makes of the word does so.
    """
    word: Any = settings.precision
    plugin: Precision
    if settings.strategy.startswith("deepspeed"):
        plugin = DeepSpeedPrecision(word)
    elif settings.precision in PURE_PRECISIONS:
        plugin = DoublePrecision() if word == "64-true" else HalfPrecision(word)
    else:
        return None
    plugin.convert_input = lambda data: data  # type: ignore[method-assign]
    return plugin
