from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.optim import Rprop
from transformers import (
    CohereConfig,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GptOssConfig,
    LlamaConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.trainer_pt_utils import get_parameter_names

from leyden.settings.errors import ConfigError
from leyden.training.optimizer import build_optimizer, parameter_groups

DECODER = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "pad_token_id": 0,
}
CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**DECODER),
    "llama_with_biases": lambda: LlamaConfig(**DECODER, attention_bias=True, mlp_bias=True),
    "gemma": lambda: GemmaConfig(**DECODER),
    "gemma2": lambda: Gemma2Config(**DECODER),
    "qwen2": lambda: Qwen2Config(**DECODER),
    "qwen3": lambda: Qwen3Config(**DECODER),
    "phi": lambda: PhiConfig(**DECODER),
    "phi3": lambda: Phi3Config(**DECODER),
    "gpt2": lambda: GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=2, n_head=2),
    "cohere": lambda: CohereConfig(**DECODER, use_qk_norm=True),
}


def build(name: str) -> nn.Module:
    return AutoModelForCausalLM.from_config(CONFIGS[name]())


def names_by_group(model: nn.Module) -> dict[str, list[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {group["name"]: [names[id(p)] for p in group["params"]] for group in parameter_groups(model, 0.1)}


@pytest.mark.parametrize("name", CONFIGS)
def test_groups_are_those_that_transformers_finds_by_name(name: str) -> None:
    model = build(name)
    patterns = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
    decayed = set(get_parameter_names(model, [nn.LayerNorm], patterns))
    every = [parameter for parameter, _ in model.named_parameters()]
    groups = names_by_group(model)
    assert groups["decayed"] == [parameter for parameter in every if parameter in decayed]
    assert groups["undecayed"] == [parameter for parameter in every if parameter not in decayed]
    assert groups["undecayed"], "every one of these models has norms"


def test_a_norm_with_two_dimensions_is_a_norm() -> None:
    model = build("cohere")
    two_dimensional = [name for name, p in model.named_parameters() if name.endswith("q_norm.weight") and p.ndim == 2]
    assert len(two_dimensional) == 2
    assert set(two_dimensional) <= set(names_by_group(model)["undecayed"])


def test_a_bias_with_two_dimensions_is_a_bias() -> None:
    model = AutoModelForCausalLM.from_config(GptOssConfig(**DECODER, num_local_experts=2, num_experts_per_tok=1))
    groups = names_by_group(model)
    biases = [name for name, p in model.named_parameters() if name.endswith("_bias") and p.ndim == 2]
    assert len(biases) == 4
    assert set(biases) <= set(groups["undecayed"])
    assert "model.layers.0.mlp.experts.down_proj" in groups["decayed"]
    assert "model.layers.0.self_attn.sinks" in groups["undecayed"]


def test_paths_do_not_decide() -> None:
    model = nn.ModuleDict({"norm": nn.Linear(2, 2), "bias": nn.Embedding(3, 2), "plain": nn.RMSNorm(2)})
    assert names_by_group(model) == {
        "decayed": ["norm.weight", "bias.weight"],
        "undecayed": ["norm.bias", "plain.weight"],
    }


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21 asks for it
@pytest.mark.parametrize("use_dora", [False, True])
def test_adapters_decay_and_the_frozen_backbone_is_left_out(use_dora: bool) -> None:
    model = get_peft_model(build("llama"), LoraConfig(r=2, use_dora=use_dora, target_modules="all-linear"))
    groups = names_by_group(model)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(groups["decayed"]) == {name for name in trainable if "lora_A" in name or "lora_B" in name}
    assert len(groups["decayed"]) == 2 * 7 * 2
    magnitudes = {name for name in trainable if "lora_magnitude_vector" in name}
    assert set(groups.get("undecayed", [])) == magnitudes
    assert len(magnitudes) == (14 if use_dora else 0)


def test_tied_weights_are_moved_once() -> None:
    model = build("gemma")
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    parameters = [p for group in parameter_groups(model, 0.1) for p in group["params"]]
    assert len(parameters) == len({id(p) for p in parameters}) == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["llama", "llama_with_biases", "gemma", "gpt2", "cohere"])
def test_a_step_with_zero_gradient_shrinks_matrices_only(name: str) -> None:
    model = build(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(0.5, 1.5)
    optimizer = build_optimizer(model, partial(torch.optim.AdamW, lr=0.1), weight_decay=0.2)
    before = {parameter: value.detach().clone() for parameter, value in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    exempt = 0
    for parameter, value in model.named_parameters():
        is_exempt = value.ndim == 1 or "norm" in parameter
        exempt += is_exempt
        expected = before[parameter] if is_exempt else before[parameter] * (1 - 0.1 * 0.2)
        torch.testing.assert_close(value.detach(), expected, rtol=1e-6, atol=0)
    assert 0 < exempt < len(before)


def test_groups_reach_the_optimizer_with_their_names() -> None:
    optimizer = build_optimizer(build("llama"), partial(torch.optim.AdamW, lr=1e-3, weight_decay=9.0), 0.2)
    assert [(g["name"], g["weight_decay"], g["lr"]) for g in optimizer.param_groups] == [
        ("decayed", 0.2, 1e-3),
        ("undecayed", 0.0, 1e-3),
    ]


def test_a_model_without_trainable_weights_is_refused() -> None:
    model = build("llama").requires_grad_(False)
    with pytest.raises(ConfigError, match="no weight of LlamaForCausalLM requires a gradient.*lora=lora"):
        parameter_groups(model, 0.1)


def test_weight_decay_that_the_optimizer_never_reads_is_refused() -> None:
    model = nn.Linear(2, 2)
    build_optimizer(model, partial(Rprop, lr=0.1), weight_decay=0.0)
    with pytest.raises(ConfigError, match="optimizer.weight_decay=0.1 has no effect with Rprop"):
        build_optimizer(model, partial(Rprop, lr=0.1), weight_decay=0.1)


@pytest.mark.parametrize(
    "factory",
    [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adadelta],
)
def test_every_classic_optimizer_takes_the_groups(factory: Callable[..., torch.optim.Optimizer]) -> None:
    optimizer = build_optimizer(build("gpt2"), partial(factory, lr=1e-3), weight_decay=0.1)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
