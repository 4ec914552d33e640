"""Weights of an earlier run as the start of another (A4), and weights drawn from the seed (X14)."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from leyden.artifacts.predictor import load_predictor
from leyden.settings.errors import ConfigError, ModelError
from leyden.training.assembly import load_backbone
from leyden.training.prepare import prepare
from tests.effects.small_runs import Columns, predicted, results, settings_of, trained

COLUMNS: Columns = {"p": ["one", "two", "three", "four"], "a": ["eins", "zwei", "drei", "vier"],
                    "r": ["uno", "dos", "tres", "cuatro"], "k": ["odd", "even", "odd", "even"]}  # fmt: skip
PROBLEMS: dict[str, tuple[str, ...]] = {
    "causal_lm": ("problem=causal_lm",),
    "dpo": ("problem=dpo", "dataset.rejected_answer_column=r"),
    "classification": ("problem=classification", "dataset.answer_column=k"),
}
QUICK = ("trainer.batch_size=2", "trainer.epochs=2", "optimizer.learning_rate=0.02", "optimizer.weight_decay=0")
CASES = [("lora", "lora"), ("lora", "none"), ("none", "none"), ("none", "lora")]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """A finished run of each problem with an adapter, and one without."""
    found = {}
    for problem, words in PROBLEMS.items():
        for kind in ("lora", "none"):
            folder = tmp_path_factory.mktemp("source")
            found[problem, kind] = trained(folder, COLUMNS, *words, *QUICK, f"lora={kind}")
    return found


def loaded_alone(run: Path, problem: str, base: str | None = None) -> Any:
    """The saved model as transformers and peft load it."""
    model = run / "model"
    adapter = (model / "adapter_config.json").is_file()
    if problem != "classification":
        return (AutoPeftModelForCausalLM if adapter else AutoModelForCausalLM).from_pretrained(model).eval()
    if not adapter:
        return AutoModelForSequenceClassification.from_pretrained(model).eval()
    named = json.loads((model / "adapter_config.json").read_text())["base_model_name_or_path"]
    config = AutoConfig.from_pretrained(model)
    base_model = AutoModelForSequenceClassification.from_pretrained(base or named, config=config)
    return PeftModel.from_pretrained(base_model, model).eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=torch.arange(40, 60)[None]).logits
    return found


@pytest.mark.parametrize(("source", "own"), CASES, ids=["-".join(case) for case in CASES])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_a4_a_run_starts_where_the_earlier_one_ended(
    problem: str, source: str, own: str, sources: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    earlier = sources[problem, source]
    run = trained(
        tmp_path, COLUMNS, *PROBLEMS[problem], *QUICK, f"lora={own}", f"backbone.pretrained_weights={earlier}",
        "trainer.epochs=0", "trainer.evaluate_before_training=true",
    )  # fmt: skip
    before, expected = results(run), results(earlier)
    reference = {"validation/reward_margin", "validation/preference_accuracy", "validation/loss"}
    for name, value in expected.items():
        if name not in ("step", "samples") and not (problem == "dpo" and name in reference):
            assert before[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    if problem == "dpo":  # the reference is the start too
        assert before["validation/loss"] == pytest.approx(0.6931472, abs=1e-5)
        assert before["validation/reward_margin"] == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(
        logits(loaded_alone(run, problem)), logits(loaded_alone(earlier, problem)), rtol=1e-4, atol=1e-4
    )
