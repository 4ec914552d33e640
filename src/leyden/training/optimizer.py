"""Parameter groups: which weights the optimizer moves, how fast, and which of them decay."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from peft import PeftModel
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from leyden.backbone.names import HEAD_MODULES, canonical_names, matching
from leyden.settings.errors import ConfigError
from leyden.settings.training_groups import Optimizer as OptimizerSettings
from leyden.training.problems import check_knobs, dotted

log = logging.getLogger(__name__)
DIFFERENTIAL = "differential"
FILLED = {"lr": "optimizer.learning_rate", "params": "the weights that are trained"}
_MATRIX_MODULES = (nn.Linear, nn.Embedding, nn.EmbeddingBag, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_LINEAR_MAPS = (nn.Linear, Conv1D)


def optimizer_factory(settings: OptimizerSettings) -> Callable[..., Optimizer]:
    """The optimizer class with its settings filled in; it takes parameter groups.

    Raises:
        ConfigError: the path leads nowhere, or the class refuses a setting, our groups or a first step.
    """
    make: Any = dotted(settings.target, "optimizer._target_")
    is_class = isinstance(make, type) and issubclass(make, Optimizer)
    if not is_class:
        raise ConfigError(f"optimizer._target_={settings.target!r} is no optimizer of torch. Name such a class.")
    if make is torch.optim.Muon:
        raise ConfigError(f"optimizer._target_={settings.target!r} moves matrices alone. Use optimizer=muon.")
    check_knobs(make, settings.knobs, "optimizer", FILLED)
    factory = partial(cast(Callable[..., Optimizer], make), lr=settings.peak, **settings.knobs)
    try:
        tried = factory([{"params": [nn.Parameter(torch.zeros(1))], "weight_decay": 0.0} for _ in range(2)])
        if make.__module__.startswith("torch."):  # others may ask for a device, or for a call of their own before
            _step_once(tried)
    except Exception as error:  # a class of any library may raise anything
        raise ConfigError(
            f"optimizer: {str(error).rstrip('.')}. Its keys must be arguments of {settings.target}, with values that "
            "it takes."
        ) from error
    return factory


def _step_once(optimizer: Optimizer) -> None:
    """Make an update of weights that nobody needs, as every update will be made."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            weight.grad = torch.ones_like(weight)
    optimizer.step()


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    layers: Sequence[str] = (),
    rate: float | None = None,
    hidden_apart: bool = False,
) -> list[dict[str, Any]]:
    """Split the trainable parameters by their rate and by whether they decay.

    What decays is decided by the module that owns a parameter, never by its path. Exempt are biases (the attribute of
    the owner is called so), parameters of normalisation modules (the class name ends in Norm: the RMSNorm of each
    architecture in `transformers` is a class of its own), and whatever else has one dimension in a module that is no
    linear map, embedding or convolution: scales, gates, DoRA's magnitudes. Matrices and embedding tables decay, those
    of LoRA too. The rate goes by name.

    Args:
        model: any module. A parameter that several modules share is taken once, as what the first of them makes of it.
        weight_decay: for the groups that decay, >= 0.
        layers: parts of names, as `canonical_names` gives them, of the weights that learn at `rate`.
        rate: the peak rate of those.
        hidden_apart: make groups of their own of hidden matrices, with True as their `hidden`.

    Returns:
        Groups with keys `name` ("decayed" or "undecayed", after "differential" or "hidden" where it is so),
        `params` (in the order of the model), `weight_decay`, and `lr` or `hidden` where it is not the optimizer's. A
        group without parameters is left out.

    Raises:
        ConfigError: no parameter requires a gradient, or an entry of `layers` is in the name of none that does.
    """
    slow, hidden = _named(model, layers), _hidden(model) if hidden_apart else frozenset[int]()
    groups: dict[tuple[bool, bool, bool], dict[str, Any]] = {
        (is_slow, is_hidden, exempt): _group(
            weight_decay, rate if is_slow else None, is_hidden=is_hidden, exempt=exempt
        )
        for is_slow in (False, True)
        for is_hidden in (True, False)
        for exempt in (False, True)
    }
    for owner, attribute, parameter in _trainable(model):
        key = (id(parameter) in slow, id(parameter) in hidden, _is_exempt(owner, attribute, parameter))
        groups[key]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def build_optimizer(
    model: nn.Module,
    factory: Callable[..., Optimizer],
    weight_decay: float,
    layers: Sequence[str] = (),
    rate: float | None = None,
) -> Optimizer:
    """Make the optimizer of a model's trainable parameters.

    Args:
        model: any module, with its dtype, device and frozen weights settled.
        factory: an optimizer class with its settings filled in, such as `partial(torch.optim.AdamW, lr=1e-4)`. A class
            with a true `hidden_apart` gets groups of its own for hidden matrices.
        weight_decay: >= 0, for the parameters that decay; takes precedence over one in the factory. AdamW and its kind
            shrink the weights by 1 - lr weight_decay; others add weight_decay times the weight to the gradient.
        layers: parts of names of the weights that learn at `rate`.
        rate: the peak rate of those.

    Raises:
        ConfigError: no parameter requires a gradient, an entry of `layers` fits none, or the optimizer knows no weight
            decay and one is asked for.
    """
    apart = bool(getattr(getattr(factory, "func", factory), "hidden_apart", False))
    optimizer = factory(parameter_groups(model, weight_decay, layers=layers, rate=rate, hidden_apart=apart))
    # An optimizer accepts keys of a group that it never reads.
    if weight_decay and "weight_decay" not in optimizer.defaults:
        raise ConfigError(
            f"optimizer.weight_decay={weight_decay} has no effect with {type(optimizer).__name__}, which has no such "
            "setting. Set optimizer.weight_decay=0, or choose another optimizer."
        )
    if all(group["name"].startswith(DIFFERENTIAL) for group in optimizer.param_groups):
        log.warning(
            "optimizer.learning_rate has no effect: differential_learning_rate_layers=%s covers every weight that is "
            "trained.", list(layers),
        )  # fmt: skip
    return optimizer


def rates_of(optimizer: Optimizer) -> dict[str, float]:
    """The rates that the next update is made with, by the name they are logged under."""
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:
        slow = str(group.get("name", "")).startswith(DIFFERENTIAL)
        rates.setdefault(f"train/learning_rate{'_differential' if slow else ''}", float(group["lr"]))
    rates.setdefault("train/learning_rate", next(iter(rates.values())))
    return rates


def set_mode(optimizers: Sequence[Optimizer], *, training: bool) -> None:
    """Switch optimizers that keep two sets of weights, such as schedule-free ones, to one of them.

    Args:
        optimizers: those without two sets are left alone.
        training: where gradients are taken; else the averaged weights, which are evaluated, saved and used.
    """
    for optimizer in optimizers:
        switch = getattr(optimizer, "train" if training else "eval", None)
        if switch is not None:
            switch()


def _group(weight_decay: float, rate: float | None, *, is_hidden: bool, exempt: bool) -> dict[str, Any]:
    words = [DIFFERENTIAL] if rate is not None else []
    words += ["hidden"] if is_hidden else []
    group: dict[str, Any] = {
        "name": " ".join([*words, "undecayed" if exempt else "decayed"]),
        "params": [],
        "weight_decay": 0.0 if exempt else weight_decay,
    }
    return group | ({"lr": rate} if rate is not None else {}) | ({"hidden": True} if is_hidden else {})


def _trainable(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Owner, attribute and parameter of everything that requires a gradient, each once.

    Raises:
        ConfigError: nothing does.
    """
    seen: set[int] = set()
    for module in model.modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield module, attribute, parameter
    if not seen:
        raise ConfigError(
            f"optimizer: no weight of {type(model).__name__} requires a gradient, so there is nothing to train. "
            "Choose an adapter, such as lora=lora, or leave some weights unfrozen."
        )


def _named(model: nn.Module, entries: Sequence[str]) -> frozenset[int]:
    """Trainable parameters whose name contains an entry, by id."""
    if not entries:
        return frozenset()
    names = {name: weight for name, weight in canonical_names(model).items() if weight.requires_grad}
    fitting = {entry: matching(names, entry) for entry in entries}
    faults = [
        f"optimizer.differential_learning_rate_layers: {entry!r} is in the name of no weight that is trained. Names "
        f"look like {', '.join(_examples(names))}. Name part of one, or set the list to []."
        for entry, weights in fitting.items()
        if not weights
    ]
    if faults:
        raise ConfigError(faults)
    return frozenset(id(weight) for weights in fitting.values() for weight in weights)


def _examples(names: Iterable[str]) -> list[str]:
    """The first and the last two names."""
    every = list(names)
    return list(dict.fromkeys([*every[:2], *every[-2:]]))


def _hidden(model: nn.Module) -> frozenset[int]:
    """Matrices of linear maps between hidden states, by id: neither of the embedding nor of what stands on top."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    ends: list[nn.Module] = [module for module in base.modules() if isinstance(module, nn.Embedding)]
    ends += [module for name, module in base.named_children() if name in HEAD_MODULES]
    if isinstance(base, PreTrainedModel) and (top := base.get_output_embeddings()) is not None:
        ends.append(top)
    outer = {id(weight) for module in ends for weight in module.parameters()}
    linear = [module for module in model.modules() if isinstance(module, _LINEAR_MAPS)]
    inner = {id(module.weight) for module in linear}
    return frozenset(inner - outer)


def _is_exempt(module: nn.Module, attribute: str, parameter: nn.Parameter) -> bool:
    if attribute.endswith("bias"):
        return True
    if isinstance(module, _MATRIX_MODULES):
        return False
    return parameter.ndim <= 1 or type(module).__name__.endswith("Norm")
