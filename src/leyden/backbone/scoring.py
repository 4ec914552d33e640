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


def target_logps(model: nn.Module, batch: Batch) -> Tensor:
    """Log-probability of each target: `log_softmax` of the logits at its source position, at its token id.

    The model is called once. Its final soft-capping and logit scaling are kept, its cache is off.

    Args:
        model: a causal language model, adapter or not, on the device of the batch.
        batch: packed, for a model with one of our attention engines, or padded.

    Returns:
        [N], float32, nats. Without targets it is empty, and its backward pass gives every weight a gradient of 0.
    """
    accepted = inspect.signature(type(base_model(model)).forward).parameters
    inputs: dict[str, object] = {"input_ids": batch.input_ids, "use_cache": False}
    if batch.attention_mask is not None:
        inputs["attention_mask"] = batch.attention_mask
    if batch.segments is not None:
        inputs["segments"] = batch.segments
    if batch.segments is not None or "position_ids" in accepted:
        inputs["position_ids"] = batch.position_ids
    rows, columns = batch.target_rows, batch.target_columns
    if "logits_to_keep" not in accepted:
        logits = model(**inputs).logits[rows, columns]
    elif batch.segments is not None:
        # One row: the head's output comes out in the order of the targets and need not be copied; a source with two
        # targets, such as the end of a shared prompt, is projected twice.
        logits = model(**inputs, logits_to_keep=columns).logits[0]
    else:
        kept, places = torch.unique(columns, return_inverse=True)
        logits = model(**inputs, logits_to_keep=kept).logits[rows, places]
    return -F.cross_entropy(logits.float(), batch.target_ids, reduction="none")


def sequence_sums(values: Tensor, batch: Batch) -> Tensor:
    """Sum the values of each sequence's targets.

    Args:
        values: [N], one per target.
        batch: says which sequence each target belongs to.

    Returns:
        [num_sequences], of the type of `values`; 0 for a sequence without targets.
    """
    return values.new_zeros(batch.num_sequences).index_add(0, batch.target_sequences, values)


def sequence_counts(batch: Batch) -> Tensor:
    """Return [num_sequences], float32, the number of targets of each sequence."""
    return sequence_sums(torch.ones_like(batch.target_ids, dtype=torch.float32), batch)
