"""How processes train together, as Lightning's strategies."""

from __future__ import annotations

from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

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
    return settings.strategy
