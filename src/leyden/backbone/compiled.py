"""`torch.compile` on the layers of a model, with attention over token trees kept out of the graphs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from leyden.backbone.scoring import base_model
from leyden.settings.errors import ModelError

BACKEND = "inductor"


def compile_layers(model: nn.Module) -> None:
    """Compile what lies under the head, in place, for batches of any shape; names of weights stay as they are.

    The layout of a row is another one in each batch, and a graph would be made anew for each: so our attention
    (`segments.py`) runs between the graphs. Passes with and without a gradient, and with an adapter on and off, get
    graphs of their own. A graph that cannot be made is an error when it is wanted: nothing falls back to uncompiled
    passes.

    Args:
        model: adapter or not, with its attention chosen.
    """
    import torch._dynamo

    torch._dynamo.config.fail_on_recompile_limit_hit = True
    for part in _parts(base_model(model)):
        part.compile(dynamic=True, backend=BACKEND)


def is_compiled(model: nn.Module) -> bool:
    """Whether `compile_layers` was called on the model."""
    return any(part._compiled_call_impl is not None for part in _parts(base_model(model)))


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Run a compiled model layer by layer, as generation does: its cache changes the shape with every token."""
    if not is_compiled(model):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def compile_errors(*, on: bool) -> Iterator[None]:
    """Say which setting a failure of the compiler comes from.

    Args:
        on: `backbone.compile`; false does nothing.

    Raises:
        ModelError: a part of the model, or of its gradient, could not be compiled.
    """
    if not on:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        said = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
        raise ModelError(
            f"backbone.compile=true: the model could not be compiled ({said.rstrip('.')}). Set "
            "backbone.compile=false, or look at debug=true for the compiler's own words."
        ) from error


def _parts(model: PreTrainedModel) -> list[nn.Module]:
    """The modules that are called as a whole under the head: the body, or an encoder and a decoder."""
    body: Any = getattr(model, model.base_model_prefix, None)
    if isinstance(body, nn.Module) and body is not model:
        return [body]
    encoder, decoder = model.get_encoder(), model.get_decoder()
    return [part for part in (encoder, decoder) if isinstance(part, nn.Module)]
