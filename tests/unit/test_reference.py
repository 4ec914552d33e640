"""The reference is the model as it was before training: whatever is trained, whatever mode the model is in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from leyden.backbone.attention import choose_attention
from leyden.backbone.lora import add_adapter
from leyden.backbone.reference import Reference, evaluation_mode
from leyden.backbone.scoring import target_logps
from leyden.backbone.tiny import tiny_model
from leyden.data.batches import Batch
from leyden.data.collation import pack
from leyden.data.trees import Segment, build_tree
from leyden.settings.model_groups import Lora

KINDS = {
    "adapter": "adapter switched off",
    "dora": "adapter switched off",
    "unfrozen": "adapter switched off",
    "all weights": "frozen copy",
    "beside the adapter": "frozen copy",
}


def lora(**changes: object) -> Lora:
    values: dict[str, object] = {
        "r": 4, "alpha": 16.0, "dropout": 0.3, "use_dora": False, "use_rslora": False, "target_modules": None,
        "unfreeze_layers": [],
    }  # fmt: skip
    return Lora.model_validate(values | changes)


def model_of(kind: str) -> nn.Module:
    """A tiny model whose attention drops half of its weights in training."""
    torch.manual_seed(0)
    base = tiny_model("llama", attention_dropout=0.5)
    changes: dict[str, dict[str, object]] = {
        "dora": {"use_dora": True},
        "unfrozen": {"unfreeze_layers": ["embed", "norm"]},
    }
    model: nn.Module = add_adapter(base, None if kind == "all weights" else lora(**changes.get(kind, {})), "base")
    if kind == "beside the adapter":
        base.lm_head.weight.requires_grad_()
    choose_attention(model, "segments")
    return model.train()


@pytest.fixture
def batch() -> Batch:
    pair = [Segment([5, 6, 7, 8], False), Segment([9, 10, 11], True, 0, 0), Segment([12, 13], True, 0, 1)]
    return pack([build_tree(pair, 2), build_tree([Segment([20, 21, 22, 23, 24], True)])], [0, 1])


def plain(batch: Batch) -> Tensor:
    """The untouched model, without anything of ours around it but the attention."""
    model = tiny_model("llama")
    choose_attention(model, "segments")
    with torch.no_grad():
        return target_logps(model, batch)


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_stays_where_training_began(kind: str, batch: Batch) -> None:
    model = model_of(kind)
    reference = Reference(model)
    reference.prepare()
    assert reference.kind == KINDS[kind]
    modes = [module.training for module in model.modules()]
    expected = plain(batch)
    torch.testing.assert_close(reference.logps(batch), expected, rtol=1e-6, atol=1e-6)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        (-target_logps(model, batch).mean()).backward()
        optimizer.step()
    reference.prepare()  # a second time is too late to matter
    after = reference.logps(batch)
    torch.testing.assert_close(after, expected, rtol=1e-6, atol=1e-6)
    assert not after.requires_grad
    with evaluation_mode(model), torch.no_grad():
        assert (target_logps(model, batch) - expected).abs().max() > 0.05
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("kind", ["all weights", "beside the adapter"])
def test_a_frozen_copy_belongs_to_nobody(kind: str, batch: Batch) -> None:
    model = model_of(kind)
    holder = nn.Module()
    holder.backbone = model
    names, count = set(holder.state_dict()), len(list(holder.parameters()))
    holder.reference = Reference(model)
    holder.reference.prepare()
    assert set(holder.state_dict()) == names
    assert len(list(holder.parameters())) == count
    holder.train()
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert holder.reference.start.keys() == trained
    assert not any(weight.requires_grad for weight in holder.reference.start.values())
    kept = {weight.untyped_storage().data_ptr() for weight in holder.reference.start.values()}
    assert not kept & {weight.untyped_storage().data_ptr() for weight in model.parameters()}


def test_an_adapter_costs_no_copy(batch: Batch) -> None:
    reference = Reference(model_of("adapter"))
    reference.prepare()
    assert reference.start == {}


def test_a_copy_that_was_never_made_is_an_error(batch: Batch) -> None:
    with pytest.raises(RuntimeError, match="not prepared"):
        Reference(model_of("all weights")).logps(batch)


def test_a_copy_follows_the_type_of_the_policy(batch: Batch) -> None:
    model = model_of("all weights")
    reference = Reference(model)
    reference.prepare()
    model.to(torch.bfloat16)
    with evaluation_mode(model), torch.no_grad():
        torch.testing.assert_close(reference.logps(batch), target_logps(model, batch), rtol=1e-6, atol=1e-6)


def test_a_copy_between_forward_and_backward_leaves_the_gradient_alone(batch: Batch) -> None:
    gradients = []
    for asked in (False, True):
        model = model_of("all weights").eval()
        reference = Reference(model)
        reference.prepare()
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.01)
        loss = -target_logps(model, batch).mean()
        if asked:
            reference.logps(batch)
        loss.backward()
        gradients.append([weight.grad for weight in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_an_adapter_that_has_learned_before_is_copied(batch: Batch) -> None:
    model = model_of("adapter")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.01)
    with evaluation_mode(model), torch.no_grad():
        expected = target_logps(model, batch)
    reference = Reference(model, learned=True)
    reference.prepare()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.mul_(1.5)
    torch.testing.assert_close(reference.logps(batch), expected, rtol=1e-5, atol=1e-5)  # products in another order
    with evaluation_mode(model), torch.no_grad():
        assert (target_logps(model, batch) - expected).abs().max() > 1e-3, "the model has moved by much more"
    assert reference.start.keys() == {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert (expected - plain(batch)).abs().max() > 1e-3
