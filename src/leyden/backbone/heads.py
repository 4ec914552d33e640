"""What stands on top of the backbone: the vocabulary, or one linear map that is read at a sample's last token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from leyden.backbone.names import HEAD_MODULES
from leyden.backbone.scoring import base_model, model_inputs
from leyden.data.batches import Batch

Family = Literal["decoder", "encoder_decoder"]


@dataclass(frozen=True)
class Head:
    """The library's class of model that a problem needs.

    Attributes:
        family: `decoder` reads from left to right; `encoder_decoder` reads a source and writes a target.
        outputs: columns of the head; None for the vocabulary.
        names: of the columns, saved with the model as `id2label`; empty for numbers 0, 1, ….
        problem_type: the library's word for what the outputs mean.
        extra: further keys of the saved config, such as the scale of a regression's targets.
    """

    family: Family = "decoder"
    outputs: int | None = None
    names: tuple[str, ...] = ()
    problem_type: str | None = None
    extra: tuple[tuple[str, object], ...] = ()

    @property
    def auto_class(self) -> Any:
        """The library's class that loads such a model."""
        if self.outputs is not None:
            return AutoModelForSequenceClassification
        return AutoModelForSeq2SeqLM if self.family == "encoder_decoder" else AutoModelForCausalLM

    @property
    def task(self) -> str:
        """The word of `peft` for what an adapter is used for."""
        if self.outputs is not None:
            return "SEQ_CLS"
        return "SEQ_2_SEQ_LM" if self.family == "encoder_decoder" else "CAUSAL_LM"

    def config(self) -> dict[str, Any]:
        """Keys of the model's config that say what the head's outputs are."""
        if self.outputs is None:
            return {}
        names = self.names or tuple(f"LABEL_{number}" for number in range(self.outputs))
        return {
            "num_labels": self.outputs,
            "id2label": dict(enumerate(names)),
            "label2id": {name: number for number, name in enumerate(names)},
            "problem_type": self.problem_type,
        }


def head_outputs(model: nn.Module, batch: Batch) -> Tensor:
    """What the head says of each sample, read at its last token: [B, K], float32.

    The body is called once, on packed or padded rows, and the head once, on B hidden states.

    Args:
        model: a sequence-classification model of the library, adapter or not.
        batch: packed or padded.
    """
    base = base_model(model)
    body = getattr(base, base.base_model_prefix)
    states = body(**model_inputs(body, batch)).last_hidden_state
    head = next(module for name, module in base.named_children() if name in HEAD_MODULES)
    output: Tensor = head(states[batch.readout_rows, batch.readout_columns])
    return output.float() if output.dtype in (torch.float16, torch.bfloat16) else output
