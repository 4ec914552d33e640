"""Adapters against peft's own loading, and the weights that are trained beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from leyden.backbone.lora import add_adapter
from leyden.backbone.scoring import base_model
from leyden.backbone.tiny import tiny_model
from leyden.settings.errors import ModelError
from leyden.settings.model_groups import Lora

IDS = torch.arange(20, 31)[None]
LINEARS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def lora(**changes: object) -> Lora:
    values: dict[str, object] = {
        "r": 4, "alpha": 16.0, "dropout": 0.0, "use_dora": False, "use_rslora": False, "target_modules": None,
        "unfreeze_layers": [],
    }  # fmt: skip
    return Lora.model_validate(values | changes)


def adapted(architecture: str = "llama", base_name: str = "the-base", **changes: object) -> PeftModel:
    torch.manual_seed(0)
    model = add_adapter(tiny_model(architecture), lora(**changes), base_name)
    assert isinstance(model, PeftModel)
    return model


def logits(model: nn.Module) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def trained_names(model: nn.Module) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def learn(model: nn.Module) -> None:
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.3)
    for _ in range(2):
        optimizer.zero_grad()
        scores = model(input_ids=IDS, use_cache=False).logits[0, :-1].log_softmax(-1)
        (-scores.gather(1, IDS[0, 1:, None]).mean()).backward()
        optimizer.step()


def in_use(module: nn.Module) -> Tensor:
    """The weight that a module computes with: that of the adapter where it has one."""
    return module.modules_to_save["default"].weight if hasattr(module, "modules_to_save") else module.weight


def test_without_settings_everything_is_trained() -> None:
    model = tiny_model("llama")
    assert add_adapter(model, None, "the-base") is model
    assert trained_names(model) == {name for name, _ in model.named_parameters()}


def test_by_default_every_linear_layer_but_the_head_is_adapted() -> None:
    model = adapted()
    names = trained_names(model)
    assert all("lora_A" in name or "lora_B" in name for name in names)
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in names} == LINEARS
    assert len(names) == 2 * 2 * len(LINEARS)
    assert model.peft_config["default"].base_model_name_or_path == "the-base"
    torch.testing.assert_close(logits(model), logits(tiny_model("llama")), rtol=0, atol=0)


def test_rank_scale_dropout_and_targets_are_those_of_the_settings() -> None:
    model = adapted(r=8, alpha=12.0, dropout=0.25, target_modules=["q_proj", "down_proj"])
    layer = base_model(model).model.layers[0]
    assert layer.self_attn.q_proj.lora_A["default"].weight.shape == (8, 64)
    assert layer.self_attn.q_proj.scaling["default"] == 12 / 8
    assert layer.mlp.down_proj.lora_dropout["default"].p == 0.25
    assert not hasattr(layer.self_attn.v_proj, "lora_A")
    root = base_model(adapted(r=16, alpha=16.0, use_rslora=True)).model.layers[0]
    assert root.self_attn.q_proj.scaling["default"] == 16 / 16**0.5
    assert any("lora_magnitude_vector" in name for name in trained_names(adapted(use_dora=True)))


# peft says this when it loads the tied modules of GPT-2, whose names it does not know, and ties them all the same
@pytest.mark.filterwarnings("ignore:You have requested `ensure_weight_tying`")
@pytest.mark.parametrize("architecture", ["llama", "gemma", "gpt2"])
@pytest.mark.parametrize(
    "entries", [["embed", "wte"], ["head", "embed", "wte"], ["norm", "ln_"], ["layers.0.", "h.0."]]
)
def test_unfrozen_layers_are_trained_saved_and_loaded(architecture: str, entries: list[str], tmp_path: Path) -> None:
    weights = dict(tiny_model(architecture).named_parameters(remove_duplicate=False))
    entries = [entry for entry in entries if any(entry in name for name in weights)]
    base: PreTrainedModel = tiny_model(architecture)
    base.save_pretrained(tmp_path / "base")
    model = adapted(architecture, str(tmp_path / "base"), unfreeze_layers=entries)
    expected = logits(base)
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=0)
    learn(model)
    wanted = {name for name in weights if any(entry in name for entry in entries)}
    moved = 0
    for name in wanted:
        owner, _, attribute = name.rpartition(".")
        module = base_model(model).get_submodule(owner)
        copy = getattr(module.modules_to_save["default"], attribute)
        moved += not torch.equal(copy, weights[name])
    assert moved == len(wanted) > 0
    after = logits(model)
    with model.disable_adapter():
        torch.testing.assert_close(logits(model), expected, rtol=0, atol=0)
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(tiny_model(architecture), tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded), after, rtol=1e-5, atol=1e-5)  # products in another order


@pytest.mark.parametrize("architecture", ["gemma", "gpt2"])
@pytest.mark.parametrize("entry", ["embed", "head"])
def test_tied_weights_stay_tied(architecture: str, entry: str) -> None:
    entry = "wte" if (architecture, entry) == ("gpt2", "embed") else entry
    model = adapted(architecture, unfreeze_layers=[entry])
    learn(model)
    base = base_model(model)
    start = tiny_model(architecture).get_input_embeddings().weight
    assert in_use(base.get_input_embeddings()) is in_use(base.get_output_embeddings())
    assert (in_use(base.get_input_embeddings()) - start).abs().max() > 0.01


# peft says this when it loads the copies, which are equal
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_an_embedding_that_encoder_and_decoder_share_is_trained_saved_and_loaded(tmp_path: Path) -> None:
    tiny_model("t5").save_pretrained(tmp_path / "base")
    model = adapted("t5", str(tmp_path / "base"), unfreeze_layers=["embed"])
    shared = {"shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head"}
    assert len({id(in_use(base_model(model).get_submodule(name))) for name in shared}) == 1
    inputs = {"input_ids": IDS, "decoder_input_ids": IDS, "use_cache": False}
    expected = tiny_model("t5")(**inputs).logits
    torch.testing.assert_close(model.eval()(**inputs).logits, expected)
    model(**inputs).logits.log_softmax(-1)[0, :, 7].sum().backward()
    torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1).step()
    after = model(**inputs).logits
    assert (after - expected).abs().max() > 0.01
    with model.disable_adapter():
        torch.testing.assert_close(model(**inputs).logits, expected)
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(tiny_model("t5"), tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(**inputs).logits, after)


def test_names_that_fit_nothing_are_refused_together() -> None:
    with pytest.raises(ModelError, match=r"'q_prj' fits no module. Did you mean q_proj\?"):
        adapted(target_modules=["q_prj"])
    with pytest.raises(ModelError) as caught:
        adapted(unfreeze_layers=["embd", "norm", "hed"])
    assert [fault.split(":")[1].split()[0] for fault in caught.value.faults] == ["'embd'", "'hed'"]
