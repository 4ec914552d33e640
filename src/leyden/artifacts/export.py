"""`model/`: what was trained, in the layout of transformers and peft, so that it loads without our code."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from leyden import __version__
from leyden.backbone.generate import generation_config
from leyden.backbone.heads import Head
from leyden.backbone.lora import base_location
from leyden.backbone.scoring import base_model
from leyden.problem.base import Problem
from leyden.settings.errors import ConfigError
from leyden.settings.locations import table_path
from leyden.settings.schema import Settings
from leyden.training.devices import world_size
from leyden.training.outcome import Run
from leyden.training.prepare import Material

SPARE = 64 * 2**20  # bytes that logs, tables and tokenizer may take


def check_disk(settings: Settings, material: Material, folder: Path) -> None:
    """Refuse a run whose model and checkpoints would not fit on the disk, before any weights are loaded.

    A checkpoint is counted as the weights and twice as much for the optimizer, as Adam has it. Those of an adapter are
    small; they have to do with what is spared for logs and tables.

    Raises:
        ConfigError: with the space that is needed and the space that is there.
    """
    if settings.checkpoint.policy == "disable":
        return
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    total, _, free = shutil.disk_usage(place)
    if not total:
        return  # a file system that does not say
    needed = SPARE
    backbone = settings.backbone
    elsewhere = backbone.pretrained and backbone.pretrained_weights is None
    if settings.lora is None or not elsewhere:
        needed += _weight_bytes(material)
    if settings.lora is None:
        needed += checkpoint_bytes(settings, _weight_bytes(material), len(material.train.trees))
    if settings.lora is None and not elsewhere and material.problem.uses_reference:
        needed += _weight_bytes(material)  # the start, which the reference of a prediction needs
    if free < needed:
        raise ConfigError(
            f"output_directory={settings.output_directory!r}: model and checkpoints need about "
            f"{needed / 2**20:.0f} MiB on disk, and {free / 2**20:.0f} MiB are free there. Free some space, name "
            "another folder, or set "
            "checkpoint=disable to keep no weights."
        )


def save_model(run: Run, material: Material, settings: Settings, folder: Path, results: Mapping[str, object]) -> None:
    """Write adapter or weights (safetensors), tokenizer, chat template, generation config and a model card."""
    backbone = run.module.backbone
    folder.mkdir()
    if isinstance(backbone, PeftModel):
        with warnings.catch_warnings():
            # said of a vocabulary that has grown; that its embedding is saved too is what is wanted
            warnings.filterwarnings("ignore", message="Setting `save_embedding_layers` to `True`")
            backbone.save_pretrained(str(folder))
    else:
        model = base_model(backbone)
        model.config.use_cache = True
        with torch.no_grad():
            model.save_pretrained(folder)
        model.config.use_cache = False
    if material.problem.head.outputs is not None:
        base_model(backbone).config.save_pretrained(str(folder))  # an adapter alone would not know its classes
    save_tokenizer(material.tokenizer, material.template.jinja, folder)
    if material.problem.generates:
        generation = generation_config(settings.generation, material.tokenizer)
        # a decoder beside an encoder starts from a token of its own, which neither settings nor tokenizer know
        generation.decoder_start_token_id = getattr(base_model(backbone).config, "decoder_start_token_id", None)
        generation.save_pretrained(folder)
    (folder / "README.md").write_text(_card(run, material, settings, results), encoding="utf-8")


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, jinja: str, folder: Path) -> None:
    """Write the tokenizer with the template that the model was trained on."""
    before = tokenizer.chat_template
    tokenizer.chat_template = jinja
    try:
        tokenizer.save_pretrained(str(folder))
    finally:
        tokenizer.chat_template = before


def checkpoint_bytes(settings: Settings, weights: int, samples: int) -> int:
    """Most bytes of all checkpoints at a time: the next one is whole before one that is not kept goes.

    Args:
        settings: of the run, without an adapter.
        weights: bytes of the model.
        samples: of the training part.
    """
    policy, trainer = settings.checkpoint, settings.trainer
    per_epoch = math.ceil(samples / (trainer.rows * trainer.grad_accumulation * world_size(trainer)))
    evaluations = min(math.ceil(trainer.epochs / trainer.evaluation_epochs), trainer.epochs * per_epoch)
    together = {"last": 2, "best": 3}.get(policy.policy, evaluations)
    one = weights * (4 if policy.policy == "each_evaluation_epoch" else 3)  # there a model stands in each
    needed = min(together, evaluations) * one
    return needed if policy.max_gib is None else min(needed, max(int(policy.max_gib * 2**30), one) + one)


def _weight_bytes(material: Material) -> int:
    if material.checkpoint.gguf is not None:
        return material.checkpoint.gguf.stat().st_size * 6  # about 5 bits a weight become 32
    folder = Path(material.checkpoint.tokenizer_location)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0


def _tables(settings: Settings) -> str:
    return ", ".join(f"`{table_path(name).name}`" for name in settings.dataset.train_tables)


def _card(run: Run, material: Material, settings: Settings, results: Mapping[str, object]) -> str:
    """The model card: what was trained on what, how well it does, and how to load it without Leyden."""
    backbone = run.module.backbone
    adapter, where = isinstance(backbone, PeftModel), base_location(backbone) or material.checkpoint.location
    base = f"\nThe adapter needs its base, which is at `{where}`.\n" if adapter else ""
    final = results.get("final")
    numbers = "\n".join(f"| {key} | {value} |" for key, value in (final if isinstance(final, dict) else {}).items())
    return f"""---
library_name: {"peft" if adapter else "transformers"}
base_model: {settings.backbone.name}
tags: [leyden]
---

# {settings.problem.target.rpartition(".")[2]} of {settings.backbone.name}

Fine-tuned with Leyden {__version__} on {_tables(settings)}, \
{material.counts["train"]["samples"]} samples.
{base}
| result | value |
|---|---|
{numbers}

```python
{_loading(material.problem.head, where if adapter else None, generates=material.problem.generates)}
{_using(material.problem)}
```
"""


def _loading(head: Head, base: str | None, *, generates: bool) -> str:
    """Lines of Python that load the saved model; an adapter with a head takes the head's size from the saved config."""
    name = head.auto_class.__name__
    peft, classes, load = "", name, f"model = {name}.from_pretrained(folder)"
    if base is not None and head.outputs is None:
        name = f"AutoPeft{name.removeprefix('Auto')}"
        peft, classes, load = f"from peft import {name}\n", "", f"model = {name}.from_pretrained(folder)"
    elif base is not None:
        peft, classes = "from peft import PeftModel\n", f"AutoConfig, {name}"
        load = (
            f"base = {name}.from_pretrained({base!r}, config=AutoConfig.from_pretrained(folder))\n"
            "model = PeftModel.from_pretrained(base, folder).eval()"
        )
    imported = ["AutoTokenizer", *filter(None, classes.split(", ")), *(["GenerationConfig"] if generates else [])]
    settings = "generation = GenerationConfig.from_pretrained(folder)\n" if generates else ""
    return (
        f'{peft}from transformers import {", ".join(sorted(imported))}\n\nfolder = "."\n'
        f"tokenizer = AutoTokenizer.from_pretrained(folder)\n{settings}{load}"
    )


def _using(problem: Problem) -> str:
    """Lines of Python that answer one text with the loaded model."""
    if problem.head.family == "decoder" and problem.head.outputs is None:
        return """messages = [{"role": "user", "content": "Hello"}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**prompt, generation_config=generation)[0]))"""
    lines = """text = "Hello"  # written as in training: see prompt_text in predictions.csv
inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
"""
    if problem.head.outputs is None:
        return f"{lines}print(tokenizer.decode(model.generate(**inputs, generation_config=generation)[0]))"
    if problem.head.problem_type == "regression":
        return (
            f"{lines}outputs = model(**inputs).logits[0].tolist()\n"
            "scale = zip(model.config.target_mean, model.config.target_deviation, outputs)\n"
            "print([mean + deviation * output for mean, deviation, output in scale])"
        )
    kind = "softmax(-1)" if problem.head.problem_type == "single_label_classification" else "sigmoid()"
    return f"{lines}print(model.config.id2label, model(**inputs).logits[0].{kind}.tolist())"
