"""The third engine of attention over token trees: torch's `flex_attention`, one compiled kernel for a row on a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from leyden.backbone.segments import Call
from leyden.data.batches import Segments


# As for the other engines: a mask is made for each layout, and the kernel is compiled by itself.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def flex_segment_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: object
) -> tuple[Tensor, None]:
    """Attend as `segment_attention` does, with blocks of the row that nobody sees left out (Dong et al. 2024).

    Args and shapes are those of `segment_attention`. On a GPU the kernel is compiled; on a CPU it is written out by
    torch, without a gradient: enough to check what it computes.

    Raises:
        RuntimeError: called without `segments`, with dropout, or for a gradient on a CPU; the kernel has neither.

    Source: Dong et al. 2024, arXiv:2412.05496.
    """
    call = Call.read(options, query)
    if call.dropout:
        raise RuntimeError(
            f"flex attention has no dropout, and the layer asks for {call.dropout}. Set "
            "backbone.intermediate_dropout=0 or backbone.attention_implementation=segments."
        )
    if query.is_cpu and torch.is_grad_enabled() and query.requires_grad:
        raise RuntimeError(
            "flex attention has no gradient on a CPU. Set backbone.attention_implementation=segments, or trainer=gpu."
        )
    run = _written_out if query.is_cpu else _compiled()
    output = run(
        query, key, value, score_mod=_softcap(call.softcap), scale=call.scaling,
        block_mask=_block_mask(call.segments, call.sliding_window, query.device),
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return cast(Tensor, output).transpose(1, 2).contiguous(), None


def nested(segments: Segments) -> tuple[Tensor, Tensor, Tensor]:
    """Three numbers per token that say what it sees: [T] each, int64.

    Segments are numbered in the order of a walk through the forest, each before what hangs from it. A token of segment
    q sees one of segment k if `enter[k] <= enter[q] < leave[k]`, which says that k is q or above it, and if the
    position of the one it sees is not behind its own.

    Returns:
        Number of each token's segment, one past the last number below it, and its position.
    """
    count = len(segments.starts)
    below: list[list[int]] = [[] for _ in range(count + 1)]
    for index, parent in enumerate(segments.parents):
        below[parent].append(index)  # roots, with -1, go into the last list
    sizes, depths = [1] * count, [0] * count
    lengths = [end - start for start, end in zip(segments.starts, segments.ends, strict=True)]
    for index in range(count - 1, -1, -1):  # a parent stands before its children
        sizes[index] += sum(sizes[child] for child in below[index])
    first = [0] * count
    for above in (-1, *range(count)):
        number = 0 if above < 0 else first[above] + 1
        for child in below[above]:
            first[child] = number
            depths[child] = 0 if above < 0 else depths[above] + lengths[above]
            number += sizes[child]
    repeats = torch.tensor(lengths, dtype=torch.int64)
    enter = torch.tensor(first, dtype=torch.int64).repeat_interleave(repeats)
    leave = torch.tensor([f + s for f, s in zip(first, sizes, strict=True)]).repeat_interleave(repeats)
    runs = [torch.arange(depth, depth + length) for depth, length in zip(depths, lengths, strict=True)]
    return enter, leave, torch.cat(runs) if runs else enter


@lru_cache(maxsize=4)
def _block_mask(segments: Segments, window: int | None, device: torch.device) -> BlockMask:
    """The mask of a row; remembered, since every layer asks for the same."""
    enter, leave, position = (numbers.to(device) for numbers in nested(segments))

    def seen(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:  # noqa: ARG001
        above = (enter[k] <= enter[q]) & (enter[q] < leave[k]) & (position[k] <= position[q])
        return above if window is None else above & (position[q] - position[k] < window)

    total = len(enter)
    return create_block_mask(seen, None, None, total, total, device=str(device))


def _softcap(softcap: float | None) -> Callable[..., Tensor] | None:
    if softcap is None:
        return None

    def capped(score: Tensor, batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:  # noqa: ARG001
        return softcap * torch.tanh(score / softcap)

    return capped


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=True)


def _written_out(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")  # as is meant here
        return flex_attention(query, key, value, **options)
