"""How many tokens go through the model at once, and what is said where the memory does not hold them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from leyden.backbone.scoring import base_model
from leyden.problem.losses import compares_pairs
from leyden.settings.errors import ConfigError, TrainingError
from leyden.settings.schema import Settings

log = logging.getLogger(__name__)

CPU_TOKENS = 512  # at once, matrix products are as fast as with more: docs/experiments.md
LEAST_TOKENS = 1024  # on a GPU, which waits for its work with fewer
GPU_SHARE = 0.5  # of the free memory
HIDDEN_VECTORS, INNER_VECTORS = 14, 5  # kept per token and layer for the backward pass, of either width
TOO_LITTLE = re.compile(r"can't allocate memory|not enough memory", re.IGNORECASE)  # of torch's allocator on a CPU


class Budget(NamedTuple):
    """Tokens of one pass through the model, and why so many.

    Attributes:
        tokens: at most, if no sample is longer; None: no limit.
        reason: for log and manifest.
    """

    tokens: int | None
    reason: str


def choose_budget(settings: Settings, backbone: nn.Module, loss: Any, longest: int = 0) -> Budget:
    """`trainer.tokens_per_pass`, or what `auto` stands for.

    A batch of more tokens is split into passes, which changes no update, since an update is a sum divided once.

    Args:
        settings: of the run.
        backbone: on the device where it was loaded.
        loss: the loss function with its knobs filled in.
        longest: tokens of the longest sample, where samples share their conversations; else 0. A pass of twice as many
            has room for a whole thread, whose turns are then computed once.
    """
    trainer = settings.trainer
    if trainer.tokens_per_pass != "auto":
        return Budget(trainer.tokens_per_pass, "as asked")
    if reason := _whole(settings, loss):
        return Budget(None, reason)
    if trainer.accelerator == "cpu" or not torch.cuda.is_available():
        if 2 * longest > CPU_TOKENS:
            return Budget(2 * longest, "twice the longest conversation, so that its turns are computed once")
        return Budget(CPU_TOKENS, "a CPU is as fast with so many at once, and needs less memory than with more")
    return _that_fits(bytes_per_token(backbone, checkpointed=settings.backbone.gradient_checkpointing), backbone)


def _that_fits(needed: int | None, backbone: nn.Module) -> Budget:
    """What the free memory of the GPU holds, at so many bytes per token, once the model is there too."""
    if needed is None:
        return Budget(None, "the config of the model does not say how wide its layers are")
    coming = sum(
        weight.numel() * weight.element_size() * (4 if weight.requires_grad else 1)  # gradient and two moments
        for weight in backbone.parameters()
        if weight.device.type != "cuda"
    )
    free = max(0, torch.cuda.mem_get_info()[0] - coming)
    tokens = max(LEAST_TOKENS, int(GPU_SHARE * free / needed) // 256 * 256)
    return Budget(tokens, f"about {GPU_SHARE:.0%} of the free memory, at {needed / 2**20:.2f} MiB per token")


def bytes_per_token(backbone: nn.Module, *, checkpointed: bool) -> int | None:
    """Memory that a token keeps for the backward pass, from the widths in the model's config; an estimate.

    Args:
        backbone: a model of the library, adapter or not.
        checkpointed: whether layers keep their inputs alone.
    """
    base = base_model(backbone)
    layers, hidden = (getattr(base.config, name, None) for name in ("num_hidden_layers", "hidden_size"))
    if not layers or not hidden:
        return None
    inner = getattr(base.config, "intermediate_size", None) or 4 * hidden
    whole = HIDDEN_VECTORS * hidden + INNER_VECTORS * inner
    return int((layers * hidden + whole if checkpointed else layers * whole) * base.dtype.itemsize)


def with_budget(settings: Settings, budget: Budget, found: dict[str, str]) -> tuple[Settings, dict[str, str]]:
    """The settings with the number, and why it is that, where they left it open."""
    if settings.trainer.tokens_per_pass != "auto":
        return settings, found
    if budget.tokens is not None:
        log.info(
            "Batches of more than %d tokens are split: %s. But for what dropout draws, the updates are the same.",
            *budget,
        )
    trainer = settings.trainer.model_copy(update={"tokens_per_pass": budget.tokens})
    return settings.model_copy(update={"trainer": trainer}), {**found, "trainer.tokens_per_pass": budget.reason}


def check_budget(settings: Settings, loss: Any) -> None:
    """Refuse to split what the loss has to see together.

    Raises:
        ConfigError: a limit is asked for, and the loss compares the pairs of a batch.
    """
    tokens = settings.trainer.tokens_per_pass
    if isinstance(tokens, int) and compares_pairs(loss):
        raise ConfigError(
            f"trainer.tokens_per_pass={tokens} would split batches, and this loss compares the pairs of a batch. "
            "Set it to null or auto, or choose another problem/loss."
        )


@contextmanager
def memory_errors(settings: Settings, loss: Any) -> Iterator[None]:
    """Turn the allocator's error into advice that the settings admit.

    Args:
        settings: of the run.
        loss: the loss function with its knobs filled in.

    Raises:
        TrainingError: the memory was not enough.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_of_memory(error):
            raise
        trainer = settings.trainer
        if _whole(settings, loss):
            cure = f"Lower trainer.batch_size (it is {trainer.batch_size}) and raise trainer.grad_accumulation with it"
        elif isinstance(trainer.tokens_per_pass, int):
            cure = (
                f"Set trainer.tokens_per_pass (it is {trainer.tokens_per_pass}) to {trainer.tokens_per_pass // 2 or 1}"
            )
        else:
            cure = f"Set trainer.tokens_per_pass to {CPU_TOKENS}"
        raise TrainingError(
            f"The memory does not hold a pass through the model. {cure}; that changes no update but for what dropout "
            "draws. A longer sample is one pass all the same: lower tokenizer.max_length, or set "
            "backbone.gradient_checkpointing=true."
        ) from error


def _whole(settings: Settings, loss: Any) -> str | None:
    """Why batches must not be split, if so."""
    strategy = settings.trainer.strategy
    if strategy not in ("auto", "ddp"):
        return f"trainer.strategy={strategy}: all processes make equally many passes"
    if compares_pairs(loss):
        return "the loss compares the pairs of a batch, or may do so"
    if settings.tokenizer.padding_quantile == 0:
        return "tokenizer.padding_quantile=0 tries the memory of a whole batch"
    return None


def _is_of_memory(error: Exception) -> bool:
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or (type(error) is RuntimeError and TOO_LITTLE.search(str(error)) is not None)
