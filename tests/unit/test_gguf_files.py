"""GGUF files are converted to the same tensors with less work; how transformers does it is put back afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GgufConfig

from leyden.backbone.gguf_files import read_once

LAYERS, WIDTH, INNER, WORDS = 3, 64, 96, 40


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of three layers with weights of four types."""
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("small")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(WORDS)
    writer.add_token_list([f"word {number} é" for number in range(WORDS)])
    generator = np.random.default_rng(0)
    kinds = gguf.GGMLQuantizationType
    shapes = {"attn_q": (WIDTH, WIDTH), "attn_k": (WIDTH // 2, WIDTH), "attn_v": (WIDTH // 2, WIDTH),
              "attn_output": (WIDTH, WIDTH), "ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH),
              "ffn_down": (WIDTH, INNER), "attn_norm": (WIDTH,), "ffn_norm": (WIDTH,)}  # fmt: skip
    tensors = {f"blk.{layer}.{name}.weight": shape for layer in range(LAYERS) for name, shape in shapes.items()}
    tensors |= {"token_embd.weight": (WORDS, WIDTH), "output_norm.weight": (WIDTH,)}
    for place, (name, shape) in enumerate(tensors.items()):
        kind = (kinds.Q8_0, kinds.Q4_0, kinds.F16)[place % 3] if len(shape) > 1 else kinds.F32
        values = generator.standard_normal(shape).astype(np.float32)
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def converted(path: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    found: dict[str, torch.Tensor] = model.state_dict()
    return found


def counted(calls: list[str], name: str, function: Callable[..., object]) -> Callable[..., object]:
    def call(*args: object) -> object:
        calls.append(name)
        return function(*args)

    return call


def test_the_weights_are_those_that_transformers_reads(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, calls = converted(checkpoint), list[str]()
    monkeypatch.setattr(gguf, "get_tensor_name_map", counted(calls, "names", gguf.get_tensor_name_map))
    monkeypatch.setattr(gguf.GGUFReader, "_build_fields", counted(calls, "fields", gguf.GGUFReader._build_fields))
    with read_once():
        found = converted(checkpoint)
    assert sorted(calls) == ["fields", "names"]
    assert len(expected) > 9 * LAYERS
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    assert all(weight.abs().sum() > 0 for weight in found.values())


def test_the_fields_are_those_of_the_file(checkpoint: Path) -> None:
    expected = gguf.GGUFReader(checkpoint)
    with read_once():
        found = gguf.GGUFReader(checkpoint)
        assert gguf.GGUFReader(checkpoint) is found
    assert type(found.data) is np.ndarray
    assert found.fields.keys() == expected.fields.keys()
    for name, field in expected.fields.items():
        own = found.fields[name]
        assert (own.types, own.data, own.name) == (field.types, field.data, field.name)
        assert all(np.array_equal(one, two) for one, two in zip(own.parts, field.parts, strict=True))
    assert len(found.fields["tokenizer.ggml.tokens"].data) == WORDS
    assert [tensor.name for tensor in found.tensors] == [tensor.name for tensor in expected.tensors]
    assert all(np.array_equal(one.data, two.data) for one, two in zip(found.tensors, expected.tensors, strict=True))


def test_gguf_is_put_back_however_the_conversion_ends() -> None:
    before = dict(vars(gguf))

    def broken() -> None:
        with read_once():
            assert vars(gguf) != before
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        broken()
    assert vars(gguf) == before
