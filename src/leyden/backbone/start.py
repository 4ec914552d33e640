"""Weights of an earlier run as the start of another one, found by their names."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from leyden.backbone.names import canonical_names
from leyden.backbone.quantization import without_bitsandbytes
from leyden.backbone.trained_weights import PREFIX, Source, compare_adapters
from leyden.settings.errors import ModelError
from leyden.settings.locations import ADAPTER_CONFIG

_SHOWN = 8  # names in a warning
log = logging.getLogger(__name__)


@dataclass
class _Outcome:
    loaded: int = 0
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return not (self.missing or self.unexpected or self.misshapen)


def load_weights(model: nn.Module, source: Source) -> bool:
    """Copy weights into those of the same name that are trained; say in one warning what found no place.

    Args:
        model: with an adapter, of which only what is trained is written to, or without one.
        source: of an adapter or of a whole model.

    Returns:
        Whether each weight on either side had its counterpart.

    Raises:
        ModelError: no name fits.
    """
    outcome = _copied(canonical_names(model), source)
    if not outcome.loaded:
        why = f"its names look like {next(iter(source.tensors), 'none')}"
        if outcome.misshapen:
            why = f"{len(outcome.misshapen)} have another shape, such as {outcome.misshapen[0]}"
        raise ModelError(
            f"{source.setting}: none of its {len(source.tensors)} weights fits a weight of {type(model).__name__} that "
            f"is trained; {why}. Name weights of the same architecture, with an adapter of the same kind and rank."
        )
    parts = [
        f"{len(names)} {what} ({_listed(names)})"
        for what, names in (
            ("weights of the model are not in it and stay as they were", outcome.missing),
            ("of its weights have no place in what is trained here", outcome.unexpected),
            ("have another shape here and were left out", outcome.misshapen),
        )
        if names
    ]
    if parts:
        log.warning("%s: %d weights were loaded; %s.", source.setting, outcome.loaded, "; ".join(parts))
    else:
        log.info("%s: all %d weights were loaded.", source.setting, outcome.loaded)
    return outcome.whole


@torch.no_grad()
def _copied(names: dict[str, nn.Parameter], source: Source) -> _Outcome:
    outcome = _Outcome()
    missing = {id(weight): name for name, weight in reversed(names.items()) if weight.requires_grad}
    for key, value in source.tensors.items():
        weight = _place(names, key)
        if weight is None:
            outcome.unexpected.append(key)
        elif weight.shape != value.shape:
            outcome.misshapen.append(f"{key}: {list(value.shape)}, here {list(weight.shape)}")
            missing.pop(id(weight), None)
        elif weight.requires_grad:
            weight.copy_(value)
            outcome.loaded += 1
            missing.pop(id(weight), None)
        elif not torch.equal(value.to(weight.device, weight.dtype), weight):
            outcome.unexpected.append(key)
    outcome.missing = list(missing.values())
    return outcome


def _place(names: dict[str, nn.Parameter], key: str) -> nn.Parameter | None:
    """The weight that a name on disk stands for; peft leaves out the end of a DoRA magnitude's name."""
    plain = key.removeprefix(PREFIX)
    tried = (f"backbone.{plain}", plain, f"backbone.{plain}.weight")
    return next((names[name] for name in tried if name in names), None)


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def merge_adapter(model: PreTrainedModel, source: Source) -> PreTrainedModel:
    """The model with an adapter added into its weights, which are trained as before.

    Args:
        model: in floating point; merging into quantised weights would round them once more.
        source: an adapter with its config.

    Raises:
        ModelError: the adapter's config is not beside it, or does not fit the model.
    """
    folder = source.path if source.path.is_dir() else source.path.parent
    if not (folder / ADAPTER_CONFIG).is_file():
        raise ModelError(
            f"{source.setting} is an adapter without {ADAPTER_CONFIG} beside it, so its scale is not known. Name its "
            "folder, or use lora=lora to go on with an adapter."
        )
    trained = {name: weight.requires_grad for name, weight in model.named_parameters()}
    try:
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = False
        with without_bitsandbytes(model), warnings.catch_warnings():
            # said of tied modules by other names than those of Llama, although they are tied
            warnings.filterwarnings("ignore", message="You have requested `ensure_weight_tying`")
            adapted = get_peft_model(model, config)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{source.setting} does not fit {type(model).__name__}: {error}.") from error
    compare_adapters(cast(PeftModel, adapted), source, str(getattr(model, "name_or_path", "")), scale=False)
    load_weights(adapted, source)
    merged = cast(PreTrainedModel, cast(Any, adapted).merge_and_unload())
    for name, weight in merged.named_parameters():
        weight.requires_grad_(trained.get(name, True))
    merged.train()
    return merged
