"""The gate of a feed-forward block as one step of autograd: of the tensors in between, none is kept."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.activations import SiLUActivation

_PARTS = ("gate_proj", "up_proj", "down_proj", "act_fn")


class GatedMLP(nn.Module):
    """`down(silu(gate(x)) * up(x))`. Shazeer 2020, arXiv:2002.05202.

    Other types than float32 take the steps of the library, whose kernels round once where several steps would round
    each time; so do compiled layers.

    Args:
        block: of the library, whose layers are shared under the same names.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj, self.act_fn = (
            cast(nn.Module, getattr(block, name)) for name in _PARTS
        )

    def forward(self, x: Tensor) -> Tensor:
        """What the block adds: [..., D]."""
        gate, up = self.gate_proj(x), self.up_proj(x)
        if gate.dtype != torch.float32 or torch.compiler.is_compiling():
            return cast(Tensor, self.down_proj(self.act_fn(gate) * up))
        return cast(Tensor, self.down_proj(_Step.apply(gate, up)))  # type: ignore[no-untyped-call]

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether a module has what this one is made from; that it computes the same has to be tried."""
        parts = dict(module.named_children())
        return set(parts) == set(_PARTS) and isinstance(parts["act_fn"], nn.SiLU | SiLUActivation)


class _Step(torch.autograd.Function):
    """`silu(gate) * up`."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor]:
        (slope,) = upstream
        gate, up = ctx.saved_tensors
        by_gate = torch.sigmoid(gate)
        by_up = gate * by_gate  # silu(gate), whose slope is share + silu - silu * share
        by_gate.addcmul_(by_up, by_gate, value=-1).add_(by_up).mul_(slope).mul_(up)
        return by_gate, by_up.mul_(slope)
