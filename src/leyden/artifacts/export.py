"""`model/`: what was trained, in the layout of transformers and peft, so that it loads without our code."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from leyden import __version__
from leyden.backbone.generate import generation_config
from leyden.backbone.scoring import base_model
from leyden.settings.errors import ConfigError
from leyden.settings.locations import table_path
from leyden.settings.schema import Settings
from leyden.training.prepare import Material
from leyden.training.run import Run

SPARE = 64 * 2**20  # bytes that logs, tables and tokenizer may take


def check_disk(settings: Settings, material: Material, folder: Path) -> None:
    """Refuse a run whose model would not fit on the disk, before any weights are loaded.

    Raises:
        ConfigError: with the space that is needed and the space that is there.
    """
    if settings.checkpoint.policy == "disable":
        return
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    needed = SPARE
    if settings.lora is None:
        needed += _weight_bytes(material)
    if free < needed:
        raise ConfigError(
            f"output_directory={settings.output_directory!r}: the model needs about {needed / 2**20:.0f} MiB on disk, "
            f"and {free / 2**20:.0f} MiB are free there. Free some space, name another folder, or set "
            "checkpoint=disable to keep no weights."
        )


def save_model(run: Run, material: Material, settings: Settings, folder: Path, results: Mapping[str, object]) -> None:
    """Write adapter or weights (safetensors), tokenizer, chat template, generation config and a model card."""
    backbone = run.module.backbone
    folder.mkdir()
    if isinstance(backbone, PeftModel):
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
        generation_config(settings.generation, material.tokenizer).save_pretrained(folder)
    (folder / "README.md").write_text(_card(run, material, settings, results), encoding="utf-8")


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, jinja: str, folder: Path) -> None:
    """Write the tokenizer with the template that the model was trained on."""
    before = tokenizer.chat_template
    tokenizer.chat_template = jinja
    try:
        tokenizer.save_pretrained(str(folder))
    finally:
        tokenizer.chat_template = before


def _weight_bytes(material: Material) -> int:
    if material.checkpoint.gguf is not None:
        return material.checkpoint.gguf.stat().st_size * 6  # about 5 bits a weight become 32
    folder = Path(material.checkpoint.tokenizer_location)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0


def _card(run: Run, material: Material, settings: Settings, results: Mapping[str, object]) -> str:
    """The model card: what was trained on what, how well it does, and how to load it without Leyden."""
    adapter = isinstance(run.module.backbone, PeftModel)
    library, name = ("peft", "AutoPeftModelForCausalLM") if adapter else ("transformers", "AutoModelForCausalLM")
    base = f"\nThe adapter needs its base, which is at `{material.checkpoint.location}`.\n" if adapter else ""
    final = results.get("final")
    numbers = "\n".join(f"| {key} | {value} |" for key, value in (final if isinstance(final, dict) else {}).items())
    return f"""---
library_name: {library}
base_model: {settings.backbone.name}
tags: [leyden]
---

# {settings.problem.target.rpartition(".")[2]} of {settings.backbone.name}

Fine-tuned with Leyden {__version__} on `{table_path(settings.dataset.train_dataframe).name}`, \
{material.counts["train"]["samples"]} samples.
{base}
| result | value |
|---|---|
{numbers}

```python
from {library} import {name}
from transformers import AutoTokenizer

folder = "."
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {name}.from_pretrained(folder)
messages = [{{"role": "user", "content": "Hello"}}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**prompt)[0]))
```
"""
