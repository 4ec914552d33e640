"""Load saved models as anyone would and write down what they compute: `python fresh_process.py REQUEST FOLDER`.

This file runs on its own, with torch, transformers and peft; in its process no import of Leyden works.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and sys.platform == "linux":  # PR_SET_PDEATHSIG: who waits for the answer may be killed
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)

import torch
from torch import Tensor, nn

Json = dict[str, Any]


def load(saved: Mapping[str, Any], options: Mapping[str, Any]) -> nn.Module:
    """A saved model in evaluation mode, by the public loaders of transformers and peft.

    Args:
        saved: `folder`, `auto_class` and `head`; of an adapter `base` and `dtype`, and `quantization` where its base is
            quantised; None or absent in a whole model.
        options: for the loaders, such as `trust_remote_code`.
    """
    import transformers

    folder, loader = saved["folder"], getattr(transformers, saved["auto_class"])
    if saved.get("gguf") is not None:
        plain = transformers.GgufConfig(dequantize=True)
        read: nn.Module = loader.from_pretrained(
            folder, gguf_file=saved["gguf"], dtype=torch.float32, quantization_config=plain, **options
        )
        return read.eval()
    own = {**options, "use_safetensors": True}  # anything else would be a pickle
    if saved["base"] is None:
        whole: nn.Module = loader.from_pretrained(folder, dtype="auto", **own)
        return whole.eval()
    from peft import PeftModel
    from peft.utils import SAFETENSORS_WEIGHTS_NAME

    if not (Path(folder) / SAFETENSORS_WEIGHTS_NAME).is_file():
        raise FileNotFoundError(f"{folder} has no {SAFETENSORS_WEIGHTS_NAME}")
    if saved["revision"] is not None:
        own["revision"] = saved["revision"]
    if saved["head"]:
        own["config"] = transformers.AutoConfig.from_pretrained(folder, **options)
        there = transformers.AutoConfig.from_pretrained(saved["base"], revision=saved["revision"], **options)
        own["config"].vocab_size = there.vocab_size  # before the vocabulary grew
    if saved["quantization"] is not None:
        own["quantization_config"] = transformers.BitsAndBytesConfig.from_dict(saved["quantization"])
        own["device_map"] = {"": "cpu"}
    base = loader.from_pretrained(saved["base"], dtype=getattr(torch, saved["dtype"]), **own)
    size = len(transformers.AutoTokenizer.from_pretrained(folder, **options))
    if size > base.get_input_embeddings().num_embeddings:  # as peft's AutoPeftModel does it
        base.resize_token_embeddings(size)
    for module in base.modules():  # of 4-bit maps: their kernel for inference computes in another type
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    adapted: nn.Module = PeftModel.from_pretrained(base, folder)
    return adapted.eval()


@torch.no_grad()
def outputs_of(model: nn.Module, rows: Sequence[Json]) -> list[Tensor]:
    """What a model says of each row: logits at its positions [P, V], or the outputs of its head [1, K], float32.

    Args:
        model: of the library, adapter or not, in evaluation mode.
        rows: `input_ids`, with `decoder_input_ids` where there is a decoder beside an encoder; `positions` where
            logits are wanted, None for the outputs of a head.
    """
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    device, found = next(model.parameters()).device, []
    for row in rows:
        inputs: Json = {"input_ids": torch.tensor([row["input_ids"]], device=device)}
        if row["decoder_input_ids"] is not None:
            inputs["decoder_input_ids"] = torch.tensor([row["decoder_input_ids"]], device=device)
        if row["positions"] is None:
            logits = model(**inputs).logits
        elif "logits_to_keep" in inspect.signature(type(inner).forward).parameters:
            kept = torch.tensor(row["positions"], device=device)
            logits = model(**inputs, use_cache=False, logits_to_keep=kept).logits[0]
        else:
            logits = model(**inputs, use_cache=False).logits[0, row["positions"]]
        found.append(logits.float().cpu().contiguous())
    return found


def tokens_of(tokenizer: Any, conversation: Mapping[str, Any]) -> list[int]:
    """Token ids of a conversation through the tokenizer's chat template, or of a text through the tokenizer alone."""
    if conversation["messages"] is None:
        ids: list[int] = tokenizer(conversation["text"], add_special_tokens=False)["input_ids"]
        return ids
    return _applied(tokenizer, conversation["messages"])


def prompt_of(tokenizer: Any, conversation: Mapping[str, Any]) -> list[int] | None:
    """Token ids of the conversation up to its last answer, as one asks a model to go on; None for a text."""
    if conversation["messages"] is None:
        return None
    return _applied(tokenizer, conversation["messages"][:-1], add_generation_prompt=True)


def _applied(tokenizer: Any, messages: Sequence[Json], **options: Any) -> list[int]:
    found = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
    return list(map(int, found))


def answer(request: Mapping[str, Any], output: Path) -> Json:
    """Do what a request asks for: write `NAME.safetensors` for each model, and return the tokens."""
    import transformers
    from safetensors.torch import save_file

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(request["threads"])
    rows = json.loads(Path(request["rows"]).read_text(encoding="utf-8"))
    options = {"trust_remote_code": request["trust_remote_code"]}
    attention = {} if request["attention"] is None else {"attn_implementation": request["attention"]}
    found: Json = {"models": {}}
    for saved in request["models"]:
        model = load(saved, {**options, **attention}).to(request["device"])
        outputs = outputs_of(model, rows["rows"])
        save_file({str(n): one for n, one in enumerate(outputs)}, output / f"{saved['name']}.safetensors")
        conversations = [] if saved["gguf"] else rows["conversations"]
        found["models"][saved["name"]] = _written(saved["folder"], conversations, options)
        del model
    return found


def _written(folder: str, conversations: Sequence[Json], options: Mapping[str, Any]) -> Json:
    """Tokens and texts of conversations, and of their prompts, through the tokenizer and template of a folder."""
    import transformers

    if not conversations:
        return {"tokens": [], "texts": [], "prompts": []}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    tokens = [tokens_of(tokenizer, one) for one in conversations]
    return {
        "tokens": tokens,
        "texts": [tokenizer.decode(ids) for ids in tokens],
        "prompts": [prompt_of(tokenizer, one) for one in conversations],
    }


def main(request_path: Path, output: Path) -> None:
    """Answer the request in a file, in a process that cannot import Leyden; write `outcome.json`."""
    sys.modules["leyden"] = None  # type: ignore[assignment]  # as Python has it, any import of it fails from here on
    request = json.loads(request_path.read_text(encoding="utf-8"))
    if not any(saved["quantization"] for saved in request["models"]):
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # peft would load it for nothing
    found = answer(request, output)
    found["leyden"] = sorted(name for name, module in sys.modules.items() if name.startswith("leyden") and module)
    (output / "outcome.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
