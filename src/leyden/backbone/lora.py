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
from leyden.settings.errors import ModelError
from leyden.settings.model_groups import Adapter, Lora


def add_adapter(
    model: PreTrainedModel, settings: Lora | Adapter | None, base_name: str, task: str = "CAUSAL_LM"
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
        ModelError: an entry of `target_modules` or `unfreeze_layers` fits no module, or the adapter changes the weights
            under it, or cannot keep weights shared or be put on this model.
    """
    if settings is None:
        return model
    _check_targets(model, settings)
    if isinstance(settings, Adapter):
        adapted = _named_adapter(model, settings, task)
    else:
        adapted = _adapted(model, _lora_config(model, settings, task))
    adapted.peft_config["default"].base_model_name_or_path = base_name
    adapted.train()
    return adapted


def _lora_config(model: nn.Module, settings: Lora, task: str) -> LoraConfig:
    modules, shared = _modules(model, settings.unfreeze_layers)
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft divides it, whole or not
        lora_dropout=settings.dropout,
        use_dora=settings.use_dora,
        use_rslora=settings.use_rslora,
        target_modules="all-linear" if settings.target_modules is None else list(settings.target_modules),
        modules_to_save=modules or None,
        ensure_weight_tying=shared,
        fan_in_fan_out=_is_transposed(model),
        task_type=task,
    )


def _named_adapter(model: PreTrainedModel, settings: Adapter, task: str) -> PeftModel:
    modules, shared = _modules(model, settings.unfreeze_layers)
    if shared:
        raise ModelError(
            f"lora.unfreeze_layers={settings.unfreeze_layers} names a weight that several modules share, and "
            f"{settings.target} would train a copy for each. Use lora=lora, or name other weights."
        )
    config = named_config(settings, modules, task, transposed=_is_transposed(model))
    before = base_sums(model)
    try:
        adapted = _adapted(model, config)
        PeftConfig.from_peft_type(**adapted.peft_config["default"].to_dict())  # as it will be read back
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"lora._target_={settings.target!r} cannot be put on this model: {error} Look at the keys of lora."
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
    with warnings.catch_warnings():
        # Said of tied modules by other names than those of Llama, although they are tied.
        warnings.filterwarnings("ignore", message="You have requested `ensure_weight_tying`")
        return cast(PeftModel, get_peft_model(model, config))


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


def _modules(model: nn.Module, entries: list[str]) -> tuple[list[str], bool]:
    """Modules that own a weight whose full name contains one of the entries, and whether they share one."""
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
    owners = [(name.rpartition(".")[0], id(weight)) for name, weight in weights.items() if id(weight) in chosen]
    return list(dict.fromkeys(owner for owner, _ in owners)), len(owners) > len(chosen)
