"""Our blocks and norms against the library's, in value and gradient, and which architectures get them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leyden.backbone.exchange import exchange_parts
from leyden.backbone.gated import GatedMLP
from leyden.backbone.rms_norm import FusedRMSNorm
from leyden.backbone.tiny import tiny_model

BOTH, NORMS = {GatedMLP, FusedRMSNorm}, {FusedRMSNorm}
EXCHANGED = {
    "llama": BOTH, "mistral": BOTH, "qwen2": BOTH, "qwen3": BOTH, "phi3": NORMS, "gemma": set(), "gemma2": set(),
    "gemma3_text": set(), "phi": set(), "gpt2": set(), "t5": set(), "olmo2": {GatedMLP},
}  # fmt: skip


def kinds(model: nn.Module) -> set[type[nn.Module]]:
    return {type(module) for module in model.modules() if type(module) in BOTH}


def uneven(architecture: str) -> nn.Module:
    """A model whose norms weigh their entries apart."""
    model = tiny_model(architecture)
    generator = torch.Generator().manual_seed(3)
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data += 0.3 * torch.randn(weight.shape, generator=generator)
    return model


def outcome(model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    ids = torch.randint(0, 200, (2, 9), generator=torch.Generator().manual_seed(2))
    given = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    torch.manual_seed(4)  # of the dropout
    logits = model(input_ids=ids, **given).logits
    logits.square().mean().backward()
    return logits.detach(), {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
@pytest.mark.parametrize("architecture", EXCHANGED)
def test_a_model_computes_the_same_after_the_exchange(architecture: str, frozen: bool) -> None:
    theirs = uneven(architecture).train()
    if frozen:
        for name, weight in theirs.named_parameters():
            weight.requires_grad_("norm" not in name)
    ours = copy.deepcopy(theirs)
    exchange_parts(ours)
    assert kinds(ours) == EXCHANGED[architecture]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    (one, gradients), (other, expected) = outcome(ours), outcome(theirs)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_other_types_take_the_steps_of_the_library(dtype: torch.dtype) -> None:
    theirs = uneven("llama")
    ours = copy.deepcopy(theirs)
    exchange_parts(ours)
    assert kinds(ours) == BOTH
    (one, gradients), (other, expected) = outcome(ours.to(dtype)), outcome(theirs.to(dtype))
    torch.testing.assert_close([one, gradients], [other, expected], rtol=0, atol=0)


@pytest.mark.parametrize("architecture", ["llama", "olmo2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_parts_in_other_types_stay(dtype: torch.dtype, architecture: str) -> None:
    model = uneven(architecture).to(dtype)
    exchange_parts(model)
    assert kinds(model) == set()


@pytest.mark.parametrize("architecture", ["llama", "olmo2"])
def test_under_autocast_a_model_computes_the_same_to_the_bit(architecture: str) -> None:
    theirs = uneven(architecture)
    ours = copy.deepcopy(theirs)
    exchange_parts(ours)
    assert kinds(ours) == EXCHANGED[architecture]
    with torch.autocast("cpu", torch.bfloat16):
        (one, gradients), (other, expected) = outcome(ours), outcome(theirs)
    torch.testing.assert_close([one, gradients], [other, expected], rtol=0, atol=0)


LLAMA_MLP: Any = type(tiny_model("llama").model.layers[0].mlp)


class Scaled(LLAMA_MLP):
    """A factor within, as Falcon-H1 has one."""

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x) * 0.5) * self.up_proj(x))


class Routed(LLAMA_MLP):
    """Called with more than the tokens."""

    def forward(self, x: Tensor, share: Tensor | float = 1.0) -> Tensor:
        return super().forward(x) * share


@pytest.mark.parametrize("block", [Scaled, Routed])
def test_a_block_that_only_looks_like_ours_stays(block: type[nn.Module]) -> None:
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.mlp.__class__ = block
    exchange_parts(model)
    assert kinds(model) == NORMS
