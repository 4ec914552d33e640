"""Attention over the runs of a packed row as one step of autograd: no slice of the row is copied or summed alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Spans = tuple[tuple[int, int], ...]

_KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_KERNEL_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Run(NamedTuple):
    """One call of the kernel; the last tokens of the queries are the kept ones. Without a mask it is causal.

    Attributes:
        queries: spans of the row, together the tokens that attend.
        keys: spans of what they may see.
        kept: the last of the queries, whose outputs are used.
        mask: [queries, keys], True where a key is seen; None for a causal one.
    """

    queries: Spans
    keys: Spans
    kept: Spans
    mask: Tensor | None


def length_of(spans: Spans) -> int:
    """Tokens of some spans together."""
    return sum(end - start for start, end in spans)


def gather(states: Tensor, spans: Spans) -> Tensor:
    """The tokens of some spans of a row, [1, H, T, D]: a view, if it is one span."""
    parts = [states[:, :, start:end] for start, end in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def attend_on_cpu(query: Tensor, key: Tensor, value: Tensor, runs: Sequence[Run], scale: float | None) -> Tensor:
    """What all runs keep, each token once: [1, H, T, D]; grouped keys; no dropout.

    Equals `scaled_dot_product_attention` of each run, in value and gradient.

    Args:
        query: [1, H, T, D].
        key: [1, K, T, D], K a divisor of H.
        value: [1, K, T, D].
        runs: that keep every token of the row once.
        scale: of the scores; None for 1 / sqrt(D).
    """
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (states.to(torch.get_autocast_dtype("cpu")) for states in (query, key, value))
    output: Tensor = _Runs.apply(query, key, value, runs, scale)  # type: ignore[no-untyped-call]
    return output


class _Runs(torch.autograd.Function):
    """The kernel's own forward and backward, run by run, with the whole row's outputs and gradients made once."""

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, runs: Sequence[Run], scale: float | None
    ) -> Tensor:
        batch, heads, tokens, width = query.shape
        output = query.new_empty(batch, tokens, heads, width).transpose(1, 2)
        sums = []
        for run in runs:
            states = (gather(query, run.queries), gather(key, run.keys), gather(value, run.keys))
            mask = _added(run.mask, query)
            found, normaliser = _KERNEL(*states, 0.0, run.mask is None, attn_mask=mask, scale=scale)
            _put(output, run.kept, found)
            sums.append(normaliser)
        ctx.save_for_backward(query, key, value, output, *sums)
        ctx.runs, ctx.scale = runs, scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = upstream
        query, key, value, output, *sums = ctx.saved_tensors
        apart = _are_apart(ctx.runs)
        make = torch.empty_like if apart else torch.zeros_like
        slopes = [make(states) for states in (query, key, value)]
        for run, normaliser in zip(ctx.runs, sums, strict=True):
            states = (gather(query, run.queries), gather(key, run.keys), gather(value, run.keys))
            # What is not kept has a gradient of 0, so whichever output stands there plays no part.
            found = _KERNEL_BACKWARD(
                _kept(slope, run), *states, gather(output, run.queries), normaliser, 0.0, run.mask is None,
                attn_mask=_added(run.mask, query), scale=ctx.scale,
            )  # fmt: skip
            for whole, spans, part in zip(slopes, (run.queries, run.keys, run.keys), found, strict=True):
                _put(whole, spans, part, add=not apart)
        return (*slopes, None, None)


def _are_apart(runs: Sequence[Run]) -> bool:
    """Whether no token is in two runs."""
    return all(run.queries == run.keys == run.kept for run in runs)


def _kept(slope: Tensor, run: Run) -> Tensor:
    """The gradient of a run's outputs: 0 where they are not kept."""
    own = gather(slope, run.kept)
    others = length_of(run.queries) - own.shape[2]
    return own if not others else torch.cat([own.new_zeros(*own.shape[:2], others, own.shape[3]), own], dim=2)


def _put(whole: Tensor, spans: Spans, part: Tensor, *, add: bool = False) -> None:
    """Write the last tokens of a part into spans of the row."""
    place = part.shape[2] - length_of(spans)
    for start, end in spans:
        target, source = whole[:, :, start:end], part[:, :, place : place + end - start]
        if add:
            target.add_(source)
        else:
            target.copy_(source)
        place += end - start


def _added(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """A mask as what is added to the scores."""
    return None if mask is None else query.new_zeros(mask.shape).masked_fill_(~mask, -torch.inf)
