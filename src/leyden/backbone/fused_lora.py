"""LoRA on a frozen linear layer with the low-rank part inside the matrix products, alone or beside its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import Linear
from torch import Tensor, nn

from leyden.backbone.adapted import Adapted, adapted_outputs

SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # in the order of their calls


class FusedLinear(Linear):
    """What `peft` makes of a linear layer, with the same weights under the same names, and the same output.

    Equals `x @ W.T + b + scaling * dropout(x) @ A.T @ B.T` in value and gradient. Scaling and sum need no pass over
    the outputs, neither forward nor backward. Whatever is not that plain case runs as `peft` does it: variants such as
    DoRA, several adapters, merged or switched off ones, autocast, compiled layers, weights shared among ranks, a
    trained base.

    Attributes:
        group: the layers that read the same input and are computed together; None: this one is computed alone.
    """

    group: SameInput | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's output: [..., out] from [..., in]."""
        if args or kwargs or (plain := self.plain(x)) is None:
            return super().forward(x, *args, **kwargs)
        if self.group is not None:
            return self.group.output(self, x)
        return _outputs(x, {self: plain})[self]

    def plain(self, x: Tensor) -> Adapted | None:
        """The weights that make the output of such an input; None where it is not the plain case."""
        base, name = self.get_base_layer(), self._only_adapter()
        if name is None or not _is_plain(base, x):
            return None
        down, up = self.lora_A[name], self.lora_B[name]
        plain = _is_plain(down, x, trained=True) and _is_plain(up, x, trained=True)
        if not plain or down.bias is not None or up.bias is not None:
            return None
        return Adapted(base.weight, base.bias, down.weight, up.weight, self.scaling[name])

    def dropped(self, x: Tensor) -> Tensor:
        """What the adapter reads: the input itself where nothing is dropped."""
        (name,) = self.active_adapters
        return cast(Tensor, self.lora_dropout[name](x))

    def _only_adapter(self) -> str | None:
        """The adapter that is on, if it is one and plain LoRA."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        (name,) = self.active_adapters
        return name if name in self.lora_A and name not in self.lora_variant else None


class Waiting:
    """What some layers of a model have made of an input and was not asked for yet.

    A model has one, so that what a pass leaves that breaks off goes with the next group that is computed.
    """

    def __init__(self) -> None:
        self._input: Tensor | None = None
        self._version: int | None = None
        self._outputs: dict[FusedLinear, Tensor] = {}

    def has(self, layer: FusedLinear, x: Tensor) -> bool:
        """Whether the output of a layer is there for this input, as it is now."""
        return x is self._input and _version(x) == self._version and layer in self._outputs

    def put(self, x: Tensor, outputs: dict[FusedLinear, Tensor]) -> None:
        """Keep the outputs of some layers, and no others."""
        self._input, self._version, self._outputs = x, _version(x), outputs

    def take(self, layer: FusedLinear) -> Tensor:
        """The output of a layer, which is given once."""
        output = self._outputs.pop(layer)
        if not self._outputs:
            self._input = None
        return output


class SameInput:
    """Layers that a model calls one after the other on one input: the first call computes them all.

    One that is called on another input than the first, or after that was changed, is computed for what is there.

    Args:
        layers: in the order of their calls.
        waiting: of the model.
    """

    def __init__(self, layers: Sequence[FusedLinear], waiting: Waiting) -> None:
        self._layers, self._waiting = tuple(layers), waiting

    def output(self, layer: FusedLinear, x: Tensor) -> Tensor:
        """What one of the layers, in its plain case, makes of an input: [..., out] from [..., in]."""
        if not self._waiting.has(layer, x):
            asked = self._layers if layer is self._layers[0] else (layer,)
            plain = {one: weights for one in asked if (weights := one.plain(x)) is not None}
            self._waiting.put(x, _outputs(x, plain))
        return self._waiting.take(layer)


def fuse(config: LoraConfig, model: nn.Module) -> None:
    """Have `peft` put `FusedLinear` on the linear layers of a model, unless some of them are quantised."""
    kinds = {type(module) for module in model.modules() if isinstance(module, nn.Linear)}
    if kinds == {nn.Linear}:
        config._register_custom_module({nn.Linear: FusedLinear})


def compute_together(adapted: PeftModel) -> None:
    """Compute the layers together that read the same input, by their names; an encoder's output has readers apart."""
    if adapted.config.is_encoder_decoder:
        return
    waiting = Waiting()
    for module in adapted.modules():
        for names in SAME_INPUT:
            layers = [layer for name in names if isinstance(layer := getattr(module, name, None), FusedLinear)]
            if len(layers) > 1:
                together = SameInput(layers, waiting)
                for layer in layers:
                    layer.group = together


def _is_plain(layer: nn.Module, x: Tensor, *, trained: bool = False) -> bool:
    if type(layer) is not nn.Linear or _is_watched(layer):
        return False
    weight, bias = layer.weight, layer.bias
    return (
        type(weight) is nn.Parameter
        and not hasattr(weight, "device_mesh")
        and not hasattr(weight, "ds_id")  # DeepSpeed's, there while somebody else reads it
        and weight.dtype == x.dtype
        and weight.numel() > 0
        and (bias is None or bias.dtype == x.dtype)
        and (trained or not any(one is not None and one.requires_grad for one in (weight, bias)))
        and not torch.is_autocast_enabled(x.device.type)
        and not torch.compiler.is_compiling()  # the compiler fuses by itself
    )


def _is_watched(layer: nn.Module) -> bool:
    """Whether something happens when a layer is called, besides its own forward: then it has to be called."""
    hooks = layer._forward_pre_hooks, layer._forward_hooks, layer._backward_pre_hooks, layer._backward_hooks
    return any(hooks) or "forward" in vars(layer)


def _version(x: Tensor) -> int | None:
    """How often a tensor was changed in place; None in inference mode, which does not count."""
    return None if x.is_inference() else x._version


def _outputs(x: Tensor, layers: dict[FusedLinear, Adapted]) -> dict[FusedLinear, Tensor]:
    """What each of some layers makes of an input: [..., out] from [..., in]."""
    rows = x.reshape(-1, x.shape[-1])
    read = [layer.dropped(x) for layer in layers]
    dropped = [] if all(one is x for one in read) else [one.reshape(rows.shape) for one in read]
    outputs = adapted_outputs(rows, list(layers.values()), dropped)
    return {layer: output.view(*x.shape[:-1], -1) for layer, output in zip(layers, outputs, strict=True)}
