"""Checkpoints become models: the right type of weights, training mode, an adapter, and how it attends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from leyden.backbone.checkpoint import Checkpoint, loading
from leyden.backbone.dropout import set_dropout
from leyden.backbone.heads import Family, Head
from leyden.backbone.names import HEAD_MODULES
from leyden.backbone.quantization import KINDS, compute_type, keep_gradients_right, quantization_config
from leyden.backbone.tiny import ARCHITECTURES, ENCODER_DECODERS
from leyden.settings.errors import ConfigError, ModelError
from leyden.settings.locations import TINY
from leyden.settings.model_groups import Backbone

LEARNED_POSITIONS = ("wpe", "embed_positions", "position_embeddings")
LANGUAGE_HEAD = Head()
log = logging.getLogger(__name__)
PURE_PRECISIONS = {"bf16-true": "bfloat16", "16-true": "float16", "64-true": "float64"}


@dataclass(frozen=True)
class Chosen:
    """A value that was asked for, what it became, and why."""

    requested: str
    effective: str
    reason: str = ""


def weight_type(dtype: Chosen, precision: str) -> torch.dtype:
    """The type of a model's weights; beside quantised ones, the type of the arithmetic."""
    if dtype.effective in KINDS:
        return compute_type(precision)
    found: torch.dtype = getattr(torch, dtype.effective)
    return found


def choose_dtype(requested: str, device: torch.device, precision: str = "32-true") -> Chosen:
    """The storage type of the weights: `auto` is bfloat16 on CUDA and float32 on a CPU.

    Args:
        requested: `backbone.dtype`.
        device: of the training.
        precision: `trainer.precision`; a pure one, such as `bf16-true`, converts every weight.

    Raises:
        ConfigError: the precision would convert the weights to another type than the one that was asked for.
    """
    if requested in KINDS:
        compute = str(compute_type(precision)).removeprefix("torch.")
        return Chosen(
            requested, requested, f"{KINDS[requested]}; computes in {compute} (trainer.precision={precision})"
        )
    if pure := PURE_PRECISIONS.get(precision):
        if requested not in ("auto", pure):
            raise ConfigError(
                f"backbone.dtype={requested!r} does not go with trainer.precision={precision!r}, which makes every "
                f"weight {pure}. Leave backbone.dtype=auto, or use trainer.precision=bf16-mixed or 32-true."
            )
        return Chosen(requested, pure, f"trainer.precision={precision}")
    if requested != "auto":
        return Chosen(requested, requested)
    if device.type == "cuda":
        return Chosen(requested, "bfloat16", "the device is a GPU")
    return Chosen(requested, "float32", "the device is a CPU")


def check_architecture(checkpoint: Checkpoint, family: Family = "decoder") -> None:
    """Refuse a checkpoint of another family than the problem needs, from its config alone.

    Raises:
        ModelError: the config cannot be read, or has an encoder where none is wanted, or none where one is.
    """
    if checkpoint.name.startswith(TINY) and checkpoint.name.removeprefix(TINY) not in ARCHITECTURES:
        raise ModelError(
            f"backbone.name={checkpoint.name!r}: there is only {', '.join(TINY + n for n in ARCHITECTURES)}."
        )
    if checkpoint.name.startswith(TINY):
        kind = checkpoint.name.removeprefix(TINY)
        encoder = kind in ENCODER_DECODERS
    elif checkpoint.gguf is not None:
        kind, encoder = checkpoint.gguf.name, False
    else:
        with loading(checkpoint, "config") as options:
            config = AutoConfig.from_pretrained(checkpoint.tokenizer_location, **options)
        kind, encoder = config.model_type, bool(getattr(config, "is_encoder_decoder", False))
    if encoder and family == "decoder":
        raise ModelError(
            f"backbone.name={checkpoint.name!r} is a {kind} with an encoder; this problem needs a decoder-only model, "
            "such as backbone=llama."
        )
    if not encoder and family == "encoder_decoder":
        raise ModelError(
            f"backbone.name={checkpoint.name!r} is a {kind} without an encoder; this problem needs an encoder and a "
            "decoder, such as backbone=t5, or backbone=tiny_t5 for a trial."
        )


def check_positions(model: PreTrainedModel, max_length: int, what: str = "") -> str | None:
    """Compare the longest sample with the positions the model was made for.

    Args:
        model: of the library.
        max_length: tokens of the longest sample that there may be.
        what: has so many, for the message; empty: `tokenizer.max_length`.

    Returns:
        A warning when the model is asked to count further than it was made for; None when all is well.

    Raises:
        ConfigError: positions are learned, and there is none for the last tokens.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(limit, int) or max_length <= limit:
        return None
    learned = any(
        isinstance(module, nn.Embedding) and name.rpartition(".")[2] in LEARNED_POSITIONS
        for name, module in model.named_modules()
    )
    fault = f"{what or f'tokenizer.max_length={max_length}'} is above the {limit} positions of {type(model).__name__}"
    if learned:
        raise ConfigError(f"{fault}, which are learned: there are no more. Set tokenizer.max_length={limit} or less.")
    return f"{fault}; answers at the end of longer samples may be poor."


@contextmanager
def without_reports() -> Iterator[None]:
    """Keep the library's lines away where they say what we look at ourselves, such as missing weights."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def load_model(
    checkpoint: Checkpoint, settings: Backbone, dtype: torch.dtype, head: Head = LANGUAGE_HEAD, seed: int = 0
) -> PreTrainedModel:
    """The checkpoint's weights with the head that a problem needs, in training mode, without a cache.

    `from_pretrained` returns a model in evaluation mode and Lightning leaves it there, so dropout would be off. A head
    that the checkpoint does not have starts with random weights.

    Args:
        checkpoint: where config and weights are.
        settings: `pretrained=false` draws all weights; `int8` and `int4` quantise the linear maps.
        dtype: of the weights; of what is not quantised, and of the arithmetic, where others are.
        head: what the problem needs.
        seed: of weights that are drawn since `pretrained=false`.

    Raises:
        ModelError: the weights cannot be found or read, or the model cannot do what the settings ask.
    """
    with loading(checkpoint, "config") as options:
        config = AutoConfig.from_pretrained(checkpoint.location, **head.config(), **options)
    if settings.intermediate_dropout is not None and not set_dropout(config, settings.intermediate_dropout):
        log.warning(
            "backbone.intermediate_dropout=%s has no effect: the config of a %s has no dropout.",
            settings.intermediate_dropout, config.model_type,
        )  # fmt: skip
    if settings.pretrained:
        model = _read(checkpoint, config, settings, dtype, head)
    else:
        model = cast(PreTrainedModel, cast(nn.Module, _drawn(checkpoint, config, head, seed)).to(dtype))
    model.config.update(dict(head.extra))
    model.config.use_cache = False
    if settings.gradient_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise ModelError(
                f"backbone.gradient_checkpointing=true: {type(model).__name__} does not support it. Set it to false."
            )
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    model.train()
    return model


def _read(checkpoint: Checkpoint, config: Any, settings: Backbone, dtype: torch.dtype, head: Head) -> PreTrainedModel:
    """The model with the checkpoint's weights, quantised or not; each of them is there, but for the head of a problem.

    A quantised model is made on the CPU, and moves to another device as any other one does.
    """
    quantised: dict[str, Any] = {}
    if settings.dtype in KINDS:
        quantised = {"device_map": {"": "cpu"}}
        if not hasattr(config, "quantization_config"):
            quantised["quantization_config"] = quantization_config(settings.dtype, dtype)
    with loading(checkpoint, "model") as options, without_reports():
        loaded: Any = head.auto_class.from_pretrained(
            checkpoint.location,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            use_safetensors=True,
            **quantised,
            **options,
        )
    model, found = loaded
    if not isinstance(model, PreTrainedModel):
        raise ModelError(f"backbone.name={checkpoint.name!r} is no model of transformers.")
    keep_gradients_right(model)
    own = tuple(f"{name}." for name in HEAD_MODULES) if head.outputs is not None else ()
    if missing := sorted(name for name in found["missing_keys"] if not name.startswith(own)):
        raise ModelError(
            f"backbone.name={checkpoint.name!r} lacks {len(missing)} weights of {type(model).__name__}, such as "
            f"{missing[0]}; they would be random. Name a checkpoint of a whole model."
        )
    unused = [name for name in found["unexpected_keys"] if head.outputs is None or not name.startswith("lm_head")]
    if unused:
        log.warning("%d weights of the checkpoint have no place in the model, such as %s.", len(unused), unused[0])
    return model


def _drawn(checkpoint: Checkpoint, config: Any, head: Head, seed: int) -> PreTrainedModel:
    """A model of random weights, in float32; equal seeds give equal ones, and other draws are left alone."""
    with loading(checkpoint, "model") as options, without_reports(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = head.auto_class.from_config(config, dtype=torch.float32, trust_remote_code=options["trust_remote_code"])
    assert isinstance(model, PreTrainedModel)
    return model
