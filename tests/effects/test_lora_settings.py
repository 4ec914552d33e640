"""Each setting of `lora` and what it does: R15 to R22, B52, Q17 of the specification, and other adapters of peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.effects.small_runs import CONF, material_of, predicted, results, settings_of, trained
from torch import Tensor, nn

from leyden.backbone.adapters import check_adapter
from leyden.backbone.lora import add_adapter
from leyden.backbone.reference import Reference
from leyden.backbone.scoring import base_model
from leyden.backbone.tiny import tiny_model
from leyden.settings.composition import compose_config
from leyden.settings.errors import ConfigError, ModelError
from leyden.settings.model_groups import Adapter, Lora
from leyden.settings.read import read
from leyden.settings.schema import Settings
from leyden.training.assembly import load_backbone

ROWS = {"p": ["red", "green", "blue", "white"] * 3, "a": ["one", "two", "three", "four"] * 3}
CLASSES = {"p": ["red sky", "green sea", "red sun", "green tea"] * 3, "a": [0, 1] * 6}
PAIRS = {**ROWS, "r": ["ten", "six", "nine", "zero"] * 3}
DPO = ["problem=dpo", "dataset.rejected_answer_column=r"]
HEAD = ["problem=classification", "metric=accuracy"]
IDS = torch.arange(20, 31)[None]
LINEARS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
NAMED = ("ia3", "vera", "loha", "lokr", "oft")
EVERY = ("lora", "dora", "rslora", *NAMED)


def composed(*overrides: str, explicit: tuple[str, ...] = ()) -> Settings:
    config, faults = compose_config("train", ["backbone=tiny", *overrides], CONF)
    assert config is not None, faults
    if faults:
        raise ConfigError(faults)
    return read(config, frozenset(explicit))


def adapted(*overrides: str, architecture: str = "llama", base: str = "the-base") -> PeftModel:
    torch.manual_seed(0)
    model = add_adapter(tiny_model(architecture), composed(*overrides).lora, base)
    assert isinstance(model, PeftModel)
    return model


def logits(model: nn.Module) -> Tensor:
    model.eval()
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS, use_cache=False).logits
        return found


def learn(model: nn.Module, rate: float = 1e-2) -> None:
    model.train()
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=rate)
    for _ in range(4):
        optimizer.zero_grad()
        scores = model(input_ids=IDS, use_cache=False).logits[0, :-1].log_softmax(-1)
        (-scores.gather(1, IDS[0, 1:, None]).mean()).backward()
        optimizer.step()


def backbone_of(folder: Path, columns: Any, *overrides: str) -> nn.Module:
    material = material_of(folder, columns, *overrides)
    return load_backbone(settings_of(folder, columns, *overrides), material)[0]


def test_r15_only_adapters_and_the_head_are_trained(tmp_path: Path) -> None:
    text = backbone_of(tmp_path, ROWS)
    assert all(".lora_" in name for name, weight in text.named_parameters() if weight.requires_grad)
    classes = backbone_of(tmp_path, CLASSES, *HEAD)
    rest = [name for name, weight in classes.named_parameters() if weight.requires_grad and ".lora_" not in name]
    assert rest == ["base_model.model.score.modules_to_save.default.weight"]
    whole = backbone_of(tmp_path, ROWS, "lora=none")
    assert all(weight.requires_grad for weight in whole.parameters())


def test_r15_the_frozen_weights_are_the_same_after_training(tmp_path: Path) -> None:
    trained(tmp_path, ROWS, "optimizer.learning_rate=1e-2", "backbone.dtype=float32")
    loaded = PeftModel.from_pretrained(tiny_model("llama"), str(tmp_path / "run" / "model"))
    with loaded.disable_adapter():
        torch.testing.assert_close(logits(loaded), logits(tiny_model("llama")), rtol=0, atol=0)
    assert (logits(loaded) - logits(tiny_model("llama"))).abs().max() > 1e-3


def test_r16_dora_has_a_magnitude_for_each_output() -> None:
    layer = base_model(adapted("lora=dora")).model.layers[0].mlp.up_proj
    assert layer.lora_magnitude_vector["default"].weight.shape == (96,)
    assert not any("magnitude" in name for name, _ in adapted().named_parameters())


@pytest.mark.parametrize(
    ("overrides", "scale"),
    [
        (["lora.r=16", "lora.alpha=16"], 1.0),
        (["lora=rslora", "lora.r=16", "lora.alpha=16"], 4.0),  # R20: alpha / sqrt(r)
        (["lora.r=8", "lora.alpha=12.0"], 1.5),
    ],
)
def test_r17_r18_r20_rank_and_scale(overrides: list[str], scale: float) -> None:
    layer = base_model(adapted(*overrides)).model.layers[1].self_attn.q_proj
    assert layer.lora_A["default"].weight.shape[0] == int(overrides[-2].split("=")[1])
    assert layer.scaling["default"] == pytest.approx(scale)


def test_r19_dropout_is_on_in_training_only() -> None:
    model = adapted("lora.dropout=0.5")
    learn(model)
    assert base_model(model).model.layers[0].self_attn.q_proj.lora_dropout["default"].p == 0.5
    torch.testing.assert_close(logits(model), logits(model), rtol=0, atol=0)
    model.train()
    with torch.no_grad():
        first, second = (model(input_ids=IDS, use_cache=False).logits for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_r21_b52_every_linear_layer_but_the_output_head_is_adapted(architecture: str) -> None:
    model = adapted(architecture=architecture)
    wrapped = {name.split(".")[-1] for name, module in model.named_modules() if hasattr(module, "lora_A")}
    assert wrapped == (LINEARS if architecture == "llama" else {"c_attn", "c_proj", "c_fc"})
    chosen = adapted("lora.target_modules=[q_proj,down_proj]")
    assert {n.split(".")[-1] for n, m in chosen.named_modules() if hasattr(m, "lora_A")} == {"q_proj", "down_proj"}


def test_r21_a_head_in_the_middle_of_a_path_is_no_output_head() -> None:
    model = tiny_model("llama")
    model.model.layers[0].heads = nn.Module()
    model.model.layers[0].heads.q_linear = nn.Linear(64, 64)
    found = add_adapter(model, composed().lora, "the-base")
    wrapped = [name for name, module in found.named_modules() if hasattr(module, "lora_A")]
    assert any(name.endswith("heads.q_linear") for name in wrapped)
    assert not any(name.endswith("lm_head") for name in wrapped)


def test_b52_the_task_of_the_saved_adapter_is_that_of_the_problem(tmp_path: Path) -> None:
    tasks = {
        "CAUSAL_LM": backbone_of(tmp_path, ROWS),
        "SEQ_CLS": backbone_of(tmp_path, CLASSES, *HEAD),
        "SEQ_2_SEQ_LM": backbone_of(tmp_path, ROWS, "problem=seq2seq"),
    }
    for task, model in tasks.items():
        assert isinstance(model, PeftModel)
        assert model.peft_config["default"].task_type == task


def test_r22_unfrozen_layers_are_trained_and_saved_with_the_adapter(tmp_path: Path) -> None:
    trained(tmp_path, ROWS, "lora.unfreeze_layers=[embed]", "optimizer.learning_rate=1e-2", "backbone.dtype=float32")
    loaded = PeftModel.from_pretrained(tiny_model("llama"), str(tmp_path / "run" / "model"))
    embedding = base_model(loaded).model.embed_tokens
    moved = embedding.modules_to_save["default"].weight - embedding.original_module.weight
    assert moved.abs().max() > 1e-3
    torch.testing.assert_close(embedding.original_module.weight, tiny_model("llama").get_input_embeddings().weight)


def test_r22_entries_without_a_match_are_refused() -> None:
    for choice in ("lora", "ia3"):
        with pytest.raises(ModelError, match="lora.unfreeze_layers: 'embd' is part of no weight's name"):
            adapted(f"lora={choice}", "lora.unfreeze_layers=[embd]")


@pytest.mark.parametrize("key", ["r=8", "alpha=2.0", "dropout=0.1", "use_dora=true", "use_rslora=true",
                                 "target_modules=[q_proj]", "unfreeze_layers=[embed]"])  # fmt: skip
def test_q17_a_key_of_lora_without_lora_is_an_error(key: str) -> None:
    with pytest.raises(ConfigError, match="has no effect with lora=none"):
        composed("lora=none", f"lora.{key}")


@pytest.mark.parametrize("name", EVERY)
def test_r15_each_adapter_starts_at_the_base_and_can_be_switched_off_loaded_and_merged(
    name: str, tmp_path: Path
) -> None:
    start = logits(tiny_model("llama"))
    tiny_model("llama").save_pretrained(tmp_path / "base")
    model = adapted(f"lora={name}", base=str(tmp_path / "base"))
    torch.testing.assert_close(logits(model), start, rtol=0, atol=2e-6)
    learn(model)
    after = logits(model)
    assert (after - start).abs().max() > 0.01
    assert Reference(model).kind == "adapter switched off"
    with model.disable_adapter():  # what DPO compares with
        torch.testing.assert_close(logits(model), start, rtol=0, atol=0)
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(tiny_model("llama"), str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(loaded), after, rtol=1e-5, atol=1e-5)  # products in another order
    torch.testing.assert_close(logits(loaded.merge_and_unload()), after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMED)
def test_r15_each_adapter_adapts_every_linear_layer_but_the_head(name: str) -> None:
    model = adapted(f"lora={name}")
    weights = {n: w for n, w in model.named_parameters() if w.requires_grad}
    layers = {n.split(".layers.")[1].split(".")[2] for n in weights if ".layers." in n}
    assert layers == LINEARS
    assert not any("lm_head" in n for n in weights)


@pytest.mark.parametrize("name", ["ia3", "lokr"])
def test_r15_a_whole_run_with_another_adapter(name: str, tmp_path: Path) -> None:
    run = trained(tmp_path, PAIRS, *DPO, f"lora={name}", "optimizer.learning_rate=1e-2", "trainer.epochs=3",
                  "backbone.dtype=float32")  # fmt: skip
    assert results(run)["validation/reward_margin"] > 0.0
    table = predicted(run, tmp_path / "table.jsonl")
    assert table["loss"].mean() == pytest.approx(results(run)["validation/loss"], rel=1e-5)


def test_r22_another_adapter_trains_layers_and_head_beside_it(tmp_path: Path) -> None:
    overrides = [*HEAD, "lora=vera", "lora.r=8", "lora.unfreeze_layers=[norm]"]
    model = backbone_of(tmp_path, CLASSES, *overrides)
    names = {name.removeprefix("base_model.model.") for name, w in model.named_parameters() if w.requires_grad}
    beside = {name for name in names if "vera_lambda" not in name}
    assert "score.modules_to_save.default.weight" in beside
    assert len(beside) == 1 + 2 * 2 + 1
    run = trained(tmp_path, CLASSES, *overrides, "optimizer.learning_rate=1e-2")
    table = predicted(run, tmp_path / "table.jsonl")
    assert table["loss"].mean() == pytest.approx(results(run)["validation/loss"], rel=1e-5)


def test_any_config_class_of_peft_works_by_its_dotted_path() -> None:
    model = adapted("lora=ia3", "lora._target_=peft.HRAConfig", "~lora.feedforward_modules", "+lora.r=2")
    assert base_model(model).model.layers[0].self_attn.q_proj.hra_u["default"].shape == (64, 2)
    transposed = adapted("lora=ia3", architecture="gpt2")
    assert transposed.peft_config["default"].fan_in_fan_out is True


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["lora=ia3", "lora._target_=peft.PromptTuningConfig"], "puts tokens of its own before the text"),
        (["lora=ia3", "lora._target_=peft.PrefixTuningConfig"], "puts tokens of its own before the text"),
        (["lora=ia3", "lora._target_=peft.AdaLoraConfig"], "a call after every step"),
        (["lora=ia3", "lora._target_=peft.AdaptionPromptConfig"], "replaces the attention modules"),
        (["lora=ia3", "lora._target_=peft.LoraConfig", "+lora.init_lora_weights=pissa"], "switching it off"),
        (["lora=ia3", "lora._target_=peft.LoraConfig", "+lora.init_lora_weights=olora"], "switching it off"),
        (["+lora.init_lora_weights=pissa"], "lora.init_lora_weights is not a setting"),
        (["lora=loha", "lora.target_modules=[]"], "leaves nothing to adapt"),
        (["lora=vera", "lora.unfreeze_layers=embed"], r"a list such as \[a,b\]"),
        (["lora=vera", "+lora.alpha=2"], None),
    ],
)
def test_adapters_that_do_not_work_here_are_refused_without_torch(overrides: list[str], fault: str | None) -> None:
    if fault is None:
        composed(*overrides)
        return
    with pytest.raises(ConfigError, match=fault):
        composed(*overrides)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (
            {"_target_": "peft.VeraConfig", "rank": 4},
            r"lora.rank: VeraConfig has no such key here. It has: bias, d_init",
        ),
        ({"_target_": "peft.VeraConfig", "task_type": "SEQ_CLS"}, "lora.task_type: VeraConfig has no such key here"),
        ({"_target_": "peft.NixConfig"}, "lora._target_='peft.NixConfig' cannot be imported"),
        ({"_target_": "peft.PeftModel"}, "is no config class of peft"),
        ({"_target_": "peft.IA3Config", "feedforward_modules": ["x"]}, "lora: .*Its keys must be arguments"),
        ({"_target_": "peft.CPTConfig"}, "puts tokens of its own before the text"),
    ],
)
def test_what_an_adapter_refuses_is_said_before_weights_are_loaded(values: dict[str, Any], fault: str) -> None:
    settings = Adapter.model_validate({"target_modules": ["q_proj"], "unfreeze_layers": [], **values})
    with pytest.raises(ConfigError, match=fault):
        check_adapter(settings)


def test_an_adapter_that_changes_the_base_is_refused() -> None:
    values = {
        "_target_": "peft.LoraConfig",
        "init_lora_weights": "pissa",
        "target_modules": None,
        "unfreeze_layers": [],
    }
    with pytest.raises(ModelError, match="changes the weights under the adapter"):
        add_adapter(tiny_model("llama"), Adapter.model_validate(values), "the-base")


def test_an_adapter_whose_config_the_library_would_not_read_back_is_refused() -> None:
    values = {"_target_": "peft.IA3Config", "target_modules": None, "unfreeze_layers": []}
    with pytest.raises(ModelError, match="cannot be put on this model: `feedforward_modules` should be a subset"):
        add_adapter(tiny_model("llama"), Adapter.model_validate(values), "the-base")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"_target_": "peft.OFTConfig", "oft_block_size": 7}, "Invalid `oft_block_size`"),  # peft takes another one
        ({"_target_": "peft.VeraConfig", "r": 0}, "cannot be put on this model: float division by zero"),
    ],
)
def test_what_peft_would_replace_or_stumble_over_is_refused(values: dict[str, Any], words: str) -> None:
    settings = Adapter.model_validate({"target_modules": None, "unfreeze_layers": [], **values})
    with pytest.raises(ModelError, match=words):
        add_adapter(tiny_model("llama"), settings, "the-base")


def test_weights_that_an_adapter_would_untie_and_models_it_does_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match="several modules share"):
        adapted("lora=ia3", "lora.unfreeze_layers=[embed]", architecture="gemma")
    with pytest.raises(ModelError, match="cannot be put on this model"):
        adapted("lora=oft", architecture="gpt2")
    with pytest.raises(ModelError, match="fits no module. Did you mean q_proj"):
        adapted("lora=ia3", "lora.target_modules=[q_prj]")


def test_the_two_kinds_of_groups_are_told_apart() -> None:
    assert isinstance(composed().lora, Lora)
    assert isinstance(composed("lora=oft").lora, Adapter)
    assert composed("lora=none").lora is None
