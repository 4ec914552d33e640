"""Parameter groups: which weights the optimizer moves, and which of them decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from leyden.settings.errors import ConfigError

_MATRIX_MODULES = (nn.Linear, nn.Embedding, nn.EmbeddingBag, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters into those that decay and those that do not.

    What a parameter is, is decided by the module that owns it, never by its path. Exempt from decay are biases (the
    attribute of the owner is called so), parameters of normalisation modules (the class name ends in Norm: the RMSNorm
    of each architecture in `transformers` is a class of its own), and whatever else has one dimension in a module that
    is no linear map, embedding or convolution: scales, gates, DoRA's magnitudes. Matrices and embedding tables decay,
    those of LoRA too.

    Args:
        model: any module. A parameter that several modules share is taken once, as what the first of them makes of it.
        weight_decay: for the group that decays, >= 0.

    Returns:
        One or two groups, with keys `name` ("decayed" or "undecayed"), `params` (in the order of the model) and
        `weight_decay`. A group without parameters is left out.

    Raises:
        ConfigError: no parameter requires a gradient.
    """
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    seen: set[int] = set()
    for module in model.modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                (undecayed if _is_exempt(module, attribute, parameter) else decayed).append(parameter)
    if not seen:
        raise ConfigError(
            f"optimizer: no weight of {type(model).__name__} requires a gradient, so there is nothing to train. "
            "Choose an adapter, such as lora=lora, or leave some weights unfrozen."
        )
    groups = [
        {"name": "decayed", "params": decayed, "weight_decay": weight_decay},
        {"name": "undecayed", "params": undecayed, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, factory: Callable[..., Optimizer], weight_decay: float) -> Optimizer:
    """Make the optimizer of a model's trainable parameters.

    Args:
        model: any module, with its dtype, device and frozen weights settled.
        factory: an optimizer class with its settings filled in, such as `partial(torch.optim.AdamW, lr=1e-4)`.
        weight_decay: >= 0, for the parameters that decay; takes precedence over one in the factory. AdamW and its kind
            shrink the weights by 1 - lr weight_decay; others add weight_decay times the weight to the gradient.

    Raises:
        ConfigError: no parameter requires a gradient, or the optimizer knows no weight decay and one is asked for.
    """
    optimizer = factory(parameter_groups(model, weight_decay))
    # An optimizer accepts keys of a group that it never reads.
    if weight_decay and "weight_decay" not in optimizer.defaults:
        raise ConfigError(
            f"optimizer.weight_decay={weight_decay} has no effect with {type(optimizer).__name__}, which has no such "
            "setting. Set optimizer.weight_decay=0, or choose another optimizer."
        )
    return optimizer


def _is_exempt(module: nn.Module, attribute: str, parameter: nn.Parameter) -> bool:
    if attribute.endswith("bias"):
        return True
    if isinstance(module, _MATRIX_MODULES):
        return False
    return parameter.ndim <= 1 or type(module).__name__.endswith("Norm")
