"""Leyden's rows and adapter, written down for the peers: `python -m benchmarks.export_work FOLDER SETTING…`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from peft import PeftModel

from benchmarks.cases import Kind
from benchmarks.options import ROOT
from benchmarks.work import IGNORED, Shape, Work, write_work
from leyden.data.sampler import TrainingLoader
from leyden.data.trees import Tree
from leyden.settings.composition import compose_config
from leyden.settings.errors import ConfigError
from leyden.settings.read import read
from leyden.settings.schema import Settings
from leyden.training.assembly import load_backbone, make_collator, make_data
from leyden.training.prepare import Material, prepare
from leyden.training.quiet import filtered_warnings, quiet_libraries

OUTSIDE = ("embed", "lm_head", "score")  # matrices that are no linear map of a layer
KINDS: dict[str, Kind] = {"tokens": "tokens", "pair": "pairs", "classes": "classes"}


def export(settings_of_run: Sequence[str], folder: Path) -> Work:
    """Prepare a run as `train.py` does, up to the first update, and write what a peer needs into a folder.

    The adapter is drawn from the same seed at the same place as in the run, so both start from the same weights.

    Args:
        settings_of_run: overrides, as `train.py` gets them.
        folder: for `work.json` and `adapter`, which is made.
    """
    config, faults = compose_config("train", list(settings_of_run), ROOT / "conf")
    if faults or config is None:
        raise ConfigError(faults)
    settings = read(config)
    material = prepare(settings)
    with filtered_warnings():
        quiet_libraries()
        L.seed_everything(settings.seed, workers=True, verbose=False)
        backbone, _, attention = load_backbone(settings, material, None)
        collator = make_collator(settings, material.tokenizer, backbone, attention)
        loader = make_data(settings, material, collator).train_dataloader()
        assert isinstance(backbone, PeftModel)
        backbone.save_pretrained(str(folder / "adapter"))
    work = _work(settings, material, loader, folder / "adapter", shape_of(backbone))
    write_work(work, folder / "work.json")
    return work


def _work(settings: Settings, material: Material, loader: TrainingLoader, adapter: Path, shape: Shape) -> Work:
    kind = KINDS[str(settings.problem.scores)]
    epochs = _order(loader, settings.trainer.epochs)
    trees = material.train.trees
    knobs: dict[str, Any] = dict(settings.problem.loss.arguments)
    return Work(
        kind=kind,
        base=material.checkpoint.location,
        adapter=str(adapter),
        tokenizer=material.checkpoint.tokenizer_location,
        head={str(key): value for key, value in material.problem.head.config().items()},
        samples=[sample_of(trees[number].tree, kind) for number in range(len(trees))],
        epochs=epochs,
        batch_size=settings.trainer.rows,
        learning_rate=float(settings.optimizer.learning_rate),
        clip=settings.trainer.gradient_clip,
        beta=float(knobs.get("beta", 0.0)),
        precision="bfloat16" if settings.trainer.precision.startswith("bf16") else "float32",
        chained=not settings.dataset.limit_chained_samples,
        cut={
            name: int(count)
            for name, count in material.counts["train"].items()
            if count and name.startswith("samples") and ("cut" in name or "lost" in name)
        },
        shape=shape,
    )


def shape_of(model: PeftModel) -> Shape:
    """What the operations of an adapted model depend on."""
    config: Any = model.get_base_model().config
    matrices = {name: weight.numel() for name, weight in model.named_parameters() if weight.dim() == 2}  # noqa: PLR2004
    outside = [name for name in matrices if any(part in name for part in OUTSIDE)]
    adapter = sum(count for name, count in matrices.items() if "lora_" in name)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Shape(
        frozen=sum(matrices.values()) - adapter - sum(matrices[name] for name in outside),
        adapter=adapter,
        attended=config.num_hidden_layers * config.num_attention_heads * width,
        head=0 if any("modules_to_save" in name for name in matrices) else config.vocab_size * config.hidden_size,
    )


def _order(loader: TrainingLoader, epochs: int) -> list[list[list[int]]]:
    """The samples of each update, as the loader hands them out."""
    found = []
    for epoch in range(epochs):
        loader.batch_sampler.set_epoch(epoch)
        found.append([list(batch) for batch in loader.batch_sampler])
    return found


def sample_of(tree: Tree, kind: Kind) -> dict[str, Any]:
    """A tree as peers want it.

    Raises:
        ValueError: a peer could not train on the same tokens with the same labels.
    """
    paths = tree.paths()
    if kind == "classes":
        (path,) = paths
        return {"input_ids": tree.tokens[path].tolist(), "label": list(tree.labels)}
    if kind == "tokens":
        (path,) = paths
        labels = torch.full((len(path),), IGNORED)
        labels[tree.targets.tolist()] = torch.from_numpy(tree.tokens[tree.targets]).long()
        return {"input_ids": tree.tokens[path].tolist(), "labels": labels.tolist()}
    chosen, rejected = (set(tree.targets[tree.sequences == side].tolist()) for side in (0, 1))
    first, second = paths
    prompt = [place for place in first.tolist() if place not in chosen]
    if first.tolist() != [*prompt, *sorted(chosen)] or second.tolist() != [*prompt, *sorted(rejected)]:
        raise ValueError("The answers of a pair are not all labelled, or do not share their prompt.")
    sides = {"prompt": prompt, "chosen": sorted(chosen), "rejected": sorted(rejected)}
    return {name: tree.tokens[places].tolist() for name, places in sides.items()}


if __name__ == "__main__":
    export(sys.argv[2:], Path(sys.argv[1]))
