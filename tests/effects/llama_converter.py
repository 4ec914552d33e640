"""A stand-in for llama.cpp's `convert_hf_to_gguf.py`: it takes the same words, and knows Llamas without a tokenizer.

It writes a real GGUF file, which transformers reads, and keeps its words in `words.json` beside it. A test copies it to
a folder that `LLAMA_CPP` names.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

KINDS = {"f32": "F32", "f16": "F16", "q8_0": "Q8_0"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--outfile", type=Path, required=True)
    parser.add_argument("--outtype", choices=KINDS, required=True)
    wanted = parser.parse_args()
    config = json.loads((wanted.model / "config.json").read_text())
    if config["model_type"] != "llama":
        sys.exit(f"NotImplementedError: {config['model_type']} is not known here")
    (Path(__file__).parent / "words.json").write_text(json.dumps(sys.argv[1:]))
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(wanted.outfile, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_token_list([f"<{number}>" for number in range(config["vocab_size"])])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, weight in load_file(wanted.model / "model.safetensors").items():
        turned = {"q_proj": heads, "k_proj": groups}.get(name.split(".")[-2])
        values = weight.astype(np.float32) if turned is None else halves(weight.astype(np.float32), turned)
        kind = gguf.GGMLQuantizationType[KINDS[wanted.outtype] if weight.ndim > 1 else "F32"]
        writer.add_tensor(
            str(names.get_name(name, try_suffixes=(".weight",))), gguf.quantize(values, kind), raw_dtype=kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def halves(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """The rows of each head with those that turn together side by side, as the format has them."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


if __name__ == "__main__":
    main()
