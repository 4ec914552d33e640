"""Steps of autograd whose backward is written by hand have no second derivative, and say so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from leyden.backbone import gated, rms_norm
from leyden.backbone.adapted import Adapted, adapted_outputs
from leyden.backbone.projection import Projection
from leyden.backbone.runs import Run, attend_on_cpu

D = 8


def adapted(x: Tensor) -> Tensor:
    down, up = (torch.ones(size, requires_grad=True) for size in ((2, D), (D, 2)))
    (output,) = adapted_outputs(x, [Adapted(torch.eye(D), None, down, up, 0.5)])
    return output


def gate(x: Tensor) -> Tensor:
    output: Tensor = gated._Step.apply(x, x + 1)
    return output


def norm(x: Tensor) -> Tensor:
    output: Tensor = rms_norm._Step.apply(x, torch.ones(D), 1e-6)
    return output


def attention(x: Tensor) -> Tensor:
    states = x.reshape(1, 1, len(x), D)
    whole = ((0, len(x)),)
    return attend_on_cpu(states, states, states, [Run(whole, whole, whole, None)], None)


def scores(x: Tensor, *, trained: bool = False) -> Tensor:
    head = nn.Linear(D, 5).requires_grad_(trained)
    return Projection(head).logps(x, torch.zeros(len(x), dtype=torch.long))


def scores_of_a_trained_head(x: Tensor) -> Tensor:
    return scores(x, trained=True)


@pytest.mark.parametrize("step", [adapted, gate, norm, attention, scores, scores_of_a_trained_head])
def test_a_second_derivative_is_refused(step: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(3, D, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (slope,) = torch.autograd.grad(step(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.square().sum().backward()
