"""The fused LoRA layer against peft's own, in value and gradient, and where it has to step aside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear
from torch import Tensor, nn

from leyden.backbone import fused_lora
from leyden.backbone.fused_lora import FusedLinear, fuse
from leyden.backbone.tiny import tiny_model

TARGETS = ["q_proj", "down_proj", "up_proj"]


def adapted(*, fused: bool, dropout: float = 0.0, **options: object) -> PeftModel:
    torch.manual_seed(0)
    model = tiny_model("llama")
    config = LoraConfig(r=4, lora_alpha=7, lora_dropout=dropout, target_modules=TARGETS, **options)  # type: ignore[arg-type]
    if fused:
        fuse(config, model)
    adapted = get_peft_model(model, config)
    torch.manual_seed(1)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.2)
    return adapted


def layers(model: nn.Module) -> list[Linear]:
    return [module for module in model.modules() if isinstance(module, Linear)]


def outcome(model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    ids = torch.randint(0, 200, (2, 9), generator=torch.Generator().manual_seed(2))
    torch.manual_seed(3)  # of the dropout
    logits = model(input_ids=ids).logits
    logits.square().mean().backward()
    return logits.detach(), {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often a layer ran fused."""
    seen: list[int] = []
    run: Callable[..., Tensor] = fused_lora._Adapted.apply
    monkeypatch.setattr(fused_lora._Adapted, "apply", lambda *given: seen.append(1) or run(*given))
    return seen


def assert_same(one: nn.Module, two: nn.Module) -> None:
    (ours, gradients), (theirs, expected) = outcome(one), outcome(two)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_it_equals_pefts_layer(dropout: float, calls: list[int]) -> None:
    ours, theirs = adapted(fused=True, dropout=dropout).train(), adapted(fused=False, dropout=dropout).train()
    assert {type(layer) for layer in layers(ours)} == {FusedLinear}
    assert_same(ours, theirs)
    assert len(calls) == len(layers(ours)) == 6


VARIANTS = {"dora": {"use_dora": True}, "rslora": {"use_rslora": True}}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_those_of_peft(variant: str, calls: list[int]) -> None:
    ours, theirs = (adapted(fused=fused, **VARIANTS[variant]).train() for fused in (True, False))
    assert_same(ours, theirs)
    assert bool(calls) == (variant == "rslora")


def test_switched_off_and_merged_it_is_the_base_and_the_sum(calls: list[int]) -> None:
    ours, theirs = adapted(fused=True).eval(), adapted(fused=False).eval()
    ids = torch.arange(8)[None]
    with torch.no_grad():
        alone = tiny_model("llama")(input_ids=ids).logits
        with ours.disable_adapter():
            off = ours(input_ids=ids).logits
        on = ours(input_ids=ids).logits
        merged = ours.merge_and_unload()(input_ids=ids).logits
        torch.manual_seed(0)
        torch.testing.assert_close(theirs(input_ids=ids).logits, on, rtol=1e-5, atol=1e-5)
    assert off.shape == alone.shape
    assert not torch.allclose(off, on)
    torch.testing.assert_close(merged, on, rtol=1e-4, atol=1e-4)
    assert len(calls) == 6, "the pass with the adapter on, and no other"


def test_autocast_and_a_trained_base_run_as_peft_does_it(calls: list[int]) -> None:
    ours, theirs = adapted(fused=True).train(), adapted(fused=False).train()
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(ours, theirs)
    assert not calls
    for model in (ours, theirs):
        model.zero_grad()
        for layer in layers(model):
            layer.get_base_layer().weight.requires_grad_()
    assert_same(ours, theirs)
    assert not calls


def test_quantised_layers_keep_those_of_peft() -> None:
    class Other(nn.Linear):
        """As bitsandbytes makes them: a linear layer by inheritance."""

    model = nn.Sequential(nn.Linear(3, 3), Other(3, 3))
    config = LoraConfig(target_modules=["0", "1"])
    fuse(config, model)
    assert not any(isinstance(layer, FusedLinear) for layer in layers(get_peft_model(model, config)))


def test_what_is_saved_is_loaded_by_peft_alone(tmp_path: Path) -> None:
    ours = adapted(fused=True).eval()
    ours.save_pretrained(tmp_path)
    torch.manual_seed(0)
    loaded = PeftModel.from_pretrained(tiny_model("llama"), tmp_path).eval()
    assert {type(layer) for layer in layers(loaded)} == {Linear}
    ids = torch.arange(8)[None]
    names = {name for name, _ in ours.named_parameters()}
    assert names == {name for name, _ in loaded.named_parameters()}
    for name, weight in loaded.named_parameters():
        if "lora_" in name:
            torch.testing.assert_close(weight, ours.get_parameter(name))
    with torch.no_grad():
        torch.testing.assert_close(ours(input_ids=ids).logits, loaded(input_ids=ids).logits, rtol=1e-5, atol=1e-5)
