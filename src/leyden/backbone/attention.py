"""Which attention a model runs with: one of our engines over token trees, or the library's own on padded rows."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from leyden.backbone.flex import flex_segment_attention
from leyden.backbone.heads import head_outputs
from leyden.backbone.reference import evaluation_mode
from leyden.backbone.scoring import base_model, target_logps, try_projection
from leyden.backbone.segments import dense_attention, segment_attention
from leyden.data.batches import Batch
from leyden.data.collation import pack, pad
from leyden.data.trees import Segment, build_tree
from leyden.settings.errors import ModelError

Engine = Literal["segments", "dense", "flex"]
ENGINES: dict[Engine, str] = {"segments": "leyden_segments", "dense": "leyden_dense", "flex": "leyden_flex"}

log = logging.getLogger(__name__)

# Largest self-check error that counts as rounding. A leak between samples moves log-probabilities in their first or
# second digit; kernels that differ only in the order of their sums agree to about the resolution of the type.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}


def _no_mask(**_: object) -> None:
    """Our engines read the layout instead; the library's own detection of packed rows plays no part."""


AttentionInterface.register(ENGINES["segments"], segment_attention)
AttentionInterface.register(ENGINES["dense"], dense_attention)
AttentionInterface.register(ENGINES["flex"], flex_segment_attention)
for _name in ENGINES.values():
    AttentionMaskInterface.register(_name, _no_mask)


@dataclass(frozen=True)
class AttentionChoice:
    """How batches are made and what attends, for the log and the manifest.

    Args:
        engine: `segments`, `dense` and `flex` take packed batches, `padded` takes padded ones.
        implementation: name of the attention function in the library.
        reason: one sentence for the reader of the log.
    """

    engine: Engine | Literal["padded"]
    implementation: str
    reason: str


def choose_attention(model: nn.Module, requested: str) -> AttentionChoice:
    """Set the attention of the model, and try whether its logits are a mere projection.

    Args:
        model: a causal language model, adapter or not.
        requested: `segments`, `dense` or `flex` for our engines; `auto` for `flex` if the model is on a GPU, else, or
            where that is not exact, for `segments`, and where that is not, for padding; or a name of the library's,
            such as `sdpa`, `eager` or `flash_attention_2`, for padding.

    Raises:
        ModelError: the model does not work with what was asked for.
    """
    choice = _choose(model, requested)
    packed, single = _samples(base_model(model).config.vocab_size, pairs=False)
    with evaluation_mode(model):
        try_projection(model, single[0] if choice.engine == "padded" else packed)
    return choice


def _choose(model: nn.Module, requested: str) -> AttentionChoice:
    base = base_model(model)
    plain = base.get_correct_attn_implementation(None)
    if requested not in ("auto", *ENGINES):
        return _padded(base, requested)
    wanted = ["flex", "segments"] if base.device.type == "cuda" else ["segments"]
    for engine in cast(list[Engine], wanted if requested == "auto" else [requested]):
        exact, finding = _try(model, ENGINES[engine])
        if exact:
            return AttentionChoice(engine, ENGINES[engine], f"Samples share one row without padding: {finding}.")
        if engine != wanted[-1] and requested == "auto":
            log.info("flex attention is not used, because of %s: %s.", type(base).__name__, finding)
    _set(base, plain)
    if requested == "auto":
        reason = f"Samples are padded, because {type(base).__name__} cannot use segments: {finding}."
        return AttentionChoice("padded", plain, reason)
    raise ModelError(
        f"backbone.attention_implementation={requested!r} does not work with {type(base).__name__}: {finding}. "
        "Set it to auto, sdpa or eager."
    )


def _padded(base: PreTrainedModel, requested: str) -> AttentionChoice:
    problem = "the model does not take it"
    try:
        _set(base, requested)
    except (ImportError, ValueError) as error:
        problem = str(error).rstrip(".")
    if base.config._attn_implementation != requested:
        raise ModelError(
            f"backbone.attention_implementation={requested!r} does not work with {type(base).__name__}: {problem}. "
            "Set it to auto."
        )
    return AttentionChoice("padded", requested, f"Samples are padded, because {requested} was asked for.")


def _try(model: nn.Module, implementation: str) -> tuple[bool, str]:
    """Set the implementation and say whether it is exact, and what was found."""
    base = base_model(model)
    if base.config.is_encoder_decoder:
        return False, "it has an encoder"
    if obstacle := _obstacle(base) or (implementation == ENGINES["flex"] and _obstacle_of_flex(base)):
        return False, obstacle
    _set(base, implementation)
    if base.config._attn_implementation != implementation:
        return False, "it does not use the library's attention interface"
    try:
        error = isolation_error(model)
    except (RuntimeError, TypeError, ValueError) as fault:
        return False, f"the self-check stopped ({fault})"
    limit = TOLERANCES.get(base.dtype, TOLERANCES[torch.float32])
    finding = f"packed and separate scores differ by {error:.1e} in {base.dtype}, the limit is {limit:.0e}"
    return error <= limit, finding


def _obstacle(base: PreTrainedModel) -> str | None:
    """Name what our engines cannot know of and a check on short samples cannot see."""
    if not getattr(base, "_supports_attention_backend", False):
        return "it does not use the library's attention interface"
    source = inspect.getsource(sys.modules[type(base).__module__])
    if "create_chunked_causal_mask(" in source:
        return "its attention is cut in chunks"
    if "create_sliding_window_causal_mask(" in source and "sliding_window=" not in source:
        return "its attention layers do not say how long their window is"
    return None


def _obstacle_of_flex(base: PreTrainedModel) -> str | None:
    """Name what a check without a gradient, in evaluation mode, cannot see."""
    dropouts = [getattr(base.config, name, None) or 0.0 for name in ("attention_dropout", "attn_pdrop")]
    if any(dropouts):
        return f"it drops {max(dropouts)} of its attention weights, which flex attention cannot"
    return None if torch.cuda.is_available() else "flex attention has no gradient on a CPU, and no GPU is visible"


def isolation_error(model: nn.Module) -> float:
    """Compare packed samples with the same samples one at a time, on the model as it is.

    Two short documents and one prompt with two continuations are scored in one row by the engine that is set, and each
    in a row of its own by the library's attention; of a model with a head, what the head says of each. The model is
    left as it was.

    Returns:
        Largest difference of two scores, divided by the largest of all; NaN if one of them is.
    """
    base = base_model(model)
    implementation = base.config._attn_implementation
    headed = base.get_output_embeddings() is None
    packed, single = _samples(base.config.vocab_size, pairs=not headed)
    score = head_outputs if headed else target_logps
    try:
        with evaluation_mode(model):
            ours = _scores(model, [packed], score)
            _set(base, base.get_correct_attn_implementation(None))
            theirs = _scores(model, single, score)
    finally:
        _set(base, implementation)
    return float((ours - theirs).abs().max() / theirs.abs().max())


def _samples(vocabulary: int, *, pairs: bool) -> tuple[Batch, list[Batch]]:
    """The same few samples, in one packed row and in rows of their own; a head reads no pairs."""
    generator = np.random.default_rng(0)
    prompt, *answers = (generator.integers(0, vocabulary, length).tolist() for length in (5, 3, 6, 4, 7))
    pair = [Segment(prompt, False), Segment(answers[0], True, 0), Segment(answers[1], True, 0, 1)]
    documents = [[Segment(answer, True)] for answer in answers[2:]]
    chains = [[Segment(prompt, False), Segment(answer, True, 0)] for answer in answers[:2]]
    together = [build_tree(pair, 2)] if pairs else [build_tree(chain) for chain in chains]
    together += [build_tree(document) for document in documents]
    return pack(together, range(len(together))), [pad([build_tree(one)], [0], 0) for one in chains + documents]


@torch.no_grad()
def _scores(model: nn.Module, batches: list[Batch], score: Callable[[nn.Module, Batch], Tensor]) -> Tensor:
    device = base_model(model).device
    return torch.cat([score(model, batch.to(device)) for batch in batches])


@contextmanager
def attention_for_generation(model: nn.Module, implementation: str) -> Iterator[None]:
    """Generate with the library's own attention and with a cache; restore both afterwards.

    Args:
        model: a causal language model, adapter or not.
        implementation: name of the library's attention function, such as `sdpa`.
    """
    base = base_model(model)
    before = base.config._attn_implementation
    configs = [config for config in (base.config, base.generation_config) if config is not None]
    caches = [getattr(config, "use_cache", None) for config in configs]
    _set(base, implementation)
    for config in configs:
        config.use_cache = True
    try:
        yield
    finally:
        _set(base, before)
        for config, cache in zip(configs, caches, strict=True):
            config.use_cache = cache


def _set(base: PreTrainedModel, implementation: str) -> None:
    if base.config._attn_implementation != implementation:
        base.set_attn_implementation(implementation)
