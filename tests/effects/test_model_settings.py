"""Gradient checkpointing, dropout and frozen layers (A2, A3, R5), on the tiny backbone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.effects.small_runs import Columns, settings_of, trained
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from leyden.backbone.checkpoint import find_checkpoint
from leyden.backbone.dropout import set_dropout
from leyden.backbone.load import load_model
from leyden.backbone.names import canonical_names
from leyden.backbone.scoring import base_model, target_logps
from leyden.backbone.segments import dense_attention, segment_attention
from leyden.data.batches import Batch, Segments
from leyden.data.collation import pack
from leyden.data.trees import Segment, build_tree
from leyden.settings.errors import ConfigError, ModelError
from leyden.training.assembly import load_backbone
from leyden.training.optimizer import parameter_groups
from leyden.training.prepare import prepare

COLUMNS: Columns = {"p": ["one", "two", "three", "four"], "a": ["eins", "zwei", "drei", "vier"],
                    "k": ["odd", "even", "odd", "even"], "n": [1.0, 2.0, 3.0, 4.0]}  # fmt: skip
QUICK = ("trainer.batch_size=2", "trainer.epochs=2", "optimizer.learning_rate=0.02")
HEADS = {
    "classification": ("problem=classification", "dataset.answer_column=k"),
    "regression": ("problem=regression", "dataset.answer_column=n"),
}
# By the library's own documentation of each config.
FIELDS = {
    "llama": {"attention_dropout"},
    "gpt2": {"resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout"},
    "gpt_neox": {"attention_dropout", "hidden_dropout", "classifier_dropout"},
    "opt": {"dropout", "attention_dropout"},
    "bloom": {"attention_dropout", "hidden_dropout"},
    "falcon": {"attention_dropout", "hidden_dropout"},
    "phi": {"resid_pdrop", "embd_pdrop", "attention_dropout"},
    "phi3": {"resid_pdrop", "embd_pdrop", "attention_dropout"},
    "t5": {"dropout_rate", "classifier_dropout"},
    "bert": {"hidden_dropout_prob", "attention_probs_dropout_prob"},
    "bart": {"dropout", "attention_dropout", "activation_dropout", "classifier_dropout"},
}


def loaded(folder: Path, *words: str) -> Any:
    settings = settings_of(folder, COLUMNS, "lora=none", *words)
    return load_backbone(settings, prepare(settings))[0]


def batch(length: int = 40) -> Batch:
    pair = [Segment([5, 6, 7, 8], False), Segment([9, 10, 11], True, 0, 0), Segment([12, 13], True, 0, 1)]
    return pack([build_tree(pair, 2), build_tree([Segment(list(range(20, 20 + length)), True)])], [0, 1])


def kept_bytes(model: Any, own: Batch) -> int:
    """What a forward pass keeps for the backward pass, weights aside, each storage once."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def pack_hook(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda tensor: tensor):
        loss = -target_logps(model, own).mean()
    loss.backward()
    return sum(kept.values())


@pytest.mark.parametrize("lora", ["none", "lora"])
def test_a2_checkpointing_keeps_less_and_changes_neither_loss_nor_gradient(lora: str, tmp_path: Path) -> None:
    found = []
    for on in ("false", "true"):
        torch.manual_seed(0)
        settings = settings_of(
            tmp_path, COLUMNS, f"lora={lora}", f"backbone.gradient_checkpointing={on}",
            *(("lora.dropout=0",) if lora == "lora" else ()),
        )  # fmt: skip
        model = load_backbone(settings, prepare(settings))[0]
        assert base_model(model).config.use_cache is False
        loss = -target_logps(model, batch()).mean()
        loss.backward()
        gradients = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
        found.append((loss.detach(), gradients, kept_bytes(model, batch(150))))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=0)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-6, atol=1e-7)
    assert found[1][2] < 0.5 * found[0][2]


@pytest.mark.parametrize("family", FIELDS)
def test_a3_every_dropout_field_of_a_config_is_set(family: str) -> None:
    config = AutoConfig.for_model(family)
    assert set(set_dropout(config, 0.125)) == FIELDS[family]
    assert all(getattr(config, name) == 0.125 for name in FIELDS[family])
    assert getattr(config, "layerdrop", 0.0) == 0.0


def test_a3_configs_inside_a_config_are_set_too() -> None:
    config = AutoConfig.for_model("gemma3")
    assert "text_config.attention_dropout" in set_dropout(config, 0.25)
    assert config.text_config.attention_dropout == 0.25


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a3_dropout_is_on_in_training_and_off_in_evaluation(family: str, tmp_path: Path) -> None:
    name = f"backbone.name=tiny:{family}"
    outputs = {}
    for value in ("null", "0", "0.3"):
        model = loaded(tmp_path, name, f"backbone.intermediate_dropout={value}")
        modes = []
        for training in (True, False):
            model.train(training)
            with torch.no_grad():
                modes.append([target_logps(model, batch()) for _ in range(2)])
        outputs[value] = modes
        fields = FIELDS[family] if value != "null" else set()
        assert all(getattr(base_model(model).config, field) == float(value) for field in fields)
    assert not torch.equal(*outputs["0.3"][0])
    for value in outputs:
        assert torch.equal(*outputs[value][1])
        torch.testing.assert_close(outputs[value][1][0], outputs["0"][1][0], rtol=0, atol=0)
    assert torch.equal(*outputs["0"][0])
    # the model's own: none for Llama, a tenth for GPT-2, which 0 would have switched off (B51)
    assert torch.equal(*outputs["null"][0]) is (family == "llama")


@pytest.mark.parametrize("attend", [segment_attention, dense_attention])
def test_a3_our_attention_drops_the_share_that_the_model_asks_for(attend: Any) -> None:
    """With values of 1 the first token of each sample sees itself alone: its output is 0, or 1 / (1 - p)."""
    torch.manual_seed(0)
    segments = Segments(starts=(0, 3, 5), ends=(3, 5, 8), parents=(-1, 0, -1))
    query, ones, p = torch.randn(1, 512, 8, 4), torch.ones(1, 512, 8, 4), 0.25
    output, _ = attend(torch.nn.Module(), query, query, ones, None, segments=segments, dropout=p, scaling=None)
    for token in (0, 5):
        seen = output[0, token, :, 0]
        assert set((seen * (1 - p)).round(decimals=4).tolist()) == {0.0, 1.0}
        assert float((seen == 0).float().mean()) == pytest.approx(p, abs=0.08)
    assert float(output.mean()) == pytest.approx(1, abs=0.05)
    calm, _ = attend(torch.nn.Module(), query, query, ones, None, segments=segments, dropout=0.0, scaling=None)
    torch.testing.assert_close(calm, torch.ones_like(calm))


def test_a3_a_model_without_dropout_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = AutoConfig.for_model("mamba", hidden_size=16, num_hidden_layers=1, vocab_size=300, state_size=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "mamba")
    settings = settings_of(
        tmp_path, COLUMNS, f"backbone.name={tmp_path}/mamba", "backbone.intermediate_dropout=0.1"
    ).backbone
    with caplog.at_level(logging.WARNING, "leyden"):
        load_model(find_checkpoint(settings), settings, torch.float32)
    assert "backbone.intermediate_dropout=0.1 has no effect: the config of a mamba has no dropout" in caplog.text


@pytest.mark.parametrize("value", ["1", "-0.1"])
def test_a3_a_share_out_of_range_is_refused(value: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"backbone.intermediate_dropout=.* at least 0, below 1"):
        settings_of(tmp_path, COLUMNS, f"backbone.intermediate_dropout={value}")


@pytest.mark.parametrize("entries", ["[embed]", "[layers.0.,norm]", "[lm_head]"])
def test_r5_frozen_weights_stay_as_they_were_and_are_not_in_the_optimizer(entries: str, tmp_path: Path) -> None:
    words = ("lora=none", f"backbone.freeze_layers={entries}")
    model = loaded(tmp_path, *words)
    wanted = {name for name in canonical_names(model) if any(entry in name for entry in entries[1:-1].split(","))}
    frozen = {f"backbone.{name}" for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == wanted
    moved = [id(weight) for group in parameter_groups(model, 0.1) for weight in group["params"]]
    assert not set(moved) & {id(canonical_names(model)[name]) for name in wanted}
    start = {f"backbone.{name}": weight.detach().clone() for name, weight in model.named_parameters()}
    run = trained(tmp_path, COLUMNS, *QUICK, *words, "optimizer.weight_decay=0.1")
    after = {f"backbone.{name}": weight for name, weight in load_file(run / "model" / "model.safetensors").items()}
    assert after.keys() == start.keys()
    assert {name for name in start if torch.equal(start[name], after[name])} == wanted


@pytest.mark.parametrize("problem", HEADS)
def test_r5_a_head_is_frozen_by_any_of_its_names(problem: str, tmp_path: Path) -> None:
    for entry in ("head", f"{problem}_head", "value_head", "score"):
        model = loaded(tmp_path, *HEADS[problem], f"backbone.freeze_layers=[{entry}]")
        assert [name for name, weight in model.named_parameters() if not weight.requires_grad] == ["score.weight"]
    model = loaded(tmp_path, *HEADS[problem], "backbone.freeze_layers=[backbone]")
    assert [name for name, weight in model.named_parameters() if weight.requires_grad] == ["score.weight"]


def test_r5_what_cannot_be_frozen_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"backbone.freeze_layers=\['embed'\] does not go with an adapter"):
        settings_of(tmp_path, COLUMNS, "lora=lora", "backbone.freeze_layers=[embed]")
    with pytest.raises(ModelError) as caught:
        loaded(tmp_path, "backbone.freeze_layers=[embd,norm,qqq]")
    assert [fault.split(":")[1].split()[0] for fault in caught.value.faults] == ["'embd'", "'qqq'"]
    assert "Names look like backbone.model.embed_tokens.weight" in str(caught.value)
    with pytest.raises(ModelError, match=r"freezes every weight of LlamaForCausalLM"):
        loaded(tmp_path, "backbone.freeze_layers=[backbone]")
    with pytest.raises(ConfigError, match=r"backbone.freeze_layers"):
        settings_of(tmp_path, COLUMNS, "lora=none", "backbone.freeze_layers=['']")


def test_r5_a_tied_weight_is_frozen_by_either_name(tmp_path: Path) -> None:
    for entry in ("embed", "lm_head"):
        model = loaded(tmp_path, "backbone.name=tiny:gemma", f"backbone.freeze_layers=[{entry}]")
        assert not model.get_input_embeddings().weight.requires_grad
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
