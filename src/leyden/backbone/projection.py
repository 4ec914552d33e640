"""The projection to the vocabulary, where something is scored, in chunks: logits are never held together."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

# Bytes of the logits of one chunk, in float32: larger ones fall out of the caches of a CPU, smaller ones keep a GPU
# waiting.
_CHUNK_CPU = 12 * 2**20
_CHUNK_GPU = 256 * 2**20
_TOLERANCE = 1e-3  # of two ways to the same logits, in float32; what another head does moves their first digits


@dataclass(frozen=True)
class Projection:
    """What a model does between its last hidden state and its logits: `cap(scale * (hidden @ weight.T + bias))`.

    Attributes:
        head: the linear layer.
        scale: factor of its outputs.
        softcap: of the scaled ones: `softcap * tanh(logits / softcap)`; None for none.
    """

    head: nn.Linear
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of all tokens of the vocabulary: [N, V], float32, from [N, D]."""
        return self.shaped(F.linear(hidden, self.head.weight, self.head.bias).float())

    def shaped(self, outputs: Tensor) -> Tensor:
        """The outputs of the linear layer as logits; changes them in place."""
        if self.scale != 1.0:
            outputs = outputs.mul_(self.scale)
        if self.softcap is not None:
            outputs = outputs.div_(self.softcap).tanh_().mul_(self.softcap)
        return outputs

    def bend(self, logits: Tensor) -> Tensor | None:
        """Slope of the logits by the outputs of the linear layer; None for 1."""
        if self.softcap is not None:
            return (logits / self.softcap).square_().neg_().add_(1).mul_(self.scale)
        return None if self.scale == 1.0 else torch.full_like(logits[:1, :1], self.scale)

    def bend_of(self, logits: Tensor) -> Tensor | float:
        """The same, 1 included."""
        bend = self.bend(logits)
        return 1.0 if bend is None else bend

    def logps(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Log-probability of one token at each position: [N], float32, nats.

        Equals `logits(hidden).log_softmax(-1)` gathered at `ids`, in value and gradient. Of the logits one part of
        the vocabulary exists at a time; the backward pass of a frozen head needs none of them again.

        Args:
            hidden: [N, D], last hidden states.
            ids: [N], token ids.
        """
        weight: Tensor = self.head.weight
        bias: Tensor | None = self.head.bias
        kind = hidden.device.type
        if torch.is_autocast_enabled(kind):  # the backward pass has to multiply what the forward pass did
            element = torch.get_autocast_dtype(kind)
            hidden, weight = hidden.to(element), weight.to(element)
            bias = None if bias is None else bias.to(element)
        with torch.autocast(kind, enabled=False):
            scores: Tensor = _Scores.apply(hidden, weight, bias, ids, self)  # type: ignore[no-untyped-call]
        return scores


def find_projection(base: PreTrainedModel) -> Projection | None:
    """What stands between the last hidden state and the logits of a model, if that is a plain linear layer.

    None for an encoder-decoder, for a head that is adapted, quantised or shared among ranks, and for a model whose
    `forward` says nothing of `logits_to_keep`.
    """
    head, config = base.get_output_embeddings(), base.config
    plain = type(head) is nn.Linear and type(head.weight) in (nn.Parameter, Tensor) and not _is_shared(head.weight)
    if not plain or config.is_encoder_decoder or base.get_decoder() is base:
        return None
    if "logits_to_keep" not in inspect.signature(type(base).forward).parameters:
        return None
    assert isinstance(head, nn.Linear)
    divisor = getattr(config, "logits_scaling", None)
    scale = 1 / divisor if divisor else getattr(config, "logit_scale", None) or 1.0
    return Projection(head, float(scale), getattr(config, "final_logit_softcapping", None))


def is_projection_of(projection: Projection, base: PreTrainedModel, inputs: dict[str, Any], columns: Tensor) -> bool:
    """Whether a model's logits are those of the projection, tried on a few positions of a real batch.

    Args:
        projection: to be tried.
        base: the model.
        inputs: keyword arguments of a forward pass of one row.
        columns: positions of the row.
    """
    with torch.no_grad():
        theirs = base(**inputs, logits_to_keep=columns).logits[0].float()
        ours = projection.logits(base.get_decoder()(**inputs).last_hidden_state[0, columns])
    limit = _TOLERANCE if base.dtype == torch.float32 else 5e-2
    return bool((ours - theirs).abs().max() <= limit * theirs.abs().max().clamp(min=1.0))


def _is_shared(weight: Tensor) -> bool:
    return hasattr(weight, "device_mesh") or weight.numel() == 0  # FSDP's and ZeRO 3's


class _Scores(torch.autograd.Function):
    """One log-probability per row; its slope by `hidden` is known after the forward pass but for a factor per row.

    The softmax is summed up chunk by chunk of the vocabulary, against the largest logit so far (Milakov and Gimelshein
    2018, arXiv:1805.02867).
    """

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, projection: Projection
    ) -> Tensor:
        ctx.projection, ctx.trains = projection, any(ctx.needs_input_grad[1:3])
        ctx.element, wide = hidden.dtype, _wide(hidden.dtype)
        sloped = ctx.needs_input_grad[0] and not ctx.trains
        largest = hidden.new_full((len(hidden), 1), -torch.inf, dtype=wide)
        chosen, others = torch.zeros_like(largest), torch.zeros_like(largest)
        slopes = hidden.new_zeros(hidden.shape if sloped else (0,), dtype=wide)
        for part in _chunks(hidden, weight):
            logits = projection.shaped(_outputs(hidden, weight, bias, part))
            chosen += _picked(logits, ids, part)
            before, largest = largest, torch.maximum(largest, logits.amax(1, keepdim=True))
            shrunk = (before - largest).exp_()
            bend = projection.bend(logits) if sloped else None
            shares = _with(logits.sub_(largest).exp_(), torch.zeros_like(others), ids, part)
            others.mul_(shrunk).add_(shares.sum(1, keepdim=True))
            if sloped:
                shares = shares if bend is None else shares.mul_(bend)
                _add_product(slopes.mul_(shrunk), shares, weight[part])
        total = others + (chosen - largest).exp()
        rest = others / total  # 1 - p, which would lose the digits of a token that is sure
        if sloped:
            own = weight[ids].to(wide) * projection.bend_of(chosen) * rest
            slopes = own - slopes.div_(total)
        total.log_()  # apart from the largest: their sum would lose the digits of large logits
        ctx.save_for_backward(*((hidden, weight, bias, ids, largest, total, rest) if ctx.trains else (slopes,)))
        return (chosen - largest - total)[:, 0].float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (factors,) = upstream
        if not ctx.trains:
            (slopes,) = ctx.saved_tensors
            return (slopes * factors[:, None]).to(ctx.element), None, None, None, None
        hidden, weight, bias, ids, largest, total, rest = ctx.saved_tensors
        by_hidden = torch.zeros_like(hidden, dtype=_wide(hidden.dtype))
        by_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        by_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        for part in _chunks(hidden, weight):
            logits = ctx.projection.shaped(_outputs(hidden, weight, bias, part))
            bend = ctx.projection.bend(logits)
            shares = logits.sub_(largest).sub_(total).exp_().neg_()
            slope = _with(shares, rest, ids, part).mul_(factors[:, None])
            slope = (slope if bend is None else slope.mul_(bend)).to(weight.dtype)
            _add_product(by_hidden, slope, weight[part])
            if by_weight is not None:
                by_weight[part] = slope.T @ hidden.to(weight.dtype)
            if by_bias is not None:
                by_bias[part] = slope.sum(0)
        return by_hidden.to(hidden.dtype), by_weight, by_bias, None, None


def _outputs(hidden: Tensor, weight: Tensor, bias: Tensor | None, part: slice) -> Tensor:
    outputs = F.linear(hidden, weight[part], None if bias is None else bias[part])
    return outputs.to(_wide(outputs.dtype))


def _wide(element: torch.dtype) -> torch.dtype:
    """What is summed in: float32, or the type itself if it has more digits."""
    return torch.promote_types(element, torch.float32)


def _inside(ids: Tensor, part: slice) -> tuple[Tensor, Tensor]:
    """Place of each id in a part of the vocabulary, and whether it is there: [N, 1] each."""
    places = ids[:, None] - part.start
    inside = (places >= 0) & (places < part.stop - part.start)
    return places.clamp(0, part.stop - part.start - 1), inside


def _picked(logits: Tensor, ids: Tensor, part: slice) -> Tensor:
    """The logit of each row's id, 0 where it stands in another part: [N, 1]."""
    places, inside = _inside(ids, part)
    return logits.gather(1, places) * inside


def _with(values: Tensor, column: Tensor, ids: Tensor, part: slice) -> Tensor:
    """Set the value at each row's id to that of a column, in place."""
    places, inside = _inside(ids, part)
    return values.scatter_(1, places, torch.where(inside, column, values.gather(1, places)))


def _add_product(total: Tensor, shares: Tensor, weight: Tensor) -> None:
    """`total += shares @ weight`, whatever the type of the weight."""
    if weight.dtype == total.dtype:
        total.addmm_(shares, weight)
    else:
        total.add_(shares.to(weight.dtype) @ weight)


def _chunks(hidden: Tensor, weight: Tensor) -> list[slice]:
    """Parts of the vocabulary whose logits fit the caches."""
    room = _CHUNK_CPU if hidden.is_cpu else _CHUNK_GPU
    vocabulary = weight.shape[0]
    step = min(vocabulary, max(1024, room // (4 * max(1, len(hidden)))))
    return [slice(start, min(start + step, vocabulary)) for start in range(0, vocabulary, step)]
