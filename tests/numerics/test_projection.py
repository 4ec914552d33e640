"""The projection in parts of the vocabulary against `log_softmax` of all logits: values, gradients and memory."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, Cohere2Config, GraniteConfig

from leyden.backbone import projection
from leyden.backbone.attention import choose_attention
from leyden.backbone.projection import Projection, find_projection
from leyden.backbone.scoring import target_logps
from leyden.backbone.tiny import tiny_model
from leyden.data.collation import pack
from leyden.data.trees import Segment, build_tree

ROWS, WIDTH, VOCABULARY = 7, 12, 2500  # more than two parts of the vocabulary
SHAPES = {"plain": {}, "scaled": {"scale": 0.25}, "capped": {"softcap": 3.0}, "both": {"scale": 2.0, "softcap": 5.0}}


def plain_logps(head: Projection, hidden: Tensor, ids: Tensor) -> Tensor:
    outputs = hidden @ head.head.weight.T + (0 if head.head.bias is None else head.head.bias)
    logits = outputs.float() * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]


@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_equals_log_softmax_in_value_and_gradient(shape: str, bias: bool, trained: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(WIDTH, VOCABULARY, bias=bias).requires_grad_(trained)
    head = Projection(layer, **SHAPES[shape])
    ids = torch.tensor([0, 1023, 1024, 2047, 2048, VOCABULARY - 1, 5])
    factors = torch.randn(ROWS)
    found: list[list[Tensor]] = []
    for score in (head.logps, lambda hidden, ids: plain_logps(head, hidden, ids)):
        hidden = (3 * torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1))).requires_grad_()
        logps = score(hidden, ids)
        wanted = [hidden, *(weight for weight in layer.parameters() if trained)]
        found.append([logps, *torch.autograd.grad((logps * factors).sum(), wanted)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_large_logits_lose_no_digits() -> None:
    layer = nn.Linear(1, VOCABULARY, bias=False).requires_grad_(False)
    layer.weight.copy_(torch.linspace(-1, 1, VOCABULARY)[:, None])
    hidden, ids = torch.tensor([[1e4], [-1e4]], requires_grad=True), torch.tensor([VOCABULARY - 1, 0])
    logps = Projection(layer).logps(hidden, ids)
    torch.testing.assert_close(logps, plain_logps(Projection(layer), hidden, ids))
    assert torch.isfinite(torch.autograd.grad(logps.sum(), hidden)[0]).all()


def test_half_precision_sums_in_float32() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(WIDTH, VOCABULARY, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    ids = torch.randint(0, VOCABULARY, (ROWS,))
    hidden = torch.randn(ROWS, WIDTH).bfloat16().requires_grad_()
    logps = Projection(layer).logps(hidden, ids)
    assert logps.dtype == torch.float32
    torch.testing.assert_close(logps, plain_logps(Projection(layer), hidden, ids), rtol=1e-3, atol=1e-3)
    (ours,) = torch.autograd.grad(logps.sum(), hidden)
    wide = nn.Linear(WIDTH, VOCABULARY, bias=False).requires_grad_(False)
    wide.weight.copy_(layer.weight)
    exact = hidden.detach().float().requires_grad_()
    (theirs,) = torch.autograd.grad(plain_logps(Projection(wide), exact, ids).sum(), exact)
    torch.testing.assert_close(ours.float(), theirs, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("element", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trained", [False, True])
def test_a_token_that_is_sure_keeps_its_gradient(trained: bool, element: torch.dtype) -> None:
    """Probabilities of 0.9 to 0.9999: the slope is the small difference of large terms."""
    torch.manual_seed(0)
    layer = nn.Linear(64, VOCABULARY, bias=False, dtype=element).requires_grad_(trained)
    layer.weight.data.mul_(3)
    ids = torch.tensor([0, 1500, VOCABULARY - 1, 7])
    scale = torch.tensor([1.2, 1.4, 1.7, 2.2])[:, None]
    rows = (layer.weight[ids].detach().float() * scale * 3).to(element)
    found = []
    for kind in (element, torch.float64):
        hidden = rows.to(kind).requires_grad_()
        exact = nn.Linear(64, VOCABULARY, bias=False, dtype=kind).requires_grad_(trained)
        exact.weight.data.copy_(layer.weight)
        score = Projection(exact).logps if kind == element else partial(exact_logps, exact)
        logps = score(hidden, ids)
        found.append((logps, *torch.autograd.grad(logps.sum(), [hidden])))
    (logps, ours), (truth, theirs) = found
    assert 0.5 < truth.exp().min() < 0.99 < truth.exp().max()
    assert (logps.double() - truth).abs().max() < (1e-4 if element == torch.float32 else 0.3)
    error = (ours.double() - theirs).norm(dim=1) / theirs.norm(dim=1)
    assert error.max() < (1e-4 if element == torch.float32 else 0.1), error


def exact_logps(layer: nn.Linear, hidden: Tensor, ids: Tensor) -> Tensor:
    return layer(hidden).log_softmax(-1).gather(1, ids[:, None])[:, 0]


@pytest.mark.parametrize("trained", [False, True])
def test_autocast_goes_back_the_way_it_came(trained: bool) -> None:
    """A float32 head under autocast: forward and backward multiply the same 16-bit numbers, inside it and outside."""
    torch.manual_seed(0)
    layer = nn.Linear(64, VOCABULARY, bias=True).requires_grad_(trained)
    layer.weight.data.mul_(8)
    hidden, ids = torch.randn(ROWS, 64), torch.randint(0, VOCABULARY, (ROWS,))
    gradients = []
    for inside in (True, False):
        given = hidden.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            logps = Projection(layer).logps(given, ids)
            if inside:
                gradients.append(torch.autograd.grad(logps.sum(), [given, *(layer.parameters() if trained else ())]))
        if not inside:
            gradients.append(torch.autograd.grad(logps.sum(), [given, *(layer.parameters() if trained else ())]))
    for one, two in zip(*gradients, strict=True):
        assert torch.equal(one, two)
    rounded = nn.Linear(64, VOCABULARY).double()
    rounded.load_state_dict({name: weight.bfloat16() for name, weight in layer.state_dict().items()})
    exact = hidden.bfloat16().double().requires_grad_()
    (wanted,) = torch.autograd.grad(exact_logps(rounded, exact, ids).sum(), exact)
    assert (gradients[0][0].double() - wanted).norm() < 0.05 * wanted.norm()


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple) else (made,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


@pytest.mark.parametrize("trained", [False, True])
def test_logits_are_never_held_together(trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "_CHUNK_CPU", 0)
    rows, vocabulary = 64, 8192
    layer = nn.Linear(4, vocabulary, bias=False).requires_grad_(trained)
    hidden, ids = torch.randn(rows, 4, requires_grad=True), torch.randint(0, vocabulary, (rows,))
    with Largest() as seen:
        Projection(layer).logps(hidden, ids).sum().backward()
    assert seen.elements == max(rows * 1024, 4 * vocabulary), "a part, and the weight itself"


SCALED = {
    "granite": GraniteConfig(logits_scaling=8.0),
    "cohere2": Cohere2Config(logit_scale=0.25, sliding_window=64),
}


def batch() -> Any:
    segments = [Segment([7, 8, 9], False), Segment([20, 21], True, 0), Segment([30, 31, 32], True, 0, 1)]
    return pack([build_tree(segments, 2), build_tree([Segment(list(range(40, 50)), True)])], range(2))


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mistral", "gemma", "gemma2", "phi", "phi3", *SCALED])
def test_the_head_runs_on_scored_positions_only(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if architecture in SCALED:
        config = SCALED[architecture]
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        for name, size in {**sizes, "num_key_value_heads": 2, "vocab_size": 256}.items():
            setattr(config, name, size)
        config.pad_token_id = 0
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    else:
        model = tiny_model(architecture)
    expected = model(**{"input_ids": batch().input_ids[:, -10:], "use_cache": False}).logits[0, :-1].log_softmax(-1)
    seen: list[int] = []
    scored = Projection.logps
    monkeypatch.setattr(
        Projection, "logps", lambda self, hidden, ids: seen.append(len(ids)) or scored(self, hidden, ids)
    )
    choose_attention(model, "segments")
    seen.clear()
    logps = target_logps(model, batch())
    assert seen == [len(batch().target_ids)]
    assert len(batch().target_ids) < batch().num_tokens
    torch.testing.assert_close(logps[-9:], expected.gather(1, batch().input_ids[0, -9:, None])[:, 0])


def test_a_model_that_does_more_is_scored_whole_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class Shifted(type(tiny_model("llama"))):  # type: ignore[misc]
        def forward(self, *args: Any, logits_to_keep: Any = 0, **options: Any) -> Any:
            found = super().forward(*args, logits_to_keep=logits_to_keep, **options)
            found.logits = found.logits + torch.linspace(0, 5, found.logits.shape[-1])
            return found

    model = tiny_model("llama")
    model.__class__ = Shifted
    assert find_projection(model) is not None
    whole = model(input_ids=batch().input_ids[:, -10:], use_cache=False).logits[0, :-1].log_softmax(-1)
    with caplog.at_level(logging.INFO):
        choose_attention(model, "segments")
        logps = target_logps(model, batch())
    assert caplog.text.count("Shifted does more to its logits than a projection") == 1
    torch.testing.assert_close(logps[-9:], whole.gather(1, batch().input_ids[0, -9:, None])[:, 0])
