"""A module whose weights may be shared among ranks while it trains, and are whole again afterwards."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy
from torch import nn

from leyden.backbone.reference import Reference
from leyden.backbone.sharding import Sharded, shard
from leyden.settings.errors import ConfigError
from leyden.training.update import trained_weights


class SharedWeights(L.LightningModule):
    """What a strategy that shares weights asks of a module.

    Attributes:
        backbone: the model.
        reference: of the run.
        sharded: the model as it was before its weights were shared; None: they are whole.
    """

    backbone: nn.Module
    reference: Reference
    sharded: Sharded | None = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is trained, never the frozen base."""
        trained = trained_weights(self)
        checkpoint["state_dict"] = {name: w for name, w in checkpoint["state_dict"].items() if name in trained}

    def configure_model(self) -> None:
        """Share the weights among the ranks where the strategy says so; called again before each loop."""
        strategy = self.trainer.strategy
        if self.sharded is not None or not isinstance(strategy, ModelParallelStrategy | DeepSpeedStrategy):
            return
        if self.reference.start:
            raise ConfigError(
                "trainer.strategy shares the weights among processes, and this run needs a copy of the starting point "
                "beside them. Train an adapter that starts from nothing (lora=lora, no pretrained_weights and no "
                "unfreeze_layers), a loss without a reference, or with trainer=ddp."
            )
        self.sharded = Sharded(self.backbone)
        if isinstance(strategy, ModelParallelStrategy):  # DeepSpeed's engine shares them itself, later
            shard(self.backbone, strategy.device_mesh["data_parallel"])

    def gather(self) -> None:
        """Have every weight on this rank again, for good; every rank has to ask, and the first one keeps them."""
        if self.sharded is not None:
            self.backbone = self.sharded.whole()
            self.sharded = None
