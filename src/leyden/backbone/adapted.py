"""Frozen linear layers with low-rank adapters that read one input, as one step of autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class Adapted(NamedTuple):
    """A linear layer [out, in] with an adapter of rank r.

    Attributes:
        weight: [out, in], frozen.
        bias: [out], frozen, or None.
        down: [r, in].
        up: [out, r].
        scaling: factor of the low-rank part.
    """

    weight: Tensor
    bias: Tensor | None
    down: Tensor
    up: Tensor
    scaling: float


def adapted_outputs(x: Tensor, layers: Sequence[Adapted], dropped: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
    """What each of some layers makes of an input: [T, out] from [T, in].

    Equals `x @ weight.T + bias + scaling * x @ down.T @ up.T` for each, in value and gradient. Scalings and sums need
    no pass over outputs or gradients, and the low-rank parts share their products of the input.

    Args:
        x: [T, in].
        layers: that read it.
        dropped: [T, in] for each layer, what its adapter reads in place of the input; empty without dropout.
    """
    weights, biases, downs, ups, scalings = zip(*layers, strict=True)
    outputs: tuple[Tensor, ...] = _Step.apply(x, scalings, *weights, *biases, *downs, *ups, *dropped)  # type: ignore[no-untyped-call]
    return outputs


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scalings: tuple[float, ...], *tensors: Any) -> tuple[Tensor, ...]:
        count = len(scalings)
        weights, biases, downs, ups, dropped = (tensors[place : place + count] for place in range(0, 5 * count, count))
        if dropped:
            inners = [read @ down.T for read, down in zip(dropped, downs, strict=True)]
        else:
            inners = list((x @ _joined(downs).T).split([len(down) for down in downs], dim=1))
        ctx.save_for_backward(*weights, *downs, *ups, *inners, *(dropped or (x,)))
        ctx.scalings, ctx.drops = scalings, bool(dropped)
        return tuple(
            F.linear(x, weight, bias).addmm_(inner, up.T, alpha=scaling)
            for weight, bias, inner, up, scaling in zip(weights, biases, inners, ups, scalings, strict=True)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        count, saved = len(slopes), ctx.saved_tensors
        weights, downs, ups, inners = (saved[place : place + count] for place in range(0, 4 * count, count))
        reads = saved[4 * count :]
        inwards = [(slope @ up).mul_(scaling) for slope, up, scaling in zip(slopes, ups, ctx.scalings, strict=True)]
        by_ups = [
            (slope.T @ inner).mul_(scaling) for slope, inner, scaling in zip(slopes, inners, ctx.scalings, strict=True)
        ]
        by_x = _sum_of_products(slopes, weights) if ctx.needs_input_grad[0] else None
        if ctx.drops:
            by_dropped = [inward @ down for inward, down in zip(inwards, downs, strict=True)]
            by_downs = [inward.T @ read for inward, read in zip(inwards, reads, strict=True)]
        else:
            inward, by_dropped = _joined(inwards, dim=1), []
            by_downs = list((inward.T @ reads[0]).split([len(down) for down in downs]))
            if by_x is not None:
                by_x.addmm_(inward, _joined(downs))
        return by_x, None, *[None] * (2 * count), *by_downs, *by_ups, *by_dropped


def _sum_of_products(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    total = left[0] @ right[0]
    for one, other in zip(left[1:], right[1:], strict=True):
        total.addmm_(one, other)
    return total


def _joined(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)
