"""The two engines of attention over token trees: runs over paths, and one dense mask."""

from __future__ import annotations

from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leyden.backbone.runs import Run, Spans, attend_on_cpu, gather, length_of
from leyden.data.batches import Segments

# How much dearer a masked query is than one without a mask; on some CPUs 16-bit numbers make masks slow.
_MASK_COST = 1.25
_MASK_COST_16_BIT = 3.0


class Call(NamedTuple):
    """What a layer asks of its attention function, by keyword."""

    segments: Segments
    scaling: float | None
    dropout: float
    sliding_window: int | None
    softcap: float | None

    @classmethod
    def read(cls, options: dict[str, object], query: Tensor) -> Call:
        """What was asked for.

        Raises:
            RuntimeError: there are no segments, or those of another row.
        """
        segments = options.get("segments")
        if not isinstance(segments, Segments):
            raise RuntimeError(
                "Attention over segments was called without `segments=`, or the model did not pass it on."
            )
        if (end := max(segments.ends, default=0)) != query.shape[2]:
            raise RuntimeError(f"The segments end at token {end}, the row has {query.shape[2]} tokens.")
        return cls(
            segments,
            cast(float | None, options.get("scaling")),
            cast(float, options.get("dropout", 0.0)),
            cast(int | None, options.get("sliding_window")),
            cast(float | None, options.get("softcap")),
        )


# Compiled, it would be made anew for each layout of a row.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def segment_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: object
) -> tuple[Tensor, None]:
    """Attend from each token to its ancestors and the earlier tokens of its own segment, without a T x T mask.

    Equals `dense_attention`. Each path from a root to a leaf is one kernel call; what an earlier path has covered is
    not computed again, where that is cheaper.

    Args:
        module: the layer that calls; unused.
        query: [1, H, T, D].
        key: [1, K, T, D], K a divisor of H.
        value: [1, K, T, D].
        attention_mask: unused, as our mask function makes none.
        options: `segments`, the layout of the row, and what the architecture has of `scaling` (factor of the scores,
            None for 1 / sqrt(D)), `dropout` (probability of dropping a weight), `sliding_window` (a token sees keys
            whose position is less than this before its own) and `softcap` (scores become
            `softcap * tanh(scores / softcap)`). Others are ignored: `choose_attention` finds out whether they matter.

    Returns:
        [1, T, H, D] and None in place of the attention weights.

    Raises:
        RuntimeError: called without `segments`, or with those of another row.
    """
    call = Call.read(options, query)
    runs = _plan(call.segments, call.sliding_window, query.element_size(), query.device)
    if query.is_cpu and call.softcap is None and not call.dropout:
        return attend_on_cpu(query, key, value, runs, call.scaling).transpose(1, 2), None
    pieces: list[tuple[int, Tensor]] = []
    for run in runs:
        states = (gather(query, run.queries), gather(key, run.keys), gather(value, run.keys))
        output = _attend(*states, run.mask, call)
        lengths = [end - start for start, end in run.kept]
        kept = torch.split(output[:, :, output.shape[2] - sum(lengths) :], lengths, dim=2)
        pieces += [(start, piece) for (start, _), piece in zip(run.kept, kept, strict=True)]
    pieces.sort(key=itemgetter(0))
    return torch.cat([piece.transpose(1, 2) for _, piece in pieces], dim=1), None


@torch.compiler.disable  # type: ignore[untyped-decorator]
def dense_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: object
) -> tuple[Tensor, None]:
    """Attend as `segment_attention` does, by one kernel call with a [T, T] mask: slower and plainer, the reference."""
    call = Call.read(options, query)
    mask = visible(call.segments, call.sliding_window).to(query.device)
    return _attend(query, key, value, mask, call).transpose(1, 2).contiguous(), None


def visible(segments: Segments, sliding_window: int | None = None) -> Tensor:
    """Return [T, T], True where the token of the row sees the token of the column."""
    total = max(segments.ends, default=0)
    seen = torch.zeros(total, total, dtype=torch.bool)
    positions = torch.zeros(total, dtype=torch.long)
    paths: list[Tensor] = []
    for start, end, parent in zip(segments.starts, segments.ends, segments.parents, strict=True):
        ancestors = paths[parent] if parent >= 0 else torch.zeros(total, dtype=torch.bool)
        seen[start:end] = ancestors
        seen[start:end, start:end] = torch.ones(end - start, end - start, dtype=torch.bool).tril()
        positions[start:end] = int(ancestors.sum()) + torch.arange(end - start)
        own = torch.zeros(total, dtype=torch.bool)
        own[start:end] = True
        paths.append(ancestors | own)
    if sliding_window is not None:
        seen &= positions[:, None] - positions[None, :] < sliding_window
    return seen


@lru_cache(maxsize=4)
def _plan(segments: Segments, window: int | None, element_size: int, device: torch.device) -> list[Run]:
    """Choose the kernel calls of a row; remembered, since every layer asks for the same."""
    cost = _MASK_COST_16_BIT if element_size == torch.bfloat16.itemsize else _MASK_COST
    paths: list[Spans] = []
    for start, end, parent in zip(segments.starts, segments.ends, segments.parents, strict=True):
        before = paths[parent] if parent >= 0 else ()
        paths.append((*before, (start, end)) if end > start else before)
    inner = set(segments.parents)
    covered: set[int] = set()
    runs: list[Run] = []
    # the longest first: what many paths share is then covered by the call that needs no mask
    for index in sorted(range(len(paths)), key=lambda index: -length_of(paths[index])):
        path = paths[index]
        kept = tuple(span for span in path if span[0] not in covered)
        if index in inner or not kept:
            continue
        covered.update(start for start, _ in kept)
        length, wanted = length_of(path), length_of(kept)
        if (window is None or length <= window) and length <= wanted * cost:
            runs.append(Run(_merged(path), _merged(path), kept, None))
            continue
        keys = path if window is None else _last(path, wanted + window - 1)
        shift = length_of(keys) - wanted
        mask = torch.ones(wanted, wanted + shift, dtype=torch.bool, device=device).tril(shift)
        if window is not None:
            mask = mask.triu(shift - window + 1)
        runs.append(Run(_merged(kept), _merged(keys), kept, mask))
    return runs


def _last(spans: Spans, count: int) -> Spans:
    kept: list[tuple[int, int]] = []
    for start, end in reversed(spans):
        if count > 0:
            kept.insert(0, (max(start, end - count), end))
        count -= end - start
    return tuple(kept)


def _merged(spans: Spans) -> Spans:
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return tuple(merged)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, call: Call) -> Tensor:
    """Scaled dot-product attention with grouped keys; causal without a mask; [1, H, Q, D]."""
    groups = query.shape[1] // key.shape[1]
    if call.softcap is not None:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        return _softcapped((query, key, value), mask, call, call.softcap)
    if groups > 1 and mask is not None and not query.is_cpu:  # the fused kernels there take a mask or groups, not both
        key, value, groups = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1), 1
    return F.scaled_dot_product_attention(
        query, key, value, mask, call.dropout, is_causal=mask is None, scale=call.scaling, enable_gqa=groups > 1
    )


def _softcapped(states: tuple[Tensor, Tensor, Tensor], mask: Tensor | None, call: Call, softcap: float) -> Tensor:
    query, key, value = states
    if mask is None:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    scaling = query.shape[-1] ** -0.5 if call.scaling is None else call.scaling
    scores = softcap * torch.tanh(query @ key.transpose(2, 3) * (scaling / softcap))
    weights = (
        scores.masked_fill(~mask, -torch.inf)
        .softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        .to(query.dtype)
    )
    return F.dropout(weights, call.dropout) @ value
