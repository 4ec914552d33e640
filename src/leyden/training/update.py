"""One update: what its batches sum to, on this rank and on all, and whether it may reach the weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from leyden.data.batches import Batch
from leyden.problem.base import Outcome


@dataclass(frozen=True)
class UpdateRecord:
    """One update as it is logged.

    Attributes:
        values: flat names such as `train/loss`.
        samples: samples of all ranks in this update.
        tokens: tokens of all ranks that went through the model.
        applied: whether the weights changed.
    """

    values: dict[str, float]
    samples: int
    tokens: int
    applied: bool


@dataclass
class Window:
    """The batches between two updates on this rank."""

    total: float = 0.0
    count: float = 0.0
    tokens: int = 0
    samples: list[int] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    scored: int = 0

    def add(self, batch: Batch, outcome: Outcome, logged: Iterable[str]) -> None:
        """Take in one batch."""
        self.total += float(outcome.loss.total.detach())
        self.count += float(outcome.loss.count)
        self.tokens += batch.num_tokens
        self.samples += batch.samples
        self.scored += int(outcome.scored.sum())
        for name in logged:
            column = outcome.columns[name][outcome.scored]
            self.sums[name] = self.sums.get(name, 0.0) + float(column.sum())


@dataclass(frozen=True)
class WindowSum:
    """A window summed over all ranks."""

    total: float
    count: float
    tokens: int
    samples: int
    scored: int
    means: dict[str, float]


def sum_over_ranks(window: Window, device: torch.device) -> WindowSum:
    """Add up the windows of all ranks, in float64 where the device has it."""
    names = sorted(window.sums)
    values = [window.total, window.count, window.tokens, len(window.samples), window.scored]
    dtype = torch.float32 if device.type == "mps" else torch.float64
    sums = torch.tensor([*values, *(window.sums[name] for name in names)], dtype=dtype, device=device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(sums)
    total, count, tokens, samples, scored, *extra = sums.tolist()
    means = {name: value / scored for name, value in zip(names, extra, strict=True)} if scored else {}
    return WindowSum(total, count, int(tokens), int(samples), int(scored), means)


def samples_of_ranks(window: Window) -> list[int]:
    """The samples of all ranks' windows, ascending; every rank has to ask."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return sorted(window.samples)
    shares: list[list[int]] = [[]] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(shares, window.samples)
    return sorted(sample for share in shares for sample in share)


def scale_gradients(model: nn.Module, factor: float) -> None:
    """Multiply every gradient, in place."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if gradients:
        torch._foreach_mul_(gradients, factor)


def gradient_norm(model: nn.Module) -> Tensor:
    """L2 norm of all gradients together, float32."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())


def drop_gradients(model: nn.Module) -> None:
    """Forget every gradient: an optimizer leaves weights without one, and their state, as they are."""
    for parameter in model.parameters():
        parameter.grad = None


def trained_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """What a checkpoint holds of a module: the weights that require a gradient, by name."""
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
