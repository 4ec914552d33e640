"""Adapters through `peft`: added on top of a frozen backbone, with whole layers trained beside them."""

from __future__ import annotations

import difflib
import warnings
from typing import cast

from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from leyden.backbone.adapters import base_sums, named_config
from leyden.backbone.exchange import exchange_parts
from leyden.backbone.freezing import chosen
from leyden.backbone.fused_lora import compute_together, fuse
from leyden.backbone.names import HEAD_MODULES, canonical_names
from leyden.backbone.quantization import is_quantised, without_bitsandbytes
from leyden.settings.errors import ModelError
from leyden.settings.model_groups import Adapter, Lora


def add_adapter(
    model: PreTrainedModel,
    settings: Lora | Adapter | None,
    base_name: str,
    task: str = "CAUSAL_LM",
    revision: str | None = None,
) -> PreTrainedModel | PeftModel:
    """Freeze the model and put adapters on it; without settings every weight stays trainable.

    `unfreeze_layers` trains copies that the adapter carries, so switching the adapter off gives the starting point
    back. A weight that several modules share, such as a tied embedding, stays one weight: its copy serves them all.

    Args:
        model: a language model, or one with a head.
        settings: of the adapter.
        base_name: folder or hub id that the saved adapter names as its base.
        task: the word of `peft` for what the model does; with `SEQ_CLS` its head is trained in full beside the adapter.
        revision: of the base on the hub, which the saved adapter names too.

    Raises:
        ModelError: an entry of `target_modules` or `unfreeze_layers` fits no module, or the adapter changes the weights
            under it, or cannot keep weights shared or be put on this model.
    """
    if settings is None:
        return model
    _check_targets(model, settings)
    if isinstance(settings, Adapter):
        adapted = _named_adapter(model, settings, task)
    else:
        adapted = _with_lora(model, settings, task)
    adapted.peft_config["default"].base_model_name_or_path = base_name
    adapted.peft_config["default"].revision = revision
    adapted.train()
    return adapted


def _with_lora(model: PreTrainedModel, settings: Lora, task: str) -> PeftModel:
    groups = _modules(model, settings.unfreeze_layers)
    # peft ties what shares the embedding by turning it into linear modules: wrong where one is an embedding itself
    by_hand = [names for names in groups if sum(_is_embedding(model, name) for name in names) > 1]
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft divides it, whole or not
        lora_dropout=settings.dropout,
        use_dora=settings.use_dora,
        use_rslora=settings.use_rslora,
        target_modules="all-linear" if settings.target_modules is None else list(settings.target_modules),
        modules_to_save=_flat(groups) or None,
        ensure_weight_tying=not by_hand and any(len(names) > 1 for names in groups),
        fan_in_fan_out=_is_transposed(model),
        task_type=task,
    )
    exchange_parts(model)
    fuse(config, model)
    adapted = _adapted(model, config)
    compute_together(adapted)
    for names in by_hand:
        first, *others = (_copy(adapted, name) for name in names)
        for other in others:
            other.weight = first.weight
    return adapted


def _named_adapter(model: PreTrainedModel, settings: Adapter, task: str) -> PeftModel:
    groups = _modules(model, settings.unfreeze_layers)
    if any(len(names) > 1 for names in groups):
        raise ModelError(
            f"lora.unfreeze_layers={settings.unfreeze_layers} names a weight that several modules share, and "
            f"{settings.target} would train a copy for each. Use lora=lora, or name other weights."
        )
    config = named_config(settings, _flat(groups), task, transposed=_is_transposed(model))
    before = base_sums(model)
    try:
        adapted = _adapted(model, config)
        PeftConfig.from_peft_type(**adapted.peft_config["default"].to_dict())  # as it will be read back
    except Exception as error:  # each method of peft refuses in its own way
        why = str(error).partition("! Adjusted")[0].rstrip(".")
        raise ModelError(
            f"lora._target_={settings.target!r} cannot be put on this model: {why}. Look at the keys of lora."
        ) from error
    after = base_sums(adapted)
    if any(after.get(weight) != total for weight, total in before.items()):
        raise ModelError(
            f"lora: with these keys {settings.target} changes the weights under the adapter, so that switching it off "
            "does not give the starting point back. Choose another initialisation or adapter."
        )
    return adapted


def _is_transposed(model: nn.Module) -> bool:
    return any(isinstance(module, Conv1D) for module in model.modules())


def _adapted(model: PreTrainedModel, config: PeftConfig) -> PeftModel:
    with without_bitsandbytes(model), warnings.catch_warnings():
        # Said of tied modules by other names than those of Llama, although they are tied.
        warnings.filterwarnings("ignore", message="You have requested `ensure_weight_tying`")
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
        warnings.filterwarnings("error", message="Invalid `oft_block_size`")  # another size in place of what was asked
        return cast(PeftModel, get_peft_model(model, config))


def base_location(model: nn.Module) -> str | None:
    """Folder or hub id that an adapter names as its base; None without an adapter."""
    return str(model.peft_config["default"].base_model_name_or_path) if isinstance(model, PeftModel) else None


def _check_targets(model: nn.Module, settings: Lora | Adapter) -> None:
    names = [name for name, module in model.named_modules() if next(module.children(), None) is None]
    suffixes = sorted({name.rpartition(".")[2] for name in names})
    faults = []
    for target in settings.target_modules or ():
        if not any(name == target or name.endswith(f".{target}") for name, _ in model.named_modules()):
            near = difflib.get_close_matches(target, suffixes, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            faults.append(f"lora.target_modules: {target!r} fits no module.{hint} There are {', '.join(suffixes)}.")
    if faults:
        raise ModelError(faults)


def _modules(model: nn.Module, entries: list[str]) -> list[list[str]]:
    """Modules that own a weight which an entry fits, one group for each weight; the head is trained anyway."""
    fitting = {id(weight) for weight in chosen(canonical_names(model), entries, "lora.unfreeze_layers")}
    weights = dict(model.named_parameters(remove_duplicate=False))
    held = [name for name, weight in weights.items() if id(weight) in fitting and is_quantised(weight)]
    if held:
        raise ModelError(
            f"lora.unfreeze_layers={entries} fits {len(held)} quantised weights, such as {held[0]}, which cannot be "
            "trained. Name weights that stay in floating point (embed, norm, lm_head), or use backbone.dtype=auto."
        )
    groups: dict[int, list[str]] = {}
    for name, weight in weights.items():
        owner = name.rpartition(".")[0]
        if id(weight) in fitting and owner not in HEAD_MODULES:
            groups.setdefault(id(weight), []).append(owner)
    return list(groups.values())


def _flat(groups: list[list[str]]) -> list[str]:
    return list(dict.fromkeys(name for names in groups for name in names))


def _is_embedding(model: nn.Module, name: str) -> bool:
    return isinstance(model.get_submodule(name), nn.Embedding)


def _copy(adapted: PeftModel, name: str) -> nn.Module:
    """The copy of a module that the adapter trains."""
    wrapper = adapted.get_base_model().get_submodule(name)
    return cast(nn.ModuleDict, wrapper.modules_to_save)["default"]
