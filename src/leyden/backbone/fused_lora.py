"""LoRA on a frozen linear layer as one step of autograd: the low-rank part is added inside the matrix products."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from peft import LoraConfig
from peft.tuners.lora import Linear
from torch import Tensor, nn


class FusedLinear(Linear):
    """What `peft` makes of a linear layer, with the same weights under the same names, and the same output.

    Equals `x @ W.T + b + scaling * dropout(x) @ A.T @ B.T` in value and gradient. Scaling and sum need no pass over
    the outputs, neither forward nor backward. Whatever is not that plain case runs as `peft` does it: variants such as
    DoRA, several adapters, merged or switched off ones, autocast, compiled layers, weights shared among ranks, a
    trained base.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's output: [..., out] from [..., in]."""
        base, name = self.get_base_layer(), self._only_adapter()
        if args or kwargs or name is None or not _is_plain(base, x):
            return super().forward(x, *args, **kwargs)
        down, up, dropout = self.lora_A[name], self.lora_B[name], self.lora_dropout[name]
        if not (_is_plain(down, x, trained=True) and _is_plain(up, x, trained=True)) or up.bias is not None:
            return super().forward(x, *args, **kwargs)
        dropped = dropout(x)
        rows = None if dropped is x else dropped.reshape(-1, x.shape[-1])
        weights = (base.weight, base.bias, down.weight, up.weight)
        output = _Adapted.apply(x.reshape(-1, x.shape[-1]), rows, *weights, self.scaling[name])
        return cast(Tensor, output.view(*x.shape[:-1], -1))

    def _only_adapter(self) -> str | None:
        """The adapter that is on, if it is one and plain LoRA."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        (name,) = self.active_adapters
        return name if name in self.lora_A and name not in self.lora_variant else None


def fuse(config: LoraConfig, model: nn.Module) -> None:
    """Have `peft` put `FusedLinear` on the linear layers of a model, unless some of them are quantised."""
    kinds = {type(module) for module in model.modules() if isinstance(module, nn.Linear)}
    if kinds == {nn.Linear}:
        config._register_custom_module({nn.Linear: FusedLinear})


def _is_plain(layer: nn.Module, x: Tensor, *, trained: bool = False) -> bool:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return (
        type(layer) is nn.Linear
        and type(weight) is nn.Parameter
        and not hasattr(weight, "device_mesh")
        and weight.dtype == x.dtype
        and weight.numel() > 0
        and (trained or not weight.requires_grad)
        and not torch.is_autocast_enabled(x.device.type)
        and not torch.compiler.is_compiling()  # the compiler fuses by itself
    )


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scaling: float,
    ) -> Tensor:
        inner = (x if dropped is None else dropped) @ down.T
        ctx.save_for_backward(x if dropped is None else dropped, weight, down, up, inner)
        ctx.scaling, ctx.drops = scaling, dropped is not None
        return F.linear(x, weight, bias).addmm_(inner, up.T, alpha=scaling)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = upstream
        read, weight, down, up, inner = ctx.saved_tensors
        inward = (slope @ up).mul_(ctx.scaling)
        by_x = slope @ weight if ctx.needs_input_grad[0] else None
        by_dropped = None
        if ctx.drops:
            by_dropped = inward @ down
        elif by_x is not None:
            by_x.addmm_(inward, down)
        by_down = inward.T @ read if ctx.needs_input_grad[4] else None
        by_up = (slope.T @ inner).mul_(ctx.scaling) if ctx.needs_input_grad[5] else None
        return by_x, by_dropped, None, None, by_down, by_up, None
