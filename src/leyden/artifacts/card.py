"""The model card, `README.md` beside the weights: what people and the hub read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from transformers import PreTrainedTokenizerBase

from leyden import __version__
from leyden.artifacts.card_limits import limits
from leyden.artifacts.card_loading import loading, servers
from leyden.artifacts.card_prompt import prompt_format
from leyden.artifacts.markdown import code, seen, table
from leyden.artifacts.summary import number
from leyden.problem.base import Problem
from leyden.settings.locations import HUB, HUB_ID, TINY, WHEEL, hub_table, table_path
from leyden.settings.read import dump
from leyden.settings.schema import Settings
from leyden.settings.wording import show

MATTER = (  # settings that decide what a model is
    "problem.loss._target_", "problem.loss.beta", "problem.loss.gamma", "backbone.pretrained", "backbone.dtype",
    "lora._target_", "lora.r", "lora.alpha", "lora.dropout", "lora.use_dora", "lora.use_rslora", "lora.target_modules",
    "lora.unfreeze_layers", "optimizer._target_", "optimizer.learning_rate", "optimizer.weight_decay",
    "schedule._target_", "schedule.warmup_epochs", "trainer.epochs", "trainer.batch_size",
    "trainer.grad_accumulation", "trainer.gradient_clip", "trainer.precision", "tokenizer.max_length",
    "dataset.mask_prompt_labels", "dataset.only_last_answer", "augmentation.token_mask_probability",
    "augmentation.neftune_noise_alpha", "checkpoint.policy", "seed",
)  # fmt: skip
COLUMNS = (
    "messages_column", "system_column", "prompt_column", "answer_column", "rejected_prompt_column",
    "rejected_answer_column", "parent_id_column", "id_column", "weight_column",
)  # fmt: skip
COUNTED = ("rows", "samples", "tokens", "tokens to predict", "labels to predict")
VERSIONS = ("torch", "transformers", "tokenizers", "peft", "safetensors")
TASKS = {"single_label_classification": "text-classification", "multi_label_classification": "text-classification"}


@dataclass(frozen=True)
class Card:
    """What a card is written from.

    Attributes:
        settings: of the run.
        problem: of the run.
        tokenizer: of the run, with the chat template that is saved.
        counts: of `manifest.json`: what was read, cut and left out, by part and name.
        results: of `results.json`.
        packages: versions that trained it, by name.
        base: folder or hub id of what an adapter lies on; None for a whole model.
        checked: what the check in a fresh process has found; None before it, or without one.
        gguf: name of the one file of weights; None where they are safetensors.
    """

    settings: Settings
    problem: Problem
    tokenizer: PreTrainedTokenizerBase
    counts: Mapping[str, Mapping[str, Any]]
    results: Mapping[str, Any]
    packages: Mapping[str, str]
    base: str | None = None
    checked: Mapping[str, Any] | None = None
    gguf: str | None = None

    @property
    def kind(self) -> str:
        """Name of the problem type."""
        return self.settings.problem.target.rpartition(".")[2]

    def text(self) -> str:
        """The whole card."""
        front = yaml.safe_dump(self.metadata(), sort_keys=False, allow_unicode=True)
        train = self.counts.get("train", {})
        packages = ", ".join(f"{name} {self.packages[name]}" for name in VERSIONS if name in self.packages)
        sections = {
            "Use and limits": limits(self.settings, self.problem),
            "How a prompt is written": prompt_format(
                self.settings, self.problem, self.tokenizer, train, self.checked
            ),
            "How to load it": self._loading(),
            "Data": self._data(),
            "Results": self._results(),
            "Settings": self._settings(),
            "Versions": f"Python packages of the training: {packages}.",
        }  # fmt: skip
        opening = f"Fine-tuned with Leyden {__version__}."
        if self.base:
            opening += f"\n\nIt is an adapter, which needs the base that it was trained on: {code(self.base)}."
        parts = [f"# {self.kind} of {code(_shown(self.settings.backbone.name))}", opening]
        parts += [f"## {name}\n\n{text}" for name, text in sections.items()]
        return f"---\n{front}---\n\n" + "\n\n".join(parts) + "\n"

    def metadata(self) -> dict[str, Any]:
        """The front matter; what is not known is left out, such as a licence or a language."""
        name, found = self.settings.backbone.name, dict[str, Any]()
        if self.gguf is None:
            found["library_name"] = "transformers" if self.base is None else "peft"
        if is_hub_id(name):
            found["base_model"] = name
        if (task := self._task()) is not None:
            found["pipeline_tag"] = task
        adapter = ["lora"] if self.settings.lora is not None and self.base else []
        found["tags"] = ["leyden", self.kind.lower(), *adapter, *(["gguf"] if self.gguf else [])]
        tables = [hub_table(table) for table in self.settings.dataset.train_tables]
        if datasets := list(dict.fromkeys(table.path for table in tables if table is not None)):
            found["datasets"] = datasets
        if task is not None and (metrics := self._measured()):
            data = {"name": "held-out rows", "type": datasets[0] if datasets else "table"}
            found["model-index"] = [
                {
                    "name": f"{self.kind} of {seen(_shown(name))}",
                    "results": [{"task": {"type": task}, "dataset": data, "metrics": metrics}],
                }
            ]
        return found

    def _task(self) -> str | None:
        """The hub's word for what the model does, where it has one."""
        head = self.problem.head
        if head.outputs is not None:
            return TASKS.get(head.problem_type or "")
        return "text-generation" if head.family == "decoder" else None

    def _kept(self) -> Mapping[str, Any]:
        """Numbers of the evaluation of the weights that are saved."""
        return self.results.get(self.settings.checkpoint.kept) or self.results.get("final") or {}

    def _measured(self) -> list[dict[str, Any]]:
        return [
            {"type": key.removeprefix("validation/"), "value": float(value), "name": key}
            for key, value in self._kept().items()
            if key.startswith("validation/") and isinstance(value, int | float) and math.isfinite(value)
        ]

    def _results(self) -> str:
        before, kept = self.results.get("before") or {}, self._kept()
        names = [name for name in kept if name.startswith("validation/")]
        if not names:
            return "It was not evaluated."
        rows = [[code(name), _number(before.get(name)), _number(kept[name])] for name in names]
        at = f"after {kept.get('step', '?')} updates, which saw {kept.get('samples', '?')} samples"
        said = table(["on held-out rows", "before training", "this model"], rows)
        lines = [f"The numbers are of the evaluation {at}."]
        if seen_before := self.counts.get("validation", {}).get("rows also in training"):
            lines.append(f"{seen_before:,} of these rows stand in training too: on them the numbers measure memory.")
        if self.settings.dataset.train_validation_data:
            lines.append("All of these rows were trained on as well, so the numbers say nothing about new ones.")
        return f"{said}\n\n{' '.join(lines)}"

    def _settings(self) -> str:
        tree, rows = dump(self.settings), []
        for key in MATTER:
            value: Any = tree
            for part in key.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if value:
                rows.append([code(key), code(value if isinstance(value, str) else show(value))])
        return f"{table(['setting', 'value'], rows)}\n\nWhat is off, none or 0 is left out."

    def _data(self) -> str:
        data = self.settings.dataset
        columns = [
            f"{name.removesuffix('_column').replace('_', ' ')}: {_names(value)}"
            for name in COLUMNS
            if (value := getattr(data, name))
        ]
        parts = {name: part for name, part in self.counts.items() if part}
        counted = [key for key in COUNTED if any(key in part for part in parts.values())]
        rows = [[name, *(f"{part.get(key, 0):,}" for key in counted)] for name, part in parts.items()]
        return (
            f"Trained on {_names([_shown_table(name) for name in data.train_tables])}. No row of it is in this folder."
            f"\n\n{table(['part', *counted], rows)}\n\nColumns: {'; '.join(columns) or 'none named'}."
        )

    def _loading(self) -> str:
        if self.gguf is not None:
            return servers(self.problem, self.base, self.gguf)
        code_of = loading(self.settings, self.problem, self.base)
        return f"```python\n{code_of}\n```\n\n{servers(self.problem, self.base, None)}".rstrip()


def is_hub_id(name: str) -> bool:
    """Whether a backbone is named as the hub names it, and is no path of this machine."""
    return "/" in name and HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def _shown(backbone: str) -> str:
    """A backbone without the folders of this machine."""
    return backbone if is_hub_id(backbone) or backbone.startswith((WHEEL, TINY)) else Path(backbone).name


def _shown_table(name: str) -> str:
    """A table without the folders of this machine."""
    return name if name.startswith(HUB) else table_path(name).name


def _names(value: str | list[str]) -> str:
    return ", ".join(map(code, [value] if isinstance(value, str) else value))


def _number(value: Any) -> str:
    return number(float(value)) if isinstance(value, int | float) else "-"
