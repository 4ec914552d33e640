"""Weights held in 8 or 4 bits by `bitsandbytes`, under an adapter that is trained."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from peft.import_utils import is_bnb_4bit_available, is_bnb_available
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.utils.import_utils import is_bitsandbytes_available

from leyden.settings.errors import ConfigError

KINDS = {
    "int8": "LLM.int8, whole numbers of 8 bits for each row",
    "int4": "nf4 with double quantisation",
}


def compute_type(precision: str) -> torch.dtype:
    """The type that quantised weights are multiplied in: that of the arithmetic.

    Args:
        precision: `trainer.precision`, such as `bf16-mixed`.
    """
    return {"bf16": torch.bfloat16, "16": torch.float16}.get(precision.partition("-")[0], torch.float32)


def quantization_config(dtype: str, compute: torch.dtype) -> BitsAndBytesConfig:
    """How the library is told to quantise the linear maps of a model while it loads it.

    Embeddings, norms and the head stay in floating point.

    Args:
        dtype: `int8` (Dettmers et al. 2022, arXiv:2208.07339) or `int4` (Dettmers et al. 2023, arXiv:2305.14314).
        compute: from `compute_type`.

    Raises:
        ConfigError: the package is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"backbone.dtype={dtype!r} needs the package bitsandbytes. Install the extra: "
            "pip install 'leyden[quantization]'."
        )
    # said of each layer in each pass, unless the arithmetic is in float16
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    options: dict[str, Any] = {"load_in_8bit": True}
    if dtype == "int4":
        options = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": compute,
        }
    return BitsAndBytesConfig(**options)


def keep_gradients_right(model: nn.Module) -> None:
    """Keep 4-bit maps from their kernel for inference, on processors that have it.

    The first pass without gradients would repack the weights for it, and the passes of the training that follow would
    go on using it: their gradients are wrong, without an error (bitsandbytes 0.50).

    Args:
        model: quantised or not, adapter or not.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


@contextmanager
def without_bitsandbytes(model: nn.Module) -> Iterator[None]:
    """Have `peft` wrap a model without loading `bitsandbytes`, whose layers it looks for in every model.

    Nothing changes for a model that has such layers, or once the package is loaded. Inside the block the libraries find
    it missing; what they remember of that is forgotten at the end, so that a later model can be quantised.

    Args:
        model: before its adapter is added.
    """
    package, modules = "bitsandbytes", sys.modules
    if package in modules or any(is_quantised(weight) for weight in model.parameters()):
        yield
        return
    remembered = (is_bnb_available, is_bnb_4bit_available, is_bitsandbytes_available)
    modules[package] = None  # type: ignore[assignment]  # as Python has it, an import of it fails
    for answer in remembered:
        answer.cache_clear()
    try:
        yield
    finally:
        del modules[package]
        for answer in remembered:
            answer.cache_clear()


def is_quantised(weight: torch.Tensor) -> bool:
    """Whether a weight is held in whole numbers, which have no gradient."""
    return not weight.is_floating_point() and not weight.is_complex()
