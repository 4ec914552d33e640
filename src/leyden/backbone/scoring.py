"""Log-probabilities of a batch's targets, with the head run only where something is scored."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from leyden.backbone.projection import find_projection, is_projection_of
from leyden.data.batches import Batch

log = logging.getLogger(__name__)
Targets = tuple[Tensor, Tensor, Tensor]
_TRIED: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()  # whether a model's logits are those of its projection


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
    logps = _logps(model, base, inputs, (rows, columns, ids), packed=batch.segments is not None)
    return logps if batch.distinct is None else logps[batch.distinct.places]


def _logps(
    model: nn.Module, base: PreTrainedModel, inputs: dict[str, object], targets: Targets, *, packed: bool
) -> Tensor:
    """Log-probability of each token id at the output in its row and column."""
    rows, columns, ids = targets
    projection = find_projection(base) if _TRIED.get(base) else None
    if projection is not None:
        hidden = base.get_decoder()(**inputs).last_hidden_state
        return projection.logps(hidden[rows, columns], ids)
    logits = _logits(model, base, inputs, (rows, columns), packed=packed)
    return -F.cross_entropy(logits.float(), ids, reduction="none")


def target_logits(model: nn.Module, batch: Batch, chosen: Sequence[int]) -> Tensor:
    """The logits that score some targets of a batch: [C, V], float32.

    Args:
        model: as for `target_logps`.
        batch: as for `target_logps`.
        chosen: which of the N targets.
    """
    base = base_model(model)
    places = (batch.target_rows[chosen], batch.target_columns[chosen])
    return _logits(model, base, model_inputs(base, batch), places, packed=batch.segments is not None).float()


def _logits(
    model: nn.Module, base: PreTrainedModel, inputs: dict[str, object], places: tuple[Tensor, Tensor], *, packed: bool
) -> Tensor:
    """The logits in these rows and columns, with the head run there alone where the model can do that."""
    rows, columns = places
    found: Tensor
    if "logits_to_keep" not in inspect.signature(type(base).forward).parameters:
        found = model(**inputs).logits[rows, columns]
    elif packed:
        # One row: the head's output comes out in the order of the targets and need not be copied; a source with two
        # targets, such as the end of a shared prompt, is projected twice.
        found = model(**inputs, logits_to_keep=columns).logits[0]
    else:
        kept, where = torch.unique(columns, return_inverse=True)
        found = model(**inputs, logits_to_keep=kept).logits[rows, where]
    return found


@torch.no_grad()
def try_projection(model: nn.Module, batch: Batch) -> None:
    """Find out whether a model's logits are a projection of its last hidden states; only then are they so computed.

    Args:
        model: a language model, adapter or not, whose attention is chosen, in evaluation mode.
        batch: any, of its kind; a few of its targets are looked at.
    """
    base = base_model(model)
    projection = find_projection(base)
    if projection is None or not len(batch.target_columns):
        return
    batch = batch.to(base.device)
    _TRIED[base] = is_projection_of(projection, base, model_inputs(base, batch), batch.target_columns[:8])
    if not _TRIED[base]:
        log.info("%s does more to its logits than a projection: they are computed whole.", type(base).__name__)
