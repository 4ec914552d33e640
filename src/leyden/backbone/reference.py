"""The model as it was before training: the adapter switched off, or a frozen copy."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from leyden.backbone.scoring import base_model, target_logps
from leyden.backbone.sharding import shard
from leyden.data.batches import Batch


class Reference:
    """Log-probabilities under the starting point: never in training mode, never with a gradient.

    With an adapter that holds everything that is trained, it is the adapter switched off and costs no memory. Otherwise
    it is a copy of the weights, made by `prepare` before the first update. The copy is no submodule of anything, so no
    optimizer, checkpoint or `train()` reaches it.

    Args:
        model: the model in training.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._copy: list[nn.Module] = []
        self.kind = "adapter switched off" if adapter_holds_all(model) else "frozen copy"

    def prepare(self, start: nn.Module | None = None) -> None:
        """Keep the weights as they are now, if switching the adapter off would not give them back.

        Args:
            start: the starting point itself, when the model has been trained already; None copies the model.
        """
        if self.kind == "frozen copy" and not self._copy:
            frozen = copy.deepcopy(self._model) if start is None else start
            self._copy.append(frozen.eval().requires_grad_(False))

    def share(self, mesh: DeviceMesh) -> None:
        """Spread the frozen copy, if there is one, over the ranks of a mesh."""
        for frozen in self._copy:
            shard(frozen, mesh)

    def logps(self, batch: Batch) -> Tensor:
        """Log-probability of each target under the starting point: [N], float32, nats; no token of it is hidden."""
        batch = batch.without_noise()
        with torch.no_grad():
            if self.kind == "frozen copy":
                if not self._copy:
                    raise RuntimeError("The reference was not prepared before training.")
                policy = base_model(self._model)
                return target_logps(self._copy[0].to(batch.input_ids.device, policy.dtype), batch)
            assert isinstance(self._model, PeftModel)
            with self._model.disable_adapter(), evaluation_mode(self._model):
                return target_logps(self._model, batch)


def adapter_holds_all(model: nn.Module) -> bool:
    """Whether everything that is trained belongs to an adapter that can be switched off."""
    if not isinstance(model, PeftModel):
        return False
    prefix = (str(model.base_model.prefix), "modules_to_save")
    return all(any(part in name for part in prefix) for name, p in model.named_parameters() if p.requires_grad)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch dropout and the like off, and back to what each module was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
