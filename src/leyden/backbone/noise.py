"""Noise on the embeddings in training: NEFTune, the same for a token however its sample is batched."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from leyden.backbone.scoring import base_model
from leyden.data.augmentation import Noise


@contextmanager
def embedding_noise(model: nn.Module, noise: Noise | None, alpha: float) -> Iterator[None]:
    """Add noise to the input embeddings of one forward pass: uniform in (-q, q), q = alpha / sqrt(L * d).

    L is the length of the sample's longest path, never the width of a batch, and d the width of the embedding (Jain et
    al. 2023, arXiv:2310.05914). Each sample's noise is drawn from its own seed on the CPU in float32, so packed and
    padded batches, and all paths through a shared prompt, get the same. Of an encoder-decoder only the encoder's
    embeddings are noised. The model is left as it was, also after an error.

    Args:
        model: a language model, adapter or not; it is to be called once inside the context.
        noise: of the batch; None adds nothing.
        alpha: strength; 0 adds nothing.

    Raises:
        RuntimeError: the model was not called, or reads its tokens past its input embeddings.
        ValueError: the noise is not that of the batch the model was called with.
    """
    if noise is None or alpha == 0:
        yield
        return
    calls = 0

    def add(module: nn.Module, inputs: object, embedded: Tensor) -> Tensor:  # noqa: ARG001
        nonlocal calls
        calls += 1
        # An encoder and a decoder may share the module; the encoder comes first.
        return embedded + _placed(noise, alpha, embedded) if calls == 1 else embedded

    handle = _embedding(model).register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
    if not calls:
        raise RuntimeError(f"No noise was added: {type(base_model(model)).__name__} did not call its input embeddings.")


def _embedding(model: nn.Module) -> nn.Module:
    """The module that embeds what the model reads; with an encoder, its own one, which may only share a weight."""
    inner = base_model(model)
    reader = inner.get_encoder() if getattr(inner.config, "is_encoder_decoder", False) else inner
    embedding: nn.Module = reader.get_input_embeddings()
    return embedding


def _placed(noise: Noise, alpha: float, embedded: Tensor) -> Tensor:
    """The noise where the tokens are, 0 on padding, of the shape, type and device of the embeddings: [rows, W, d]."""
    drawn = _drawn(noise, alpha, embedded.shape[-1])
    if noise.places is None:
        added = drawn[None]
    else:
        padded = torch.cat([drawn, drawn.new_zeros(1, drawn.shape[1])]).to(embedded.device)
        added = padded[noise.places.to(embedded.device)]
    if added.shape != embedded.shape:
        raise ValueError(f"The noise is for embeddings of shape {tuple(added.shape)}, not {tuple(embedded.shape)}.")
    return added.to(embedded.device, embedded.dtype)


def _drawn(noise: Noise, alpha: float, width: int) -> Tensor:
    """Noise of all trees' tokens, one tree after another: [tokens, width], float32."""
    parts = []
    for seed, length, path in zip(noise.seeds, noise.lengths, noise.paths, strict=True):
        generator = torch.Generator("cpu").manual_seed(seed)
        bound = alpha / math.sqrt(max(path, 1) * width)
        part = torch.empty(length, width, dtype=torch.float32, device="cpu")
        parts.append(part.uniform_(-bound, bound, generator=generator))
    return torch.cat(parts)
