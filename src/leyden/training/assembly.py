"""The pieces of a run, each from the settings and the prepared material: backbone, loaders, answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedTokenizerBase

from leyden.backbone.attention import AttentionChoice, choose_attention
from leyden.backbone.compiled import compile_layers
from leyden.backbone.freezing import freeze_layers
from leyden.backbone.generate import check_room, pad_id, stop_strings
from leyden.backbone.load import Chosen, check_positions, choose_dtype, weight_type
from leyden.backbone.lora import add_adapter
from leyden.backbone.scoring import base_model
from leyden.backbone.start import load_weights
from leyden.backbone.trained_weights import compare_adapters, compare_heads, find_source
from leyden.data.augmentation import Augmentor, mask_id, special_ids
from leyden.data.augmented import AugmentedTrees
from leyden.data.collator import Collator, Layout
from leyden.data.datamodule import TreeDataModule
from leyden.data.longest_prompt import longest_prompt
from leyden.data.rows import Part
from leyden.settings.schema import Settings
from leyden.settings.training_groups import Trainer
from leyden.training.answers import TEXT_COLUMNS, Answerer
from leyden.training.module import FineTuner
from leyden.training.optimizer import build_optimizer, optimizer_factory
from leyden.training.prepare import Material
from leyden.training.scheduling import Plan, Scheduler
from leyden.training.start import goes_on_with_an_adapter, load_start

log = logging.getLogger(__name__)


def load_backbone(
    settings: Settings, material: Material, folder: Path | None = None
) -> tuple[nn.Module, Chosen, AttentionChoice]:
    """The model that is trained, in training mode, with the type of its weights and the way it attends.

    Args:
        settings: of the run.
        material: from `prepare`.
        folder: of the run, where a base that is nowhere else is kept; None keeps nothing.
    """
    dtype = choose_dtype(settings.backbone.dtype, _device(settings.trainer), settings.trainer.precision)
    head = material.problem.head
    model, base = load_start(settings, material, weight_type(dtype, settings.trainer.precision), folder)
    if warning := check_positions(model, settings.tokenizer.max_length):
        log.warning("%s", warning)
    if material.problem.generates and (
        warning := check_room(model, longest_prompt(material.validation.trees), settings.generation)
    ):
        log.warning("%s", warning)
    freeze_layers(model, settings.backbone.freeze_layers)
    revision = settings.backbone.revision if base == material.checkpoint.location else None
    backbone = add_adapter(model, settings.lora, base, head.task, revision)
    if source := find_source(settings.backbone.pretrained_weights):
        compare_heads(model, source, head)
        if source.is_adapter and isinstance(backbone, PeftModel):
            compare_adapters(backbone, source, base)
            load_weights(backbone, source)
    attention = choose_attention(backbone, settings.backbone.attention_implementation)
    log.info("%s", attention.reason)
    if settings.backbone.compile:
        compile_layers(backbone)
        log.info("The layers are compiled when they are first used; text is generated without it.")
    return backbone.train(), dtype, attention


def make_data(settings: Settings, material: Material, collator: Collator) -> TreeDataModule:
    """The loaders; training samples with augmentation if any is asked for."""
    augmentation, tokenizer = settings.augmentation, material.tokenizer
    augmented = None
    if any(augmentation.model_dump().values()):
        augmented = AugmentedTrees(
            material.train.trees,
            Augmentor(augmentation, settings.seed),
            special=special_ids(tokenizer),
            mask_id=mask_id(tokenizer) if augmentation.token_mask_probability else 0,
        )
    return TreeDataModule(
        train=material.train,
        validation=material.validation,
        collator=collator,
        settings=settings.trainer,
        seed=settings.seed,
        evaluation_batch_size=settings.generation.batch_size_inference or settings.trainer.rows,
        augmented=augmented,
        grouped=settings.dataset.group_conversations,
    )


def longest_shared(settings: Settings, material: Material) -> int:
    """Tokens of the longest sample, where samples of one conversation stay together; else 0."""
    grouped = settings.dataset.group_conversations and material.train.trees.groups() is not None
    return max(material.train.fit.lengths) if grouped else 0


def make_collator(
    settings: Settings,
    tokenizer: PreTrainedTokenizerBase,
    backbone: nn.Module,
    attention: AttentionChoice,
    tokens: int | None = None,
) -> Collator:
    """How batches are made for a backbone that attends in this way, and passes of so many tokens at most."""
    config = base_model(backbone).config
    layout: Layout = "padded" if attention.engine == "padded" else "packed"
    if config.is_encoder_decoder:
        layout = "encoder_decoder"
    start = getattr(config, "decoder_start_token_id", None)
    limits = settings.tokenizer
    return Collator(layout, pad_id(tokenizer), start or 0, limits.padding_quantile, limits.max_length, tokens)


def reads_texts(material: Material) -> bool:
    """Whether a metric needs generated texts."""
    return any(column in TEXT_COLUMNS for metric in material.metrics for column in metric.reads)


def make_answerer(
    settings: Settings, material: Material, backbone: nn.Module, advance: Callable[[int], None] = lambda rows: None
) -> Answerer:
    """What generates the answers of the validation rows."""
    generation = settings.generation
    return Answerer(
        backbone, material.tokenizer, material.validation.trees, generation,
        stop_strings(generation, material.template.stops),
        generation.batch_size_inference or settings.trainer.rows, settings.seed, advance,
    )  # fmt: skip


def _device(settings: Trainer) -> torch.device:
    cuda = settings.accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if cuda else "cpu")


def make_module(  # noqa: PLR0913
    settings: Settings,
    material: Material,
    backbone: nn.Module,
    updates: int,
    per_epoch: int,
    *,
    make_schedule: Callable[[Optimizer], Scheduler] | None = None,
) -> FineTuner:
    """The LightningModule of a run.

    Args:
        settings: of the run.
        material: from `prepare`.
        backbone: that learns.
        updates: of the whole training.
        per_epoch: updates of an epoch.
        make_schedule: in place of the one that the settings ask for.
    """
    return FineTuner(
        backbone,
        material.problem,
        make_optimizer=_optimizer(settings),
        make_schedule=make_schedule or Plan(settings.schedule, material.metrics[0].direction, updates, per_epoch),
        metrics=material.metrics,
        seed=settings.seed,
        max_bad_steps=settings.trainer.max_bad_steps,
        places=partial(_places, material.train.trees.part, settings.dataset.id_column),
        answers=make_answerer(settings, material, backbone) if reads_texts(material) else None,
        noise_alpha=settings.augmentation.neftune_noise_alpha,
        learned=goes_on_with_an_adapter(settings),
    )


def _optimizer(settings: Settings) -> Callable[[nn.Module], Optimizer]:
    optimizer = settings.optimizer
    return partial(
        build_optimizer,
        factory=optimizer_factory(optimizer),
        weight_decay=optimizer.weight_decay,
        layers=optimizer.differential_learning_rate_layers,
        rate=optimizer.differential_learning_rate,
    )


def _places(part: Part, id_column: str | None, samples: Sequence[int]) -> str:
    """Where the rows stand that the samples are named after, the last of each conversation, with their ids."""
    table, rows = part.source.table, sorted(part.samples[sample][-1] for sample in samples)
    if id_column is None or id_column not in table.frame.columns:
        return table.places(rows)
    shown = dict.fromkeys(map(repr, table.rows(rows)[id_column].tolist()))
    return f"{table.places(rows)} (ids {', '.join(shown)})"
