"""The fused LoRA layers against peft's own, in value and gradient, and where they have to step aside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear
from torch import Tensor, nn

from leyden.backbone import fused_lora
from leyden.backbone.adapted import adapted_outputs
from leyden.backbone.fused_lora import FusedLinear, fuse, group
from leyden.backbone.tiny import tiny_model

TARGETS = ["q_proj", "v_proj", "down_proj", "up_proj"]


def adapted(*, fused: bool, grouped: bool = False, dropout: float = 0.0, **options: object) -> PeftModel:
    torch.manual_seed(0)
    model = tiny_model("llama")
    config = LoraConfig(r=4, lora_alpha=7, lora_dropout=dropout, target_modules=TARGETS, **options)  # type: ignore[arg-type]
    if fused:
        fuse(config, model)
    adapted = get_peft_model(model, config)
    if grouped:
        group(adapted)
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
    """How many layers ran fused, for each time that some did."""
    seen: list[int] = []
    run: Callable[..., tuple[Tensor, ...]] = adapted_outputs

    def counted(x: Tensor, layers: list[object], dropped: list[Tensor]) -> tuple[Tensor, ...]:
        seen.append(len(layers))
        return run(x, layers, dropped)

    monkeypatch.setattr(fused_lora, "adapted_outputs", counted)
    return seen


def assert_same(one: nn.Module, two: nn.Module) -> None:
    (ours, gradients), (theirs, expected) = outcome(one), outcome(two)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_it_equals_pefts_layer(dropout: float, grouped: bool, calls: list[int]) -> None:
    ours = adapted(fused=True, grouped=grouped, dropout=dropout).train()
    theirs = adapted(fused=False, dropout=dropout).train()
    assert {type(layer) for layer in layers(ours)} == {FusedLinear}
    assert_same(ours, theirs)
    assert calls == ([2, 1, 1] if grouped else [1, 1, 1, 1]) * 2


def test_a_layer_that_is_called_on_another_input_is_computed_for_that(calls: list[int]) -> None:
    """As in attention to another sequence, or when a pass broke off between two calls."""
    model = adapted(fused=True, grouped=True).eval()
    one, other = torch.randn(2, 3, 64)
    first, second = layers(model)[:2]
    assert first.group is second.group
    with torch.no_grad():
        alone = {layer: {x: Linear.forward(layer, x) for x in (one, other)} for layer in (first, second)}
        for layer, x in ((first, one), (second, other), (first, other), (first, one), (second, one), (second, one)):
            torch.testing.assert_close(layer(x), alone[layer][x], rtol=1e-5, atol=1e-5)
    assert calls == [2, 1, 2, 2, 1]


def test_checkpointed_layers_are_computed_a_second_time_alike(calls: list[int]) -> None:
    ours, theirs = adapted(fused=True, grouped=True).train(), adapted(fused=False).train()
    base = ours.get_base_model()
    base.activation_checkpointing_enable({"use_reentrant": False})
    base.enable_input_require_grads()
    assert_same(ours, theirs)
    assert calls == [2, 1, 1] * 4, "each layer twice"


def test_an_encoder_decoder_has_no_layers_that_surely_read_one_input() -> None:
    model = adapted(fused=True)
    model.get_base_model().config.is_encoder_decoder = True
    group(model)
    assert all(layer.group is None for layer in layers(model))


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
    assert sum(calls) == len(layers(theirs)), "the pass with the adapter on, and no other"


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
