"""Callbacks that look at complete updates: Lightning's hooks come after each batch, and an update may take several."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback


class AfterUpdate(Callback):
    """Calls `on_update` once for each update, after the batch that completed it."""

    _seen: int = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Nothing was updated yet, or so much by an earlier part of the training."""
        self._seen = trainer.global_step

    def on_train_batch_end(  # noqa: PLR0913
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """See whether this batch completed an update."""
        if trainer.global_step != self._seen:
            self._seen = trainer.global_step
            self.on_update(trainer, pl_module)

    def on_update(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """An update is complete; `trainer.global_step` counts it."""
