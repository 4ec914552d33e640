"""One update: what its batches sum to, on this rank and on all, and whether it may reach the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from leyden.data.batches import Batch
from leyden.problem.base import Outcome
from leyden.settings.errors import TrainingError
from leyden.training.optimizer import rates_of


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
    """What went through the model between two updates on this rank.

    Attributes:
        tokens: that went through the model.
        samples: in order.
        names: of the logged columns.
        parts: for each pass the sum of its loss, the weight of its targets, its scored samples and the sums of its
            logged columns, on the device: nobody waits for them before the update.
    """

    tokens: int = 0
    samples: list[int] = field(default_factory=list)
    names: tuple[str, ...] = ()
    parts: list[Tensor] = field(default_factory=list)

    @property
    def passes(self) -> int:
        """How many there were so far."""
        return len(self.parts)

    def add(self, batch: Batch, outcome: Outcome, logged: Iterable[str]) -> None:
        """Take in what went through the model at once."""
        self.tokens += batch.num_tokens
        self.samples += batch.samples
        self.names = tuple(logged)
        scored, total = outcome.scored, outcome.loss.total.detach()
        columns = [torch.where(scored, outcome.columns[name], 0).sum() for name in self.names]
        numbers = [total, outcome.loss.count, scored.sum(), *columns]
        device, dtype = total.device, _digits(total.device)
        self.parts.append(torch.stack([torch.as_tensor(one, dtype=dtype, device=device) for one in numbers]))


@dataclass(frozen=True)
class WindowSum:
    """A window summed over all ranks.

    Attributes:
        total: of the loss.
        count: weights of its targets, by which it is divided.
        tokens: that went through the model.
        samples: of all batches.
        scored: samples that have what the problem needs, whatever they weigh.
        means: of the logged columns, over the scored samples.
    """

    total: float
    count: float
    tokens: int
    samples: int
    scored: int
    means: dict[str, float]

    def fault(self, norm: float) -> tuple[str, str]:
        """Why an update with this gradient norm cannot be applied, and what to do."""
        if self.count:
            return (
                f"its loss is {self.total} and its gradient norm {norm}",
                "Lower optimizer.learning_rate, set trainer.gradient_clip=1, or use trainer.precision=32-true; then "
                "look at the rows named above.",
            )
        if self.scored:
            return (
                "the weights of all its targets are 0",
                "Raise the weights of some rows (dataset.weight_column) or classes (problem.class_weights), or "
                "trainer.batch_size, so that each update has a row that counts.",
            )
        return (
            "it has nothing to predict",
            "Look at the rows named above; raise tokenizer.max_length if their answers were cut away, or "
            "trainer.batch_size.",
        )


def sum_over_ranks(window: Window, device: torch.device) -> WindowSum:
    """Add up the windows of all ranks, in float64 where the device has it."""
    counts = torch.tensor([window.tokens, len(window.samples)], dtype=_digits(device), device=device)
    sums = torch.cat([counts, torch.stack(window.parts).sum(0)])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(sums)
    tokens, samples, total, count, scored, *extra = sums.tolist()
    means = {name: value / scored for name, value in zip(window.names, extra, strict=True)} if scored else {}
    return WindowSum(total, count, int(tokens), int(samples), int(scored), means)


def _digits(device: torch.device) -> torch.dtype:
    """What is summed in: float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def update_values(summed: WindowSum, optimizer: Optimizer, norm: Mapping[str, float] | None = None) -> dict[str, float]:
    """What is logged of an update: the mean loss over all its targets, what is known of its gradient, rate, means."""
    return {
        "train/loss": summed.total / summed.count if summed.count else math.nan,
        **(norm or {}),
        **rates_of(optimizer),
        **{f"train/{name}": value for name, value in summed.means.items()},
    }


def mean_of_step(window: Window, device: torch.device, world: int) -> float:
    """What one rank's summed loss is multiplied with, so that the average over ranks is the mean over all targets.

    For an engine that steps by itself right after the backward pass: an update is one batch of each rank.

    Raises:
        TrainingError: the loss is not finite; the engine would put it into the weights.
    """
    summed = sum_over_ranks(window, device)
    if not math.isfinite(summed.total):
        raise TrainingError(
            f"The loss of an update is {summed.total}, and DeepSpeed's engine cannot leave an update out. Lower "
            "optimizer.learning_rate, set trainer.gradient_clip=1, or use trainer=fsdp, which leaves such updates out."
        )
    return world / max(summed.count, 1.0)


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
    """L2 norm of all gradients together, float32; of gradients that ranks share, every rank has to ask."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def drop_gradients(model: nn.Module) -> None:
    """Forget every gradient: an optimizer leaves weights without one, and their state, as they are."""
    for parameter in model.parameters():
        parameter.grad = None


def trained_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """What a checkpoint holds of a module: the weights that require a gradient, by name."""
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
