"""Runs whose models are exported, what their record says, and ways to damage what they have saved."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tests.effects.small_runs import Columns

from leyden.artifacts import fresh_process

COLUMNS: Columns = {
    "p": ["red", "green sea", "(blue)", "white", "what is it", "why"] * 2,
    "a": ["one", "two", "three and more", "four", "five", "six"] * 2,
    "r": ["ten", "nine", "eight", "seven", "no", "never"] * 2,
    "s": ["be kind", "", "be kind", "be short", "be kind", "be short"] * 2,
    "kind": ["x", "y", "z"] * 4,
    "n": [float(number) for number in range(12)],
    "id": [str(number) for number in range(12)],
    "parent": ["", "0", "1", "", "3", "", "", "6", "7", "", "9", ""],
}

LEARN = ("optimizer.learning_rate=2e-2", "trainer.batch_size=4", "checkpoint.verify=true", "backbone.dtype=float32",
         "optimizer.differential_learning_rate_layers=[]", "trainer.evaluate_before_training=false",
         "generation.max_length_inference=2")  # fmt: skip

DPO = ("problem=dpo", "dataset.rejected_answer_column=r")

CLASSES = ("problem=classification", "dataset.answer_column=kind", "metric=accuracy")

NUMBERS = ("problem=regression", "dataset.answer_column=n")

THREADS = ("dataset.id_column=id", "dataset.parent_id_column=parent", "dataset.system_column=s")


def answer(asked: Mapping[str, Any], scratch: Path) -> dict[str, Any]:
    """What the fresh process would; there a warning of a library is no error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {**fresh_process.answer(json.loads(json.dumps(asked)), scratch), "leyden": []}


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["export"]
    return found


def tampered_weight(run: Path) -> None:
    path = run / "model" / "adapter_model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "lora_B" in name and "down_proj" in name)
    weights[name][0, 0] += 1.0
    save_file(weights, path, metadata={"format": "pt"})


def tampered_template(run: Path) -> None:
    path = run / "model" / "chat_template.jinja"
    text = path.read_text()
    assert "'\n'" in text or "'\\n'" in text
    path.write_text(text.replace("message['role'] + '\n'", "message['role'] + ' '"))
    assert path.read_text() != text


def tampered_token(run: Path) -> None:
    path = run / "model" / "tokenizer.json"
    tree = json.loads(path.read_text())
    names = {token["id"]: token for token in tree["added_tokens"]}
    assert names[260]["content"] == "<|im_end|>"
    names[260]["content"], names[257]["content"] = "<pad>", "<|im_end|>"
    tree["model"]["vocab"] |= {"<pad>": 260, "<|im_end|>": 257}
    path.write_text(json.dumps(tree))


def lost_adapter(run: Path) -> None:
    path = run / "model" / "adapter_model.safetensors"
    weights = {name: weight * ("lora_B" not in name) for name, weight in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


FAULTS = {
    "a weight": (tampered_weight, "its outputs differ from those of the trained model by"),
    "an adapter": (lost_adapter, "its outputs have 0 % of what the training has changed"),
    "a template": (tampered_template, "its tokenizer and chat template write"),
    "a token": (tampered_token, "its tokenizer and chat template write"),
}

QUANTISED = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="the extra quantization is not installed"
)
