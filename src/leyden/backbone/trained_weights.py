"""Trained weights on disk: what they are, and whether they mean here what they meant there."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from leyden.backbone.heads import Head
from leyden.settings.errors import ModelError
from leyden.settings.locations import ADAPTER_CONFIG, WEIGHTS_ENDING, weights_path

PREFIX = "base_model.model."
# What differs between two configs of the same function of the weights.
_NOTES = frozenset(
    {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "architectures", "pad_token_id",
     "bos_token_id", "eos_token_id", "num_labels", "id2label", "label2id", "problem_type"}
)  # fmt: skip
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Trained weights on disk.

    Attributes:
        name: as the user wrote it.
        path: a model folder, or a file.
    """

    name: str
    path: Path

    @cached_property
    def files(self) -> list[Path]:
        """The files that hold the weights."""
        return sorted(self.path.glob(f"*{WEIGHTS_ENDING}")) if self.path.is_dir() else [self.path]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The weights by the names they have on disk.

        Raises:
            ModelError: a file cannot be read.
        """
        found: dict[str, Tensor] = {}
        for path in self.files:
            try:
                with safe_open(path, "pt") as file:
                    found |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            except (OSError, SafetensorError) as error:
                raise ModelError(f"{self.setting}: {path.name} cannot be read: {error}. Name another file.") from error
        return found

    @property
    def setting(self) -> str:
        """How errors name it."""
        return f"backbone.pretrained_weights={self.name!r}"

    @property
    def is_adapter(self) -> bool:
        """Whether it holds an adapter alone, not the model under it."""
        return any(key.startswith(PREFIX) for key in self.tensors)

    def json(self, name: str) -> dict[str, Any]:
        """A file of the folder, or of the folder that the file is in; empty where there is none."""
        path = (self.path if self.path.is_dir() else self.path.parent) / name
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found


def find_source(name: str | None) -> Source | None:
    """What `backbone.pretrained_weights` names; None for none."""
    return None if name is None else Source(name, weights_path(name))


def compare_adapters(model: PeftModel, source: Source, base: str, *, scale: bool = True) -> None:
    """Warn where an adapter means something else on this model than on the one it was trained on."""
    theirs = source.json(ADAPTER_CONFIG)
    if not theirs:
        return
    trained_on = str(theirs.get("base_model_name_or_path"))
    # converted checkpoints lie in folders that are named after their content, wherever those are
    if Path(trained_on).name != Path(base).name:
        log.warning("%s was trained on %s, and here on %s.", source.setting, trained_on, base)
    ours = model.peft_config["default"].to_dict()
    keys = ("r", "lora_alpha", "use_rslora", "use_dora") if scale else ()
    different = [f"{key} {theirs[key]}, here {ours[key]}" for key in keys if key in theirs and theirs[key] != ours[key]]
    if different:
        log.warning("%s has another scale than the adapter here (%s).", source.setting, "; ".join(different))


def compare_heads(model: PreTrainedModel, source: Source, head: Head) -> None:
    """Warn where the outputs of a head stand for something else than in the source."""
    theirs = source.json("config.json")
    if head.outputs is None or not theirs:
        return
    names = {str(number): name for number, name in (model.config.id2label or {}).items()}
    ours = {"id2label": names, **{key: getattr(model.config, key) for key, _ in head.extra}}
    different = [key for key, value in ours.items() if key in theirs and _plain(theirs[key]) != _plain(value)]
    if different:
        log.warning(
            "%s: its outputs stand for something else than here (%s of its config.json).",
            source.setting, ", ".join(different),
        )  # fmt: skip


def _plain(value: object) -> object:
    return json.loads(json.dumps(value))


def is_same_model(model: PreTrainedModel, source: Source) -> bool:
    """Whether the source's folder holds a whole model, which computes what this one does with the same weights."""
    if not source.path.is_dir() or not (source.path / "config.json").is_file():
        return False
    theirs = AutoConfig.from_pretrained(str(source.path)).to_dict()
    ours = model.config.to_dict()
    return all(theirs.get(key) == value for key, value in ours.items() if key not in _NOTES)
