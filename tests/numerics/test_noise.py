"""Noise on the embeddings, read from the hidden states that the library returns, against its formula."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.integrations.neftune import activate_neftune

from leyden.backbone.attention import choose_attention
from leyden.backbone.lora import add_adapter
from leyden.backbone.noise import embedding_noise
from leyden.backbone.scoring import base_model, target_logps
from leyden.backbone.tiny import tiny_model
from leyden.data.augmentation import Noise
from leyden.data.collation import pack, pad
from leyden.data.trees import Segment, Tree, build_tree
from leyden.settings.model_groups import Lora

ALPHA, WIDTH, PAD = 5.0, 64, 257
IDS = torch.arange(12).reshape(1, 12)
PACKED = Noise((11, 12), (7, 5), (7, 5), None)  # two samples in one row
LLAMA_AND_GPT2 = pytest.mark.parametrize("architecture", ["llama", "gpt2"])


def embeddings(model: nn.Module, ids: Tensor, **inputs: Any) -> Tensor:
    """What enters the first block, as the library reports it."""
    return model(input_ids=ids, output_hidden_states=True, use_cache=False, **inputs).hidden_states[0]


def added(model: nn.Module, noise: Noise, ids: Tensor, alpha: float = ALPHA, **inputs: Any) -> Tensor:
    """The noise in a forward pass."""
    with torch.no_grad():
        with embedding_noise(model, noise, alpha):
            noisy = embeddings(model, ids, **inputs)
        return noisy - embeddings(model, ids, **inputs)


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """The model has the same weights, names, modules and hooks afterwards."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modules, count = [name for name, _ in model.named_modules()], hooks(model)
    yield
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert ([name for name, _ in model.named_modules()], hooks(model)) == (modules, count)


@LLAMA_AND_GPT2
def test_the_noise_is_uniform_within_the_bound_of_each_sample(architecture: str) -> None:
    model = tiny_model(architecture)
    noise = Noise((1, 2), (900, 100), (600, 100), None)
    drawn = added(model, noise, torch.arange(1000).remainder(250)[None])[0]
    for part, path in ((drawn[:900], 600), (drawn[900:], 100)):
        bound = ALPHA / math.sqrt(path * WIDTH)
        scaled = part.double() / bound
        assert scaled.abs().max() <= 1 + 1e-4
        assert scaled.abs().max() > 0.99
        count = part.numel()
        for power, mean, square in ((1, 0, 1 / 3), (2, 1 / 3, 1 / 5), (3, 0, 1 / 7), (4, 1 / 5, 1 / 9)):
            error = 5 * math.sqrt((square - mean**2) / count)  # moments of the uniform distribution on [-1, 1]
            assert abs(scaled.pow(power).mean() - mean) < error
        cells = torch.histc(scaled.float(), 20, -1, 1)
        assert ((cells - count / 20).square() / (count / 20)).sum() < 60  # chi-square, 19 degrees: once in 300,000
    assert torch.corrcoef(drawn[:, :2].T)[0, 1].abs() < 5 / math.sqrt(1000)


def test_the_bound_is_that_of_the_library() -> None:
    model = tiny_model("llama").train()
    ids = torch.arange(200)[None]
    clean = embeddings(model, ids).detach()
    handle = activate_neftune(model, ALPHA)
    theirs = (embeddings(model, ids).detach() - clean).abs()
    handle.remove()
    ours = added(model, Noise((3,), (200,), (200,), None), ids).abs()
    assert ours.max().item() == pytest.approx(theirs.max().item(), rel=2e-3)
    assert ours.mean().item() == pytest.approx(theirs.mean().item(), rel=3e-2)


@LLAMA_AND_GPT2
def test_equal_seeds_give_equal_noise_and_the_global_random_state_is_left_alone(architecture: str) -> None:
    model = tiny_model(architecture)
    state = torch.get_rng_state()
    first, again = added(model, PACKED, IDS), added(model, PACKED, IDS)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    assert torch.equal(first, again)
    assert torch.equal(first, added(model, PACKED, IDS))
    other = added(model, Noise((11, 13), (7, 5), (7, 5), None), IDS)
    assert torch.equal(first[:, :7], other[:, :7])
    assert (first[:, 7:] - other[:, 7:]).abs().min() > 0


def test_a_sample_has_the_same_noise_wherever_it_stands_in_a_batch() -> None:
    model = tiny_model("llama")
    turned = added(model, Noise((12, 11), (5, 7), (5, 7), None), IDS)
    torch.testing.assert_close(turned.roll(-5, dims=1), added(model, PACKED, IDS), rtol=0, atol=1e-6)


def trees() -> list[Tree]:
    return [
        build_tree([Segment(range(10, 19), False), Segment([20, 21, 22], True, 0, 0), Segment([23], True, 0, 1)], 2),
        build_tree([Segment([31, 32, 33, 34], True)]),
        build_tree([Segment([], False), Segment([40, 41], True, 0, 0), Segment([42, 43, 44], True, 0, 1)], 2),
    ]


SEEDS = (101, 102, 103)
# Which token of the three trees stands where in the padded batch, written out: one row per path.
PLACES = torch.tensor([
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
    [-1, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 12],
    [-1] * 8 + [13, 14, 15, 16],
    [-1] * 10 + [17, 18],
    [-1] * 9 + [19, 20, 21],
])  # fmt: skip
LENGTHS, PATHS = (13, 4, 5), (12, 4, 3)


@LLAMA_AND_GPT2
def test_padded_rows_have_the_noise_of_the_packed_tokens(architecture: str) -> None:
    model = tiny_model(architecture)
    packed = added(model, Noise(SEEDS, LENGTHS, PATHS, None), torch.arange(22)[None])[0]
    mask = (PLACES >= 0).long()
    ids = PLACES.clamp(min=0) * mask + PAD * (1 - mask)
    padded = added(model, Noise(SEEDS, LENGTHS, PATHS, PLACES), ids, attention_mask=mask)
    torch.testing.assert_close(padded[mask.bool()], packed[PLACES[mask.bool()]], rtol=0, atol=1e-6)
    assert padded[mask == 0].abs().max() == 0
    torch.testing.assert_close(padded[0, :9], padded[1, 2:11], rtol=0, atol=1e-6)  # a shared prompt has one noise


def test_packed_and_padded_batches_of_the_same_samples_score_the_same() -> None:
    packed, padded = pack(trees(), range(3), SEEDS), pad(trees(), range(3), PAD, SEEDS)
    assert packed.noise == Noise(SEEDS, LENGTHS, PATHS, None)
    assert padded.noise is not None
    assert padded.noise.places is not None
    assert torch.equal(padded.noise.places, PLACES)
    scores = []
    for engine, batch in (("segments", packed), ("dense", packed), ("sdpa", padded)):
        model = tiny_model("llama")
        choose_attention(model, engine)
        with torch.no_grad():
            with embedding_noise(model, batch.noise, ALPHA):
                noisy = target_logps(model, batch)
            assert (noisy - target_logps(model, batch)).abs().min() > 1e-4
        scores.append(noisy)
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores[2], scores[0], rtol=1e-5, atol=1e-5)


@LLAMA_AND_GPT2
def test_nothing_is_left_behind(architecture: str) -> None:
    model = tiny_model(architecture)
    clean = embeddings(model, IDS)
    before = hooks(model)  # the library has put its own on, to hand out hidden states
    with unchanged(model), embedding_noise(model, PACKED, ALPHA):
        assert hooks(model) == before + 1
        model(IDS)
    with unchanged(model), pytest.raises(ZeroDivisionError), embedding_noise(model, PACKED, ALPHA):
        raise ZeroDivisionError
    assert torch.equal(embeddings(model, IDS), clean)


@LLAMA_AND_GPT2
@pytest.mark.parametrize(("noise", "alpha"), [(None, ALPHA), (PACKED, 0.0), (None, 0.0)])
def test_without_noise_nothing_is_registered(architecture: str, noise: Noise | None, alpha: float) -> None:
    model = tiny_model(architecture)
    with torch.no_grad(), embedding_noise(model, noise, alpha):
        assert hooks(model) == 0
        inside = embeddings(model, IDS)
    assert torch.equal(inside, embeddings(model, IDS))


@LLAMA_AND_GPT2
def test_only_the_first_call_is_noised(architecture: str) -> None:
    model = tiny_model(architecture)
    with torch.no_grad(), embedding_noise(model, PACKED, ALPHA):
        first, second = embeddings(model, IDS), embeddings(model, IDS)
    assert torch.equal(second, embeddings(model, IDS))
    assert (first - second).abs().max() > 0


def adapted(model: PreTrainedModel, kind: str) -> PeftModel:
    name = {"llama": "embed_tokens", "gpt2": "wte"}[model.config.model_type]
    if kind == "adapted embedding":
        return get_peft_model(model, LoraConfig(r=2, target_modules=[name], task_type="CAUSAL_LM"))
    layers = [name] if kind == "trained copy" else []
    settings = Lora(
        r=2, alpha=4, dropout=0, use_dora=False, use_rslora=False, target_modules=None, unfreeze_layers=layers
    )
    made = add_adapter(model, settings, "base")
    assert isinstance(made, PeftModel)
    return made


@LLAMA_AND_GPT2
@pytest.mark.parametrize("kind", ["adapter", "trained copy", "adapted embedding"])
def test_adapters_around_the_model_and_the_embedding(architecture: str, kind: str) -> None:
    expected = added(tiny_model(architecture), PACKED, IDS)
    model = adapted(tiny_model(architecture), kind).eval()
    wrapped = type(base_model(model).get_input_embeddings())
    assert (wrapped is not nn.Embedding) == (kind != "adapter")
    embeddings(model, IDS)
    with unchanged(model):
        torch.testing.assert_close(added(model, PACKED, IDS), expected, rtol=0, atol=1e-6)
        with model.disable_adapter():
            torch.testing.assert_close(added(model, PACKED, IDS), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_type_of_the_weights_is_kept(dtype: torch.dtype) -> None:
    model = tiny_model("llama").to(dtype)
    drawn = added(model, PACKED, IDS)
    assert drawn.dtype == dtype
    precise = added(tiny_model("llama"), PACKED, IDS)
    torch.testing.assert_close(drawn.float(), precise, rtol=0, atol=5e-3 if dtype == torch.bfloat16 else 1e-6)


def test_the_embedding_learns_as_without_noise() -> None:
    model = tiny_model("llama", tie_word_embeddings=False)
    weight = model.get_input_embeddings().weight
    with embedding_noise(model, PACKED, ALPHA):
        model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    assert weight.grad is not None
    assert (weight.grad[:11].abs().sum(1) > 0).all()
    assert weight.grad[11:].abs().max() == 0  # the last token predicts nothing


def test_the_noise_is_the_same_when_activations_are_computed_again() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model("llama").train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        with embedding_noise(model, PACKED, ALPHA):
            loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
        loss.backward()
        gradients.append([weight.grad for weight in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def encoder_decoder(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "t5":
            sizes = {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4}
            model: Any = T5ForConditionalGeneration(T5Config(vocab_size=100, decoder_start_token_id=0, **sizes))
        else:
            layers = {f"{side}_{part}": number for side in ("encoder", "decoder")
                      for part, number in (("layers", 1), ("ffn_dim", 96), ("attention_heads", 4))}  # fmt: skip
            model = BartForConditionalGeneration(BartConfig(vocab_size=100, d_model=64, **layers))
    return model.eval()


@pytest.mark.parametrize("name", ["t5", "bart"])
@pytest.mark.parametrize("one_module", [False, True])
def test_of_an_encoder_decoder_the_encoder_alone_is_noised(name: str, one_module: bool) -> None:
    model: Any = encoder_decoder(name)
    if one_module:
        model.get_decoder().embed_tokens = model.get_encoder().embed_tokens
    places = torch.tensor([[0, 1, 2, 3, 4], [-1, -1, 7, 8, 9]])  # samples of 5 + 2 and 3 + 1 tokens
    noise = Noise((5, 6), (7, 4), (5, 3), places)
    inputs = {
        "input_ids": torch.tensor([[4, 5, 6, 7, 8], [0, 0, 9, 10, 11]]),
        "attention_mask": (places >= 0).long(),
        "decoder_input_ids": torch.tensor([[0, 20], [0, 21]]),
        "output_hidden_states": True,
    }
    with torch.no_grad():
        clean = model(**inputs)
        with unchanged(model), embedding_noise(model, noise, ALPHA):
            noisy = model(**inputs)
    read = noisy.encoder_hidden_states[0] - clean.encoder_hidden_states[0]
    assert torch.equal(noisy.decoder_hidden_states[0], clean.decoder_hidden_states[0])
    assert (noisy.logits - clean.logits).abs().max() > 0
    if name == "t5":  # Bart normalises what it embeds
        expected = added(tiny_model("llama"), Noise((5, 6), (7, 4), (5, 3), None), torch.arange(11)[None])[0]
        torch.testing.assert_close(read[0], expected[:5], rtol=0, atol=1e-6)
        torch.testing.assert_close(read[1, 2:], expected[7:10], rtol=0, atol=1e-6)
    assert read[1, :2].abs().max() == 0
    assert (read[0].abs().sum(1) > 0).all()


def test_a_sample_without_tokens_has_no_noise() -> None:
    drawn = added(tiny_model("llama"), Noise((1, 11, 12), (0, 7, 5), (0, 7, 5), None), IDS)
    torch.testing.assert_close(drawn, added(tiny_model("llama"), PACKED, IDS))


def test_noise_that_was_not_used_or_does_not_fit_is_an_error() -> None:
    model = tiny_model("llama")
    with (
        unchanged(model),
        pytest.raises(RuntimeError, match="LlamaForCausalLM did not call its input embeddings"),
        embedding_noise(model, PACKED, ALPHA),
    ):
        model(inputs_embeds=torch.zeros(1, 3, WIDTH))
    with (
        unchanged(model),
        pytest.raises(ValueError, match=r"shape \(1, 12, 64\), not \(1, 4, 64\)"),
        embedding_noise(model, PACKED, ALPHA),
    ):
        model(IDS[:, :4])
