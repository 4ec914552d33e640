"""A run becomes a GGUF file through llama.cpp's real converter, where `LLAMA_CPP` or the path has one.

It knows tokenizers by what they make of a text, so the tokenizer here is that of the 135M checkpoint, under two drawn
layers. Without a converter tests/effects/test_export_command.py has a stand-in, which writes the same format.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.effects.small_runs import Columns, settings_of, trained
from transformers import LlamaConfig, LlamaForCausalLM

from leyden import export
from leyden.backbone.checkpoint import find_checkpoint, load_tokenizer
from leyden.settings.gguf_converter import find_converter

COLUMNS: Columns = {"p": ["red", "green", "blue", "white"], "a": ["one", "two", "three", "four"]}
FOUND = None if os.environ.get("LLAMA_CPP") is None else find_converter()


@pytest.mark.skipif(FOUND is None, reason="LLAMA_CPP names no folder with llama.cpp's converter")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_the_real_converter_writes_what_was_trained(kind: str, tmp_path: Path) -> None:
    named = settings_of(tmp_path / "named", COLUMNS, "backbone=llama")
    tokenizer = load_tokenizer(find_checkpoint(named.backbone), {})
    tokenizer.save_pretrained(tmp_path / "base")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, tie_word_embeddings=True, **sizes)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    learn = ["optimizer.learning_rate=2e-2", "checkpoint.verify=true", "backbone.dtype=float32"]
    run = trained(tmp_path, COLUMNS, f"backbone.name={tmp_path / 'base'}", *learn)
    assert export.main([f"run={run}", "format=gguf", f"gguf_type={kind}"]) == 0
    found = json.loads((run / "manifest.json").read_text())["export"]["gguf"]
    assert found["rows"] == 4
    assert found["max_logit_difference"] <= found["tolerance"] * max(1.0, found["largest_logit"]) / 2
