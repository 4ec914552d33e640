"""`model/`: what was trained, in the layout of transformers and peft, so that it loads without our code."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from leyden.artifacts.card import Card
from leyden.artifacts.manifest import versions
from leyden.artifacts.whole import write_whole
from leyden.backbone.generate import generation_config
from leyden.backbone.lora import base_location
from leyden.backbone.scoring import base_model
from leyden.settings.errors import ConfigError
from leyden.settings.schema import Settings
from leyden.training.devices import world_size
from leyden.training.outcome import Run
from leyden.training.prepare import Material

SPARE = 64 * 2**20  # bytes that logs, tables and tokenizer may take
CARD = "README.md"
BEGUN = "---\nlibrary_name: peft\n---\n"  # peft adds to a card; where none is it compiles a template that ours replaces


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
    folder.mkdir(exist_ok=True)
    if isinstance(backbone, PeftModel):
        with warnings.catch_warnings():
            # said of a vocabulary that has grown; that its embedding is saved too is what is wanted
            warnings.filterwarnings("ignore", message="Setting `save_embedding_layers` to `True`")
            write_whole(folder / CARD, BEGUN)
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
    write_card(run, material, settings, folder, results)


def write_card(  # noqa: PLR0913, PLR0917
    run: Run,
    material: Material,
    settings: Settings,
    folder: Path,
    results: Mapping[str, object],
    checked: Mapping[str, Any] | None = None,
) -> None:
    """Write the model card into a model folder, after a check with what it has found."""
    tokenizer, base = material.tokenizer, base_location(run.module.backbone)
    with with_template(tokenizer, material.template.jinja):
        card = Card(settings, material.problem, tokenizer, material.counts, results, versions(), base, checked)
        write_whole(folder / CARD, card.text())


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, jinja: str, folder: Path) -> None:
    """Write the tokenizer with the template that the model was trained on."""
    with with_template(tokenizer, jinja):
        tokenizer.save_pretrained(str(folder))


@contextmanager
def with_template(tokenizer: PreTrainedTokenizerBase, jinja: str) -> Iterator[None]:
    """The tokenizer has this chat template meanwhile."""
    before = tokenizer.chat_template
    tokenizer.chat_template = jinja
    try:
        yield
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
