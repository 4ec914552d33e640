"""Checkpoints become models: the right type of weights, training mode, an adapter, and how it attends."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from leyden.backbone.checkpoint import Checkpoint, loading
from leyden.settings.errors import ModelError
from leyden.settings.model_groups import Backbone

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Chosen:
    """A value that was asked for, what it became, and why."""

    requested: str
    effective: str
    reason: str = ""


def choose_dtype(requested: str, device: torch.device) -> Chosen:
    """The storage type of the weights: `auto` is bfloat16 on CUDA and float32 on a CPU."""
    if requested != "auto":
        return Chosen(requested, requested)
    if device.type == "cuda":
        return Chosen(requested, "bfloat16", "the device is a GPU")
    return Chosen(requested, "float32", "the device is a CPU")


def check_architecture(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that is no causal language model, from its config alone.

    Raises:
        ModelError: the config cannot be read, or has an encoder.
    """
    if checkpoint.gguf is not None or checkpoint.name.startswith("tiny:"):
        return
    with loading(checkpoint, "config") as options:
        config = AutoConfig.from_pretrained(checkpoint.tokenizer_location, **options)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"backbone.name={checkpoint.name!r} is a {config.model_type} with an encoder; this problem needs a decoder-"
            "only model, such as backbone=llama."
        )


def load_model(checkpoint: Checkpoint, settings: Backbone, dtype: torch.dtype) -> PreTrainedModel:
    """The checkpoint's weights as a causal language model, in training mode, without a cache.

    `from_pretrained` returns a model in evaluation mode and Lightning leaves it there, so dropout would be off.

    Raises:
        ModelError: the weights cannot be found or read, or the model cannot do what the settings ask.
    """
    with loading(checkpoint, "model") as options:
        model = AutoModelForCausalLM.from_pretrained(checkpoint.location, dtype=dtype, **options)
    if not isinstance(model, PreTrainedModel):
        raise ModelError(f"backbone.name={checkpoint.name!r} is no model of transformers.")
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
