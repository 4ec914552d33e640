"""Low-rank adapters through `peft`: added on top of a frozen backbone, with whole layers trained beside them."""

from __future__ import annotations

import difflib
import warnings
from typing import cast

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from leyden.settings.errors import ModelError
from leyden.settings.model_groups import Lora


def add_adapter(
    model: PreTrainedModel, settings: Lora | None, base_name: str, task: str = "CAUSAL_LM"
) -> PreTrainedModel | PeftModel:
    """Freeze the model and put adapters on it; without settings every weight stays trainable.

    `unfreeze_layers` trains copies that the adapter carries, so switching the adapter off gives the starting point
    back. A weight that several modules share, such as a tied embedding, stays one weight: its copy serves them all.

    Args:
        model: a language model, or one with a head.
        settings: of the adapter.
        base_name: folder or hub id that the saved adapter names as its base.
        task: the word of `peft` for what the model does; with `SEQ_CLS` its head is trained in full beside the adapter.

    Raises:
        ModelError: an entry of `target_modules` or `unfreeze_layers` fits no module.
    """
    if settings is None:
        return model
    _check_targets(model, settings)
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
        modules_to_save=list(dict.fromkeys(name for names in groups for name in names)) or None,
        ensure_weight_tying=not by_hand and any(len(names) > 1 for names in groups),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type=task,
    )
    with warnings.catch_warnings():
        # Said of tied modules by other names than those of Llama, although they are tied.
        warnings.filterwarnings("ignore", message="You have requested `ensure_weight_tying`")
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
        adapted = cast(PeftModel, get_peft_model(model, config))
    for names in by_hand:
        first, *others = (_copy(adapted, name) for name in names)
        for other in others:
            other.weight = first.weight
    adapted.peft_config["default"].base_model_name_or_path = base_name
    adapted.train()
    return adapted


def _check_targets(model: nn.Module, settings: Lora) -> None:
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


def _is_embedding(model: nn.Module, name: str) -> bool:
    return isinstance(model.get_submodule(name), nn.Embedding)


def _copy(adapted: PeftModel, name: str) -> nn.Module:
    """The copy of a module that the adapter trains."""
    wrapper = adapted.get_base_model().get_submodule(name)
    return cast(nn.ModuleDict, wrapper.modules_to_save)["default"]


def _modules(model: nn.Module, entries: list[str]) -> list[list[str]]:
    """Modules that own a weight whose full name contains one of the entries; one group for each weight."""
    weights = dict(model.named_parameters(remove_duplicate=False))
    chosen: set[int] = set()
    faults = []
    for entry in entries:
        matching = {id(weight) for name, weight in weights.items() if entry in name}
        if not matching:
            faults.append(
                f"lora.unfreeze_layers: {entry!r} is part of no weight's name. Names look like {next(iter(weights))}."
            )
        chosen |= matching
    if faults:
        raise ModelError(faults)
    groups: dict[int, list[str]] = {}
    for name, weight in weights.items():
        if id(weight) in chosen:
            groups.setdefault(id(weight), []).append(name.rpartition(".")[0])
    return list(groups.values())
