"""The root-mean-square norm with a frozen weight as one step of autograd: its input is kept, and a number per token."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class FusedRMSNorm(nn.Module):
    """`weight * x / sqrt(mean(x**2) + eps)`. Zhang and Sennrich 2019, arXiv:1910.07467.

    A trained weight and other types than float32 take the steps of the library: the norm in float32, rounded before it
    is weighted.

    Args:
        norm: of the library, with the attributes `weight` and `variance_epsilon`; the weight is shared.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight = cast(nn.Parameter, norm.weight)
        self.variance_epsilon = cast(float, norm.variance_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """The normalised input: [..., D]."""
        single = x.dtype == self.weight.dtype == torch.float32
        if single and not self.weight.requires_grad and not torch.compiler.is_compiling():
            normalised: Tensor = _Step.apply(x, self.weight, self.variance_epsilon)  # type: ignore[no-untyped-call]
            return normalised
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(x.dtype)

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether a module has what this one is made from; that it computes the same has to be tried."""
        named = type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon")
        return named and [name for name, _ in module.named_parameters()] == ["weight"]


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        scale = x.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = upstream
        x, weight, scale = ctx.saved_tensors
        weighted = slope * weight
        along = (weighted * x).mean(-1, keepdim=True).mul_(scale.pow(3))
        return weighted.mul_(scale).addcmul_(x, along, value=-1), None, None
