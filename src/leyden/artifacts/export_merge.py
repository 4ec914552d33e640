"""An adapter is added into its base, and the whole model is written."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import AutoTokenizer

from leyden.artifacts.comparison import Saved
from leyden.artifacts.differences import difference_of
from leyden.artifacts.export_folder import check_room, write_merged
from leyden.artifacts.export_source import Export
from leyden.artifacts.fresh_process import outputs_of
from leyden.artifacts.predictor import adapter_folder
from leyden.artifacts.probe import Answers, Probe
from leyden.backbone.checkpoint import loading
from leyden.backbone.load import load_model, weight_type
from leyden.backbone.merging import merged_model
from leyden.backbone.quantization import KINDS, without_bitsandbytes
from leyden.backbone.reference import adapter_off
from leyden.backbone.vocabulary import fit_vocabulary

log = logging.getLogger(__name__)


def merge(export: Export, probe: Probe, output: Path) -> tuple[Saved, Answers]:
    """Write the whole model; return how it is loaded, and what it should say.

    Weights are added in float32 at least and then stored in the type of the training. A quantised base is loaded again
    in floating point from its checkpoint, never from the quantised weights. The adapter was trained on the quantised
    ones, so there the merged model is held against the adapter on the same float weights.

    Raises:
        ConfigError: there is no room, or the folder cannot be written.
        ModelError: the kind of adapter cannot be merged.
    """
    from peft import PeftModel

    settings, options = export.settings, {"trust_remote_code": export.settings.backbone.trust_remote_code}
    kept = weight_type(export.dtype, settings.trainer.precision)
    plain = settings.backbone.model_copy(
        update={"pretrained": True, "pretrained_weights": None, "dtype": "auto", "gradient_checkpointing": False}
    )
    base = load_model(export.checkpoint, plain, torch.promote_types(kept, torch.float32), export.problem.head)
    tokenizer = AutoTokenizer.from_pretrained(str(export.model), **options)
    fit_vocabulary(base, tokenizer)
    check_room(base, kept, output)
    with loading(export.checkpoint, "adapter"), without_bitsandbytes(base):
        model = PeftModel.from_pretrained(base, str(adapter_folder(export.path))).eval()
    answers = probe.answers
    if export.dtype.effective in KINDS:
        outputs = outputs_of(model, probe.rows)
        with adapter_off(model):
            answers = Answers(outputs, outputs_of(model, probe.rows))
        away = max(map(difference_of, outputs, probe.answers.outputs), default=0.0)
        log.info(
            "backbone.dtype=%s: the base is loaded again from its checkpoint in %s and merged there, so the merged "
            "model has no rounding of the quantised weights that were trained on. Its outputs differ from the run's by "
            "%.2g for that reason.",
            export.dtype.effective, str(base.dtype).removeprefix("torch."), away,
        )  # fmt: skip
    merged = merged_model(model)
    cast(nn.Module, merged).to(kept)
    write_merged(merged, export.model, export.card(None, None), output)
    dtype = str(kept).removeprefix("torch.")
    return Saved("merged", output, export.own().auto_class, export.own().head, dtype, None), answers
