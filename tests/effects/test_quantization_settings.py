"""Backbones in 8 and 4 bits under an adapter (A1, R22, B53), with the real library on the CPU."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from tests.effects.small_runs import Columns, predicted, results, settings_of, trained
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from leyden.backbone import quantization
from leyden.backbone.load import Chosen, choose_dtype, weight_type
from leyden.backbone.quantization import keep_gradients_right, quantization_config
from leyden.backbone.scoring import base_model, target_logps
from leyden.backbone.tiny import tiny_model
from leyden.data.batches import Batch
from leyden.data.collation import pack
from leyden.data.trees import Segment, build_tree
from leyden.settings import checks_model
from leyden.settings.errors import ConfigError, ModelError
from leyden.training.assembly import load_backbone
from leyden.training.prepare import prepare

if importlib.util.find_spec("bitsandbytes") is None:
    pytest.skip("the extra quantization is not installed", allow_module_level=True)

COLUMNS: Columns = {"p": ["one", "two", "three", "four"], "a": ["eins", "zwei", "drei", "vier"],
                    "r": ["uno", "dos", "tres", "cuatro"], "k": ["odd", "even", "odd", "even"]}  # fmt: skip
QUICK = ("trainer.batch_size=2", "trainer.epochs=2", "optimizer.learning_rate=0.02")
# Largest relative error of the loss, and smallest cosine of all LoRA gradients with those in float32.
TOLERANCES = {"int8": (0.002, 0.999), "int4": (0.005, 0.9)}


def loaded(folder: Path, *words: str) -> Any:
    settings = settings_of(folder, COLUMNS, "lora.dropout=0", *words)
    return load_backbone(settings, prepare(settings))[0]


def batch() -> Batch:
    pair = [Segment([5, 6, 7, 8], False), Segment([9, 10, 11], True, 0, 0), Segment([12, 13], True, 0, 1)]
    return pack([build_tree(pair, 2), build_tree([Segment(list(range(20, 60)), True)])], [0, 1])


def step(model: Any) -> tuple[float, Tensor]:
    """The loss and all LoRA gradients of one batch, with adapters that have learned something."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.copy_(0.05 * torch.randn(weight.shape))
    loss = -target_logps(model, batch()).mean()
    model.zero_grad()
    loss.backward()
    found = [weight.grad.flatten() for _, weight in model.named_parameters() if weight.requires_grad]
    return float(loss.detach()), torch.cat(found).float()


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a1_a_step_is_near_that_of_the_unquantised_model(dtype: str, tmp_path: Path) -> None:
    expected, gradient = step(loaded(tmp_path))
    model = loaded(tmp_path, f"backbone.dtype={dtype}")
    kind = {"int8": "Linear8bitLt", "int4": "Linear4bit"}[dtype]
    layer = base_model(model).model.layers[0].mlp.up_proj.base_layer
    assert type(layer).__name__ == kind
    assert not layer.weight.is_floating_point()
    assert base_model(model).get_input_embeddings().weight.dtype == torch.float32
    loss, found = step(model)
    error, cosine = TOLERANCES[dtype]
    print(
        dtype,
        loss,
        expected,
        float(torch.cosine_similarity(found, gradient, 0)),
        (found - gradient).norm() / gradient.norm(),
    )
    assert loss == pytest.approx(expected, rel=error)
    assert loss != expected
    assert float(torch.cosine_similarity(found, gradient, 0)) > cosine


def test_a1_gradients_stay_right_after_an_evaluation(tmp_path: Path) -> None:
    """The kernel for inference, which some processors have, would repack the weights and spoil later gradients."""
    model = loaded(tmp_path, "backbone.dtype=int4")
    maps = [module for module in model.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    assert len(maps) == 14
    assert not any(module.support_avx512bf16_for_cpu for module in maps)
    before = step(model)
    model.eval()
    with torch.no_grad():
        target_logps(model, batch())
    model.train()
    after = step(model)
    assert after[0] == before[0]
    torch.testing.assert_close(after[1], before[1], rtol=0, atol=0)
    for module in maps:
        module.support_avx512bf16_for_cpu = True  # as the library finds it on such a processor
    keep_gradients_right(model)
    assert not any(module.support_avx512bf16_for_cpu for module in maps)


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16), ("bf16-true", torch.bfloat16),
     ("16-mixed", torch.float16), ("16-true", torch.float16)],
)  # fmt: skip
def test_b53_quantised_weights_are_multiplied_in_the_type_of_the_arithmetic(
    precision: str, expected: torch.dtype, tmp_path: Path
) -> None:
    chosen = choose_dtype("int4", torch.device("cpu"), precision)
    assert chosen.effective == "int4"
    assert str(expected).removeprefix("torch.") in chosen.reason
    assert weight_type(chosen, precision) == expected
    assert weight_type(Chosen("auto", "float32"), precision) == torch.float32
    if precision in ("32-true", "bf16-mixed"):
        model = loaded(tmp_path, "backbone.dtype=int4", f"trainer.precision={precision}")
        assert base_model(model).model.layers[0].mlp.up_proj.base_layer.compute_dtype == expected


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=torch.arange(40, 60)[None]).logits
    return found


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a1_a_run_trains_and_its_model_loads_without_our_code(dtype: str, precision: str, tmp_path: Path) -> None:
    words = ("problem=dpo", "dataset.rejected_answer_column=r", f"trainer.precision={precision}")
    run = trained(tmp_path, COLUMNS, *QUICK, *words, f"backbone.dtype={dtype}")
    assert results(run)["validation/loss"] < 0.68
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    said = manifest["effective"]["backbone.dtype"]
    assert said["effective"] == dtype
    assert "computes in" in said["reason"]
    assert "bitsandbytes" in manifest["packages"]
    if precision != "32-true":
        return
    on_float = AutoPeftModelForCausalLM.from_pretrained(run / "model").eval()
    base = AutoModelForCausalLM.from_pretrained(
        on_float.peft_config["default"].base_model_name_or_path,
        quantization_config=BitsAndBytesConfig(
            load_in_8bit=dtype == "int8", load_in_4bit=dtype == "int4", bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
        ),
        dtype=torch.float32, device_map={"": "cpu"},
    )  # fmt: skip
    on_quantised = PeftModel.from_pretrained(base, run / "model").eval()
    with on_float.disable_adapter():
        assert (logits(on_float) - logits(AutoModelForCausalLM.from_pretrained(
            on_float.peft_config["default"].base_model_name_or_path))).abs().max() == 0  # fmt: skip
    assert 0 < (logits(on_float) - logits(on_quantised)).abs().max() < 2
    table = predicted(run, tmp_path / "table.jsonl", "dataset.rejected_answer_column=r")
    at_the_end = pd.read_csv(run / "predictions.csv")
    for name in at_the_end.select_dtypes("number"):
        torch.testing.assert_close(
            torch.tensor(table[name].to_numpy()), torch.tensor(at_the_end[name].to_numpy()), rtol=1e-3, atol=1e-3
        )


def test_r22_only_weights_in_floating_point_are_trained_beside_an_adapter(tmp_path: Path) -> None:
    words = ("backbone.dtype=int4", "lora.unfreeze_layers=[embed,norm]")
    run = trained(tmp_path, COLUMNS, *QUICK, *words)
    start = AutoModelForCausalLM.from_pretrained(
        json.loads((run / "model" / "adapter_config.json").read_text())["base_model_name_or_path"]
    )
    saved = load_file(run / "model" / "adapter_model.safetensors")
    moved = saved["base_model.model.model.embed_tokens.weight"] - start.get_input_embeddings().weight
    assert moved.abs().max() > 0.01
    with pytest.raises(ModelError, match=r"fits 2 quantised weights, such as model.layers.0.mlp.up_proj.weight"):
        loaded(tmp_path, "backbone.dtype=int8", "lora.unfreeze_layers=[up_proj]")


def test_a1_a_vocabulary_grows_above_quantised_layers(tmp_path: Path) -> None:
    words = ("tokenizer.add_prompt_answer_tokens=true", "lora.unfreeze_layers=[embed,lm_head]")
    run = trained(tmp_path, COLUMNS, *QUICK, *words, "backbone.dtype=int4")
    table = predicted(run, tmp_path / "table.jsonl")
    at_the_end = pd.read_csv(run / "predictions.csv")
    for name in at_the_end.select_dtypes("number"):
        torch.testing.assert_close(
            torch.tensor(table[name].to_numpy()), torch.tensor(at_the_end[name].to_numpy()), rtol=1e-4, atol=1e-4
        )
    model = AutoPeftModelForCausalLM.from_pretrained(run / "model")
    assert model.get_input_embeddings().weight.shape[0] > tiny_model("llama").get_input_embeddings().weight.shape[0]


@pytest.mark.parametrize("source", ["lora", "none"])
def test_a1_quantised_weights_are_made_of_those_that_a_run_starts_from(source: str, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    first = trained(tmp_path / "first", COLUMNS, *QUICK, f"lora={source}")
    run = trained(tmp_path, COLUMNS, "trainer.epochs=0", "backbone.dtype=int8", f"backbone.pretrained_weights={first}")
    assert results(run)["validation/loss"] == pytest.approx(results(first)["validation/loss"], rel=0.05)
    assert results(run)["validation/loss"] != results(first)["validation/loss"]


def test_a1_without_an_adapter_a_quantised_model_is_evaluated_only(tmp_path: Path) -> None:
    run = trained(tmp_path, COLUMNS, "lora=none", "trainer.epochs=0", "backbone.dtype=int4")
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    assert type(model.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    assert len(predicted(run, tmp_path / "table.jsonl")) == 4


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a1_what_does_not_go_with_quantised_weights_is_refused(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = {
        "backbone.pretrained=false": "backbone.pretrained=false draws them at random",
        "lora=none": "without an adapter cannot be trained",
        "trainer.precision=64-true": "does not compute in 64 bits",
    }
    for word, said in cases.items():
        with pytest.raises(ConfigError, match=f"backbone.dtype='{dtype}'.*{said}"):
            settings_of(tmp_path, COLUMNS, f"backbone.dtype={dtype}", word)
    monkeypatch.setattr(checks_model, "find_spec", lambda name: None)
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'needs the package bitsandbytes.*pip install "leyden\[quantization\]"'):
        settings_of(tmp_path, COLUMNS, f"backbone.dtype={dtype}")
    with pytest.raises(ConfigError, match=r"bitsandbytes.*leyden\[quantization\]"):
        quantization_config(dtype, torch.float32)
