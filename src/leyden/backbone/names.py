"""What weights are called in settings: one naming for freezing, unfreezing and learning rates."""

from __future__ import annotations

from collections.abc import Mapping

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

# What the library calls the linear map on top of a sequence classifier.
HEAD_MODULES = ("score", "classifier")

# What peft puts into a path; its adapter is called so.
_WRAPPERS = frozenset({"default", "modules_to_save", "base_layer"})


def canonical_names(model: nn.Module) -> dict[str, nn.Parameter]:
    """All weights by the names that settings match against, in the order of the model.

    A weight is called `backbone.` and its name in the library, adapter or not: what `peft` adds (`base_model.model.`,
    `.base_layer`, `.modules_to_save`, the adapter's name `default`) is taken out. So an adapter's weight is
    `backbone.model.layers.0.self_attn.q_proj.lora_A.weight`, and the frozen weight beside a copy that is trained is
    `backbone.model.embed_tokens.original_module.weight`. The head of a classification is `classification_head.weight`,
    that of a regression `regression_head.weight`; each is also `value_head.weight` and, as in the library,
    `score.weight`. A weight that several modules share stands under the names of all of them.

    Args:
        model: any module.
    """
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    prefix = next(f"{name}." if name else "" for name, module in model.named_modules() if module is inner)
    heads = _head_names(inner)
    names: dict[str, nn.Parameter] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        parts = path.removeprefix(prefix).split(".")
        if inner is not model:
            parts = [part for part in parts if part not in _WRAPPERS]
        own = heads if heads and parts[0] == heads[-1] else (f"backbone.{parts[0]}",)
        names |= {".".join((name, *parts[1:])): parameter for name in own}
    return names


def matching(names: Mapping[str, nn.Parameter], entry: str) -> list[nn.Parameter]:
    """The weights that have a name which contains the entry, each once.

    Args:
        names: of `canonical_names`.
        entry: part of a name, such as `embed`, `layers.0.` or `head`.
    """
    return list({id(parameter): parameter for name, parameter in names.items() if entry in name}.values())


def _head_names(model: nn.Module) -> tuple[str, ...]:
    """What the head on top of a backbone answers to, the library's own name last; nothing for a vocabulary."""
    children = [name for name, _ in model.named_children() if name in HEAD_MODULES]
    if not children or not isinstance(model, PreTrainedModel):
        return ()
    regression = getattr(model.config, "problem_type", None) == "regression"
    return ("regression_head" if regression else "classification_head", "value_head", children[0])
