"""Names that settings match against, adapter or not."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from leyden.backbone.lora import add_adapter
from leyden.backbone.names import canonical_names, matching
from leyden.backbone.tiny import tiny_model
from leyden.settings.model_groups import Lora


def lora(**changes: object) -> Lora:
    values: dict[str, object] = {
        "r": 4, "alpha": 16.0, "dropout": 0.0, "use_dora": False, "use_rslora": False, "target_modules": None,
        "unfreeze_layers": [],
    }  # fmt: skip
    return Lora.model_validate(values | changes)


def headed(problem_type: str) -> PreTrainedModel:
    config = tiny_model("llama").config
    config.update({"num_labels": 3, "problem_type": problem_type})
    return cast(PreTrainedModel, AutoModelForSequenceClassification.from_config(config))


def test_every_weight_of_a_language_model_is_named_as_in_the_library_after_backbone() -> None:
    model = tiny_model("llama")
    assert list(canonical_names(model)) == [f"backbone.{name}" for name, _ in model.named_parameters()]


def test_a_tied_weight_stands_under_all_its_names() -> None:
    model = tiny_model("gemma")
    names = canonical_names(model)
    assert names["backbone.lm_head.weight"] is names["backbone.model.embed_tokens.weight"]
    assert len(matching(names, "embed")) == 1
    assert matching(names, "head") == matching(names, "embed")


@pytest.mark.parametrize(
    ("problem_type", "own"),
    [("single_label_classification", "classification_head"), ("regression", "regression_head")],
)
@pytest.mark.parametrize("with_adapter", [False, True])
def test_a_head_answers_to_its_names_and_is_no_part_of_the_backbone(
    problem_type: str, own: str, with_adapter: bool
) -> None:
    model: nn.Module = headed(problem_type)
    if with_adapter:
        model = add_adapter(cast(PreTrainedModel, model), lora(), "base", "SEQ_CLS")
    names = canonical_names(model)
    trained = {name for name, weight in names.items() if weight.requires_grad and not name.startswith("backbone.")}
    assert trained == {f"{own}.weight", "value_head.weight", "score.weight"}
    assert [weight.shape[0] for weight in matching(names, own) if weight.requires_grad] == [3]
    assert not {id(weight) for weight in matching(names, "backbone")} & {id(weight) for weight in matching(names, own)}


@pytest.mark.parametrize("use_dora", [False, True])
def test_what_peft_adds_to_a_name_is_taken_out(use_dora: bool) -> None:
    plain = canonical_names(tiny_model("llama"))
    model = add_adapter(tiny_model("llama"), lora(unfreeze_layers=["embed"], use_dora=use_dora), "base")
    names = canonical_names(model)
    assert {id(weight) for weight in names.values()} == {id(weight) for weight in model.parameters()}
    assert len(names) == len(list(model.named_parameters(remove_duplicate=False)))
    assert set(plain) <= set(names)
    added = set(names) - set(plain) - {"backbone.model.embed_tokens.original_module.weight"}
    projection = "backbone.model.layers.0.self_attn.q_proj."
    learned = {"lora_A.weight", "lora_B.weight"} | ({"lora_magnitude_vector.weight"} if use_dora else set())
    assert {name.removeprefix(projection) for name in added if name.startswith(projection)} == learned
    assert all(names[name].requires_grad for name in added)
    assert names["backbone.model.embed_tokens.weight"].requires_grad
    assert not names["backbone.model.embed_tokens.original_module.weight"].requires_grad


def test_a_module_of_its_own_is_named_too() -> None:
    names = canonical_names(nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)))
    assert list(names) == ["backbone.0.weight", "backbone.1.weight"]
    assert torch.equal(names["backbone.0.weight"], matching(names, "0.")[0])
