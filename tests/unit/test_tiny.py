"""The tiny models and the byte-level tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from leyden.backbone.tiny import VOCABULARY_SIZE, tiny_model, tiny_tokenizer

ARCHITECTURES = ["llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text", "phi", "phi3"]
ARCHITECTURES += ["olmo2", "gpt2", "gpt_neox", "opt", "bloom", "falcon"]
TEXTS = [
    "",
    "plain text",
    " spaces  at both ends ",
    "tab\tand\r\nline breaks\n\n",
    "Grüße, façade, Ελληνικά, 日本語, العربية",
    "e\u0301 is not \u00e9",
    "🎉👩‍💻",
    "nul \x00, bell \x07, \u200b zero width",
    "don't , stop . clean ! up",
    "".join(map(chr, range(1, 256))),
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_tiny_model_is_small_sure_of_itself_and_repeatable(architecture: str) -> None:
    state = torch.get_rng_state()
    model = tiny_model(architecture, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.config.model_type == architecture
    assert not model.training
    assert sum(weight.numel() for weight in model.parameters()) < 300_000
    ids = torch.arange(20)[None] * 7
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
        again = tiny_model(architecture, seed=3)(input_ids=ids, use_cache=False).logits
        other = tiny_model(architecture, seed=4)(input_ids=ids, use_cache=False).logits
    assert logits.shape == (1, 20, VOCABULARY_SIZE)
    assert logits.std() > 0.3
    assert torch.equal(logits, again)
    assert not torch.allclose(logits, other, atol=0.1)


def test_overrides_reach_the_configuration() -> None:
    model = tiny_model("mistral", vocab_size=300, sliding_window=4, num_hidden_layers=1)
    assert model.config.sliding_window == 4
    assert len(model.model.layers) == 1
    assert model.get_input_embeddings().weight.shape == (300, 64)


def test_an_unknown_architecture_lists_the_known() -> None:
    with pytest.raises(KeyError, match="llama, qwen2"):
        tiny_model("lama")


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back(text: str) -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text


def test_special_tokens_have_ids_of_their_own() -> None:
    tokenizer = tiny_tokenizer()
    assert len(tokenizer) == VOCABULARY_SIZE
    special = [tokenizer.unk_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    config = tiny_model("llama").config
    assert special == [
        config.get_text_config().unk_token_id,
        config.pad_token_id,
        config.bos_token_id,
        config.eos_token_id,
    ]
    assert len(set(special)) == 4
    assert tokenizer.convert_ids_to_tokens(tokenizer("<|im_start|>a<|im_end|>")["input_ids"]) == [
        "<|im_start|>",
        "a",
        "<|im_end|>",
    ]
    assert tokenizer.eos_token == "<|im_end|>"


def test_the_chat_template_is_chatml() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    text = tiny_tokenizer().apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nho<|im_end|>\n<|im_start|>assistant\n"


def test_a_saved_tokenizer_is_the_same_after_loading(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert loaded.decode(loaded(text)["input_ids"]) == text
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.special_tokens_map == tokenizer.special_tokens_map
