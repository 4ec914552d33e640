"""Random two-layer models and a byte-level tokenizer, made in milliseconds, for tests and dry runs."""

from __future__ import annotations

from typing import cast

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

SPECIAL_TOKENS = ("<unk>", "<pad>", "<bos>", "<|im_start|>", "<|im_end|>")
VOCABULARY_SIZE = 256 + len(SPECIAL_TOKENS)
MAX_LENGTH = 2048

_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SIZES: dict[str, object] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_GROUPED: dict[str, object] = {**_SIZES, "num_key_value_heads": 2, "intermediate_size": 96, "head_dim": 16}
ARCHITECTURES: dict[str, dict[str, object]] = {
    "llama": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": _GROUPED,
    "mistral": _GROUPED,
    "olmo2": _GROUPED,
    "gemma": _GROUPED,
    "gemma2": {**_GROUPED, "query_pre_attn_scalar": 16},
    "gemma3_text": {
        **_GROUPED,
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "phi": {**_SIZES, "num_key_value_heads": 2, "intermediate_size": 96},
    "phi3": {**_SIZES, "num_key_value_heads": 2, "intermediate_size": 96},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 96, "n_positions": MAX_LENGTH},
    "gpt_neox": {**_SIZES, "intermediate_size": 96},
    "opt": {**_SIZES, "ffn_dim": 96, "word_embed_proj_dim": 64},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4},
    "falcon": {**_SIZES, "ffn_hidden_size": 96},
    "t5": {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 257},
}
ENCODER_DECODERS = frozenset({"t5"})


def tiny_model(
    architecture: str, seed: int = 0, vocab_size: int = VOCABULARY_SIZE, **overrides: object
) -> PreTrainedModel:
    """Build a two-layer model of hidden size 64 with 4 heads and random weights, in evaluation mode.

    The weights are spread wider than the library's default, so that predictions are far from uniform.

    Args:
        architecture: the library's model type, such as `llama`.
        seed: equal seeds give equal weights; the global random state is left alone.
        vocab_size: rows of the embedding, at least as many as `tiny_tokenizer` has tokens, the default.
        overrides: any field of the architecture's configuration.

    Raises:
        KeyError: no sizes are known for the architecture.
    """
    if architecture not in ARCHITECTURES:
        raise KeyError(f"No tiny {architecture!r}; there are {', '.join(ARCHITECTURES)}.")
    settings: dict[str, object] = {
        "vocab_size": vocab_size,
        "max_position_embeddings": MAX_LENGTH,
        "unk_token_id": 256,
        "pad_token_id": 257,
        "bos_token_id": 258,
        "eos_token_id": 260,
        "init_std" if architecture == "opt" else "initializer_range": 0.1,
        **ARCHITECTURES[architecture],
        **overrides,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = AutoConfig.for_model(architecture, **settings)
        auto_class = AutoModelForSeq2SeqLM if architecture in ENCODER_DECODERS else AutoModelForCausalLM
        model = cast(PreTrainedModel, auto_class.from_config(config))  # type: ignore[no-untyped-call]
    model.train(False)
    return model


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer with one token per byte; any text decodes to itself.

    `<|im_end|>` is the end of sequence, and the chat template writes `<|im_start|>role`, a line break, the content and
    `<|im_end|>` for each message.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=MAX_LENGTH,
    )
