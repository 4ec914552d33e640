"""The model as it was before training: the adapter switched off, or a frozen copy."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.func import functional_call

from leyden.backbone.scoring import base_model, target_logps
from leyden.data.batches import Batch


class Reference:
    """Log-probabilities under the starting point: never in training mode, never with a gradient.

    With an adapter that holds everything that is trained and starts from nothing, it is the adapter switched off and
    costs no memory. Otherwise it is a copy of the weights that are trained, made by `prepare` before the first update;
    those that are not trained serve both. The copy is no part of any module, so no optimizer, checkpoint or `train()`
    reaches it.

    Args:
        model: the model in training.
        learned: whether its adapter has learned before, so that switching it off goes back too far.
    """

    def __init__(self, model: nn.Module, *, learned: bool = False) -> None:
        self._model = model
        self.start: dict[str, Tensor] = {}
        self.kind = "adapter switched off" if adapter_holds_all(model) and not learned else "frozen copy"

    def prepare(self, start: Mapping[str, Tensor] | None = None) -> None:
        """Keep the weights as they are now, if switching the adapter off would not give them back.

        Args:
            start: the starting point itself, by the model's names, when the model has been trained already; None
                copies what is trained now.
        """
        if start is not None:
            self.kind, self.start = "frozen copy", {name: weight.detach() for name, weight in start.items()}
        elif self.kind == "frozen copy" and not self.start:
            trained = ((name, weight) for name, weight in self._model.named_parameters() if weight.requires_grad)
            self.start = {name: weight.detach().clone() for name, weight in trained}

    def release(self) -> None:
        """Give the memory of a copy back: every score that will be asked for is known."""
        self.start = {}

    def key(self) -> str:
        """Content hash of the starting point: each of its weights and buffers, and how the model computes with them.

        An adapter that is switched off is no part of it, so that runs with other adapters, or with none, share it; nor
        is dropout, which a reference never has. A quantised weight counts with its scales.
        """
        found: dict[str, str] = {}
        known: dict[tuple[int, torch.Size, torch.dtype], str] = {}
        for name, value in self._model.state_dict().items():
            if self.kind == "frozen copy" or not _is_adapter(self._model, name):
                found[_plain(name)] = _content(self.start.get(name, value), known)
        base = base_model(self._model)
        config = {key: value for key, value in base.config.to_dict().items() if not _is_note(key)}
        adapter: dict[str, Any] = {}
        if self.kind == "frozen copy" and isinstance(self._model, PeftModel):
            adapter = {
                key: value for key, value in self._model.peft_config["default"].to_dict().items() if not _is_note(key)
            }
        parts = [type(base).__name__, sorted(found.items()), config, adapter]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=_written).encode()).hexdigest()

    def logps(self, batch: Batch) -> Tensor:
        """Log-probability of each target under the starting point: [N], float32, nats; no token of it is hidden."""
        batch = batch.without_noise()
        with torch.no_grad(), evaluation_mode(self._model):
            if self.kind == "frozen copy":
                if not self.start:
                    raise RuntimeError("The reference was not prepared before training.")
                weights = self._beside_the_model()
                return cast(Tensor, functional_call(_Scored(self._model), weights, (batch,)))
            assert isinstance(self._model, PeftModel)
            with self._model.disable_adapter():
                return target_logps(self._model, batch)

    def _beside_the_model(self) -> dict[str, Tensor]:
        """The copy on the device and in the type that the model has by now, by the names that `_Scored` has for it."""
        weights = dict(self._model.named_parameters())
        self.start = {name: kept.to(weights[name].device, weights[name].dtype) for name, kept in self.start.items()}
        return {f"model.{name}": kept for name, kept in self.start.items()}


class _Scored(nn.Module):
    """Scoring as a module, which `functional_call` can run with other weights."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        return target_logps(self.model, batch)


def adapter_holds_all(model: nn.Module) -> bool:
    """Whether everything that is trained belongs to an adapter that can be switched off."""
    if not isinstance(model, PeftModel):
        return False
    return all(_is_adapter(model, name) for name, weight in model.named_parameters() if weight.requires_grad)


def _is_adapter(model: nn.Module, name: str) -> bool:
    """Whether a weight belongs to the adapter that is trained on the model, by its name in the model."""
    return isinstance(model, PeftModel) and (str(model.base_model.prefix) in name or "modules_to_save" in name)


def _plain(name: str) -> str:
    """The name of a weight without what `peft` puts around it."""
    for part in ("base_model.model.", ".base_layer", ".original_module"):
        name = name.replace(part, "", 1)
    return name


def _is_note(key: str) -> bool:
    """Whether an entry of a config says where it comes from or how to train, and nothing about a score."""
    notes = (
        "transformers_version", "architectures", "use_cache", "base_model_name_or_path", "revision", "inference_mode",
        "peft_version",
    )  # fmt: skip
    return key.startswith("_") or key.endswith(("dropout", "pdrop")) or key in notes


def _content(value: object, known: dict[tuple[int, torch.Size, torch.dtype], str]) -> str:
    """Hash of a weight with its type and shape; one that several names share is read once."""
    if not isinstance(value, Tensor):
        return repr(value)
    place = (value.data_ptr(), value.shape, value.dtype)
    if place not in known:
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest = hashlib.sha256(raw.data).hexdigest()
        known[place] = f"{digest} {value.dtype} {list(value.shape)}"
    return known[place]


def _written(value: object) -> object:
    """What JSON has no word for: the names in a set have no order of their own."""
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)


@contextmanager
def adapter_off(model: PeftModel) -> Iterator[None]:
    """Switch the adapter off, and on again; biases that were trained beside it stay as they are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Careful, disabling adapter layers with bias")
        with model.disable_adapter():
            yield


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch dropout and the like off, and back to what each module was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
