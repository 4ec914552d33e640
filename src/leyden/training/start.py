"""What a run starts from, where no checkpoint holds it: drawn weights, or those of an earlier run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from leyden.backbone.load import load_model
from leyden.backbone.quantization import KINDS
from leyden.backbone.reference import Reference
from leyden.backbone.start import load_weights, merge_adapter
from leyden.backbone.trained_weights import Source, find_source, is_same_model
from leyden.backbone.vocabulary import fit_vocabulary
from leyden.settings.schema import Settings
from leyden.training.prepare import Material

BASE = "base"
START = "start.safetensors"


def load_start(
    settings: Settings, material: Material, dtype: torch.dtype, folder: Path | None
) -> tuple[PreTrainedModel, str]:
    """The model before any adapter, and the folder or hub id that has its weights.

    Weights that were drawn or taken from an earlier run are in no checkpoint, and an adapter needs to name one: they
    are written to `base` in the run folder, unless the source is such a checkpoint already. Quantised weights are
    always made from those of a checkpoint, never from quantised ones.

    Args:
        settings: of the run.
        material: from `prepare`.
        dtype: of the weights, or of what is not quantised.
        folder: of the run; None keeps nothing.

    Raises:
        ModelError: the weights cannot be read, or none of them fits.
    """
    backbone, head = settings.backbone, material.problem.head
    checkpoint, source = material.checkpoint, find_source(backbone.pretrained_weights)
    into_base = source is not None and not (source.is_adapter and settings.lora is not None)
    if backbone.pretrained and not into_base:
        model = load_model(checkpoint, backbone, dtype, head)
        fit_vocabulary(model, material.tokenizer)
        return model, checkpoint.location
    quantised = backbone.dtype in KINDS
    float_settings = backbone.model_copy(update={"dtype": "auto"})
    model = load_model(checkpoint, float_settings, dtype, head, settings.seed)
    fit_vocabulary(model, material.tokenizer)
    place = None
    if source is not None and into_base:
        model, place = _with_source(model, source)
    if settings.lora is None and not quantised:
        return model, checkpoint.location
    with TemporaryDirectory(prefix="leyden-") as scratch:
        if place is None:
            kept = _keeps(settings, folder)
            place = str(_write_base(model, material, kept if kept is not None else Path(scratch) / BASE))
        if quantised:
            stored = backbone.model_copy(update={"pretrained": True})
            model = load_model(replace(checkpoint, name=place, revision=None, gguf=None), stored, dtype, head)
            fit_vocabulary(model, material.tokenizer)
    return model, place


def keep_start(settings: Settings, reference: Reference, folder: Path | None) -> None:
    """Keep the weights that a reference was copied from, where a prediction could not make them again."""
    backbone = settings.backbone
    again = backbone.pretrained and backbone.pretrained_weights is None
    place = _keeps(settings, folder)
    if reference.start and not again and place is not None:
        place.mkdir(parents=True, exist_ok=True)
        save_file({name: weight.contiguous() for name, weight in reference.start.items()}, place / START)


def goes_on_with_an_adapter(settings: Settings) -> bool:
    """Whether the adapter of this run starts as one that has learned already."""
    source = find_source(settings.backbone.pretrained_weights)
    return source is not None and settings.lora is not None and source.is_adapter


def _keeps(settings: Settings, folder: Path | None) -> Path | None:
    """Where a base is kept; nowhere if the model is not kept either."""
    if folder is None or settings.checkpoint.policy == "disable":
        return None
    return folder.absolute() / BASE


def _with_source(model: PreTrainedModel, source: Source) -> tuple[PreTrainedModel, str | None]:
    """The model with the source's weights, and the source's folder if it holds just that."""
    if source.is_adapter:
        return merge_adapter(model, source), None
    whole = load_weights(model, source)
    return model, str(source.path.absolute()) if whole and is_same_model(model, source) else None


def _write_base(model: PreTrainedModel, material: Material, folder: Path) -> Path:
    model.config.use_cache = True
    with torch.no_grad():
        model.save_pretrained(folder)
    model.config.use_cache = False
    material.tokenizer.save_pretrained(str(folder))
    return folder
