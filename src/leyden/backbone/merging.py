"""An adapter is added into the weights under it, and what comes out is a model of transformers alone."""

from __future__ import annotations

from typing import Any, cast

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from leyden.backbone.quantization import is_quantised
from leyden.backbone.scoring import base_model
from leyden.settings.errors import ModelError


def merged_model(model: PeftModel) -> PreTrainedModel:
    """The model with its adapter added in, and with the layers that were trained beside it.

    A weight that an adapted layer shares with another one, as an output head does with a tied embedding, is copied
    first: the adapter belongs to one of the two. Such a model is untied from then on.

    Args:
        model: in floating point; merging into quantised weights would round them once more.

    Raises:
        ModelError: the kind of adapter cannot be merged.
    """
    kind = str(model.peft_config["default"].peft_type).rpartition(".")[2]
    base = base_model(model)
    if any(is_quantised(weight) for weight in base.parameters()):
        raise TypeError("The base is quantised: load it again in floating point.")
    cure = "Leave merge out: the adapter itself loads with peft."
    if not hasattr(model.base_model, "merge_and_unload"):
        raise ModelError(f"merge=true: peft cannot merge adapters of the kind {kind}. {cure}")
    _part_shared(model)
    try:
        merged = cast(PreTrainedModel, cast(Any, model).merge_and_unload(safe_merge=True))
    except Exception as error:  # each kind of adapter refuses in its own way
        why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ModelError(f"merge=true: peft cannot merge this adapter of the kind {kind} ({why}). {cure}") from error
    merged.eval()
    return merged


def _part_shared(model: PeftModel) -> None:
    """Give each adapted layer a weight of its own, where it shares one with another layer."""
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            owners.setdefault(id(weight), set()).add(id(module))
    for layer in [module for module in model.modules() if isinstance(module, BaseTunerLayer)]:
        base: Any = layer.get_base_layer()
        own = getattr(base, "weight", None)
        if isinstance(own, nn.Parameter) and len(owners.get(id(own), ())) > 1:
            base.weight = nn.Parameter(own.detach().clone(), requires_grad=False)
            base_model(model).config.tie_word_embeddings = False
