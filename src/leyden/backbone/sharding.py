"""A model whose weights are spread over ranks (FSDP2), and how it becomes whole again."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from leyden.backbone.scoring import base_model
from leyden.settings.errors import ModelError


class Sharded:
    """A model of which each rank will hold a part, and the plan of the whole.

    Args:
        model: a model of the library, adapter or not, before its weights are spread by `shard` or by DeepSpeed.
    """

    def __init__(self, model: nn.Module) -> None:
        self._plan = _without_weights(model)
        self._model = model

    def whole(self) -> nn.Module:
        """A plain model with the weights as they are now, on the device of the shares; every rank has to ask."""
        found = {name: _full(parameter) for name, parameter in self._model.named_parameters()}
        planned = dict(self._plan.named_parameters())
        memo: dict[int, object] = {id(planned[name]): parameter for name, parameter in found.items()}
        whole = copy.deepcopy(self._plan, memo)
        whole.train(self._model.training)
        return whole.to(next(iter(found.values())).device)


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Spread the weights over the ranks: each block of layers is gathered for its own pass, and the rest as one.

    Of a model with a head, body and head are called apart, so each is gathered when it is called.

    Args:
        model: of the library, adapter or not; each rank has the same.
        mesh: the ranks, in one dimension.

    Raises:
        ModelError: layers that are gathered together train weights of several types.
    """
    base = base_model(model)
    units = [module for module in model.modules() if type(module).__name__ in (base._no_split_modules or ())]
    if base.get_output_embeddings() is None:
        head = next(module for name, module in base.named_children() if name in ("score", "classifier"))
        units += [getattr(base, base.base_model_prefix), head]
    else:
        units.append(model)
    taken: set[int] = set()
    for unit in units:
        own = [p for p in unit.parameters() if id(p) not in taken]
        types = {p.dtype for p in own if p.requires_grad}
        if len(types) > 1:
            raise ModelError(
                f"trainer.strategy=fsdp gathers weights of one type together, and {type(unit).__name__} trains some of "
                f"{' and some of '.join(sorted(map(str, types)))}. Set backbone.dtype=float32, or unfreeze nothing."
            )
        taken |= {id(p) for p in own}
    for unit in units:
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)


def _without_weights(model: nn.Module) -> nn.Module:
    """The same modules with parameters that have a shape and no values; those that are shared stay shared."""
    memo: dict[int, object] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, memo)


def _full(parameter: nn.Parameter) -> nn.Parameter:
    if hasattr(parameter, "ds_id"):  # of DeepSpeed's stage 3
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            return nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
    values = parameter.detach()
    full = values.full_tensor() if isinstance(values, DTensor) else values.clone()
    return nn.Parameter(full, requires_grad=parameter.requires_grad)
