"""The fused LoRA layers against peft's own, in value and gradient, and where they have to step aside."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear
from torch import Tensor, nn

from leyden.backbone import fused_lora
from leyden.backbone.adapted import adapted_outputs
from leyden.backbone.fused_lora import FusedLinear, compute_together, fuse
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
        compute_together(adapted)
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
    assert gradients.keys() == expected.keys()
    if next(one.parameters()).dtype == torch.bfloat16:  # peft rounds between its steps, and so apart from ours
        for found, wanted in ((ours, theirs), *((gradients[name], expected[name]) for name in expected)):
            assert (found - wanted).norm() <= 5e-2 * wanted.norm()
        return
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_it_equals_pefts_layer(dropout: float, grouped: bool, dtype: torch.dtype, calls: list[int]) -> None:
    """In 16 bits as `trainer.precision=bf16-true` has it: everything in one type."""
    ours = adapted(fused=True, grouped=grouped, dropout=dropout).to(dtype).train()
    theirs = adapted(fused=False, dropout=dropout).to(dtype).train()
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


def test_an_input_that_was_changed_is_read_again() -> None:
    first, second = layers(adapted(fused=True, grouped=True).eval())[:2]
    x = torch.randn(3, 64)
    with torch.no_grad():
        first(x)
        x.add_(1.0)
        torch.testing.assert_close(second(x), Linear.forward(second, x), rtol=1e-5, atol=1e-5)


def test_in_inference_mode_the_layers_are_computed_together(calls: list[int]) -> None:
    pair = layers(adapted(fused=True, grouped=True).eval())[:2]
    with torch.inference_mode():
        x = torch.randn(3, 64)
        for layer in pair:
            torch.testing.assert_close(layer(x), Linear.forward(layer, x), rtol=1e-5, atol=1e-5)
    assert calls == [2]


def test_what_a_pass_leaves_that_broke_off_goes_with_the_next_group() -> None:
    blocks = adapted(fused=True, grouped=True).get_base_model().model.layers
    first, third = (block.self_attn.q_proj for block in blocks)
    first(torch.randn(3, 64))
    left = weakref.ref(next(iter(first.group._waiting._outputs.values())))
    assert left() is not None, "the output of the second, which nobody asks for"
    third(torch.randn(3, 64))
    assert left() is None


def watched(layer: nn.Linear, seen: list[object]) -> None:
    layer.register_forward_pre_hook(lambda *given: seen.append(given))


def watched_behind(layer: nn.Linear, seen: list[object]) -> None:
    layer.register_forward_hook(lambda *given: seen.append(given))


def replaced(layer: nn.Linear, seen: list[object]) -> None:
    """As `accelerate` does it."""
    forward = layer.forward

    def watched_forward(x: Tensor) -> Tensor:
        seen.append(x)
        return forward(x)

    layer.forward = watched_forward  # type: ignore[method-assign]


@pytest.mark.parametrize("part", ["base_layer", "lora_A", "lora_B"])
@pytest.mark.parametrize("watch", [watched, watched_behind, replaced])
def test_layers_that_something_waits_for_are_called(
    watch: Callable[[nn.Linear, list[object]], None], part: str, calls: list[int]
) -> None:
    """As DeepSpeed's stage 3 does, which gathers a weight when its layer is called."""
    model, seen = adapted(fused=True, grouped=True).eval(), list[object]()
    layer = getattr(layers(model)[1], part)
    watch(layer if part == "base_layer" else layer["default"], seen)
    model(input_ids=torch.arange(8)[None])
    assert len(seen) == 1
    assert calls == [1, 1, 1, 2, 1, 1]


def test_weights_that_deepspeed_shares_out_are_left_to_its_hooks(calls: list[int]) -> None:
    model = adapted(fused=True, grouped=True).eval()
    for layer in layers(model):
        layer.get_base_layer().weight.ds_id = 0
    model(input_ids=torch.arange(8)[None])
    assert not calls


def with_biases(*, fused: bool) -> PeftModel:
    model = tiny_model("qwen2")
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.data += 0.1
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    if fused:
        fuse(config, model)
    torch.manual_seed(1)
    return get_peft_model(model, config)


def test_a_bias_that_is_trained_gets_its_gradient(calls: list[int]) -> None:
    ours, theirs = (with_biases(fused=fused).train() for fused in (True, False))
    assert_same(ours, theirs)
    assert calls == [1] * 4
    for model in (ours, theirs):
        model.zero_grad()
        for layer in layers(model):
            layer.get_base_layer().bias.requires_grad_()
    assert_same(ours, theirs)
    assert calls == [1] * 4
    assert all(layer.get_base_layer().bias.grad is not None for layer in layers(ours))


def test_a_bias_of_another_type_is_left_to_peft() -> None:
    layer = layers(with_biases(fused=True).to(torch.bfloat16))[0]
    assert isinstance(layer, FusedLinear)
    x = torch.zeros(2, 64, dtype=torch.bfloat16)
    assert layer.plain(x) is not None
    layer.get_base_layer().bias.data = layer.get_base_layer().bias.data.float()
    assert layer.plain(x) is None


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
    compute_together(model)
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
