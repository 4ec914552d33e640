"""Adapters of `peft` besides LoRA: their config class by its dotted path, checked before any weights are loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from peft import PeftConfig
from peft.config import PromptLearningConfig
from torch import nn

from leyden.settings.checks_training import INSTEAD, REFUSED, SEQUENCE
from leyden.settings.errors import ConfigError
from leyden.settings.model_groups import Adapter, Lora

# Fields of a config that this project fills in, or that belong to a saved adapter.
_OURS = frozenset(
    [
        "task_type",
        "inference_mode",
        "modules_to_save",
        "peft_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "runtime_config",
        "fan_in_fan_out",
        "ensure_weight_tying",
    ]
)


def check_adapter(settings: Lora | Adapter | None) -> None:
    """Try an adapter's settings out without a model.

    Raises:
        ConfigError: the path is no config of `peft`, or one that does not work here, or a key that it does not take.
    """
    if isinstance(settings, Adapter):
        named_config(settings, [], "CAUSAL_LM", transposed=False)


def named_config(settings: Adapter, modules: Sequence[str], task: str, *, transposed: bool) -> PeftConfig:
    """The config of an adapter.

    Args:
        settings: of the adapter.
        modules: those that are trained in full beside it.
        task: the word of `peft` for what the model does.
        transposed: the model keeps its linear maps as inputs by outputs, as GPT-2 does.

    Raises:
        ConfigError: as `check_adapter`.
    """
    make = _config_class(settings.target)
    names = {field.name for field in dataclasses.fields(make) if field.init}
    allowed = sorted(names - _OURS)
    if unknown := [name for name in settings.knobs if name not in allowed]:
        raise ConfigError(
            f"lora.{name}: {make.__name__} has no such key here. It has: {', '.join(allowed)}." for name in unknown
        )
    own: dict[str, Any] = {
        "task_type": task,
        "target_modules": "all-linear" if settings.target_modules is None else list(settings.target_modules),
        "modules_to_save": list(modules) or None,
        "fan_in_fan_out": transposed,
    }
    lacking = [name for name in ("target_modules", "modules_to_save") if name not in names]
    if lacking and (settings.target_modules is not None or modules):
        raise ConfigError(f"lora: {make.__name__} has no {lacking[0]}. {INSTEAD}")
    try:
        config: PeftConfig = make(**{name: value for name, value in own.items() if name in names}, **settings.knobs)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"lora: {error}. Its keys must be arguments of {settings.target}.") from error
    return config


def base_sums(model: nn.Module) -> dict[int, float]:
    """A sum over each weight, by its identity, to see later whether it is as it was."""
    return {id(weight): float(weight.detach().double().sum()) for weight in model.parameters()}


def _config_class(target: str) -> type[Any]:
    """The class that a dotted path names.

    Raises:
        ConfigError: it is no config of `peft`, or one that does not work here.
    """
    module, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"lora._target_={target!r} cannot be imported: {error}. Give peft.NAMEConfig.") from error
    if not (isinstance(found, type) and issubclass(found, PeftConfig) and dataclasses.is_dataclass(found)):
        raise ConfigError(f"lora._target_={target!r} is no config class of peft. {INSTEAD}")
    why = REFUSED.get(found.__name__) or (SEQUENCE if issubclass(found, PromptLearningConfig) else "")
    if why:
        raise ConfigError(f"lora._target_={target!r} does not work here: {why}. {INSTEAD}")
    return found
