"""Log-probabilities of a batch's targets, with the head run only where something is scored."""

from __future__ import annotations

import inspect

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from leyden.data.batches import Batch


def base_model(model: nn.Module) -> PreTrainedModel:
    """Return the library's model inside an adapter wrapper, or the model itself."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(inner, PreTrainedModel):
        raise TypeError(f"A {type(inner).__name__} is no transformers model.")
    return inner


def model_inputs(model: nn.Module, batch: Batch) -> dict[str, object]:
    """The keyword arguments with which a model of the library is called on a batch, its cache off."""
    accepted = inspect.signature(type(model).forward).parameters
    inputs: dict[str, object] = {"input_ids": batch.input_ids, "use_cache": False}
    if batch.attention_mask is not None:
        inputs["attention_mask"] = batch.attention_mask
    if batch.decoder_input_ids is not None:
        inputs["decoder_input_ids"] = batch.decoder_input_ids
    if batch.segments is not None:
        inputs["segments"] = batch.segments
    if batch.segments is not None or "position_ids" in accepted:
        inputs["position_ids"] = batch.position_ids
    return inputs


def target_logps(model: nn.Module, batch: Batch) -> Tensor:
    """Log-probability of each target: `log_softmax` of the logits at its source position, at its token id.

    The model is called once. Its final soft-capping and logit scaling are kept, its cache is off.

    Args:
        model: a language model, adapter or not, on the device of the batch.
        batch: packed, for a model with one of our attention engines, or padded, or of an encoder and a decoder.

    Returns:
        [N], float32, nats. Without targets it is empty, and its backward pass gives every weight a gradient of 0.
    """
    base = base_model(model)
    inputs = model_inputs(base, batch)
    rows, columns, ids = batch.target_rows, batch.target_columns, batch.target_ids
    if batch.distinct is not None:  # several samples have a target in one place: it is scored once
        rows, columns, ids = torch.zeros_like(batch.distinct.columns), batch.distinct.columns, batch.distinct.ids
    if "logits_to_keep" not in inspect.signature(type(base).forward).parameters:
        logits = model(**inputs).logits[rows, columns]
    elif batch.segments is not None:
        # One row: the head's output comes out in the order of the targets and need not be copied; a source with two
        # targets, such as the end of a shared prompt, is projected twice.
        logits = model(**inputs, logits_to_keep=columns).logits[0]
    else:
        kept, places = torch.unique(columns, return_inverse=True)
        logits = model(**inputs, logits_to_keep=kept).logits[rows, places]
    logps = -F.cross_entropy(logits.float(), ids, reduction="none")
    return logps if batch.distinct is None else logps[batch.distinct.places]
