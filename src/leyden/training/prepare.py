"""Everything before the weights: checkpoint, tokenizer, tables, trees. What is wrong with any of it ends here."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from leyden.backbone.adapters import check_adapter
from leyden.backbone.checkpoint import Checkpoint, find_checkpoint
from leyden.backbone.generate import stop_strings
from leyden.backbone.load import check_architecture
from leyden.data.datamodule import Prepared
from leyden.data.dataset import TreeDataset, check_fit
from leyden.data.fit import Stops
from leyden.data.overlap import Overlap
from leyden.data.rows import Part
from leyden.data.sources import Source
from leyden.data.templates import Template, make_template
from leyden.data.tokenization import TokenColumn, tokenize_columns
from leyden.problem.base import Problem
from leyden.problem.metrics import Metric
from leyden.settings.checks_training import training_advice
from leyden.settings.errors import ConfigError
from leyden.settings.schema import Settings
from leyden.training.devices import check_device
from leyden.training.earlier_starts import measured, read_tables
from leyden.training.gates import Counts, counts_of, oddities
from leyden.training.memory import check_budget
from leyden.training.optimizer import optimizer_factory
from leyden.training.problems import make_metrics, make_problem
from leyden.training.reading import check_readout, make_limits, make_tokenizer
from leyden.training.scheduling import check_schedule

log = logging.getLogger(__name__)

FOUND = " (from the cache)"


@dataclass(frozen=True)
class Material:
    """What a run is made of, before any weights are loaded.

    Attributes:
        checkpoint: where the weights come from.
        tokenizer: of the checkpoint.
        problem: the problem with its loss and what it took from the labels.
        metrics: computed in every evaluation; the first decides which one is best.
        template: writes conversations.
        train: training part.
        validation: validation part.
        overlap: rows that stand in both parts, or twice in training.
        counts: what was read, cut, left out, repeated and shared, by part and name, for log and manifest.
        warnings: what was odd but not wrong.
        seconds: how long each step took.
    """

    checkpoint: Checkpoint
    tokenizer: PreTrainedTokenizerBase
    problem: Problem
    metrics: tuple[Metric, ...]
    template: Template
    train: Prepared
    validation: Prepared
    overlap: Overlap
    counts: dict[str, Counts]
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def check_classes(settings: Settings, problem: Problem, direction: str) -> None:
    """Try out what the settings name by a path, before anything is read.

    Raises:
        ConfigError: optimizer, schedule, adapter or the limit of a pass do not go.
    """
    check_schedule(settings.schedule, optimizer_factory(settings.optimizer), direction)
    check_adapter(settings.lora)
    check_budget(settings, problem.loss)


def prepare(settings: Settings, *, conversions: Path | None = None) -> Material:
    """Read, check and tokenise everything a run needs besides its weights.

    With several processes it runs before any of them joins a group; the later ones find its work in the cache.

    Args:
        settings: of the run.
        conversions: where to keep converted checkpoints instead of the user's cache.

    Raises:
        ConfigError, DataError, ModelError: with all faults of the step.
    """
    check_device(settings)
    problem = make_problem(settings)
    metrics = make_metrics(settings, problem)
    check_classes(settings, problem, metrics[0].direction)
    clock = time.perf_counter()
    tables = read_tables(settings, problem)
    train, validation = tables.train, tables.validation
    problem = problem.fitted(train.source.labels and train.source.labels.of(train.rows))
    check_metrics(metrics, validation)
    seconds = {"read tables" + (FOUND if tables.found else ""): time.perf_counter() - clock}
    clock = time.perf_counter()
    checkpoint = find_checkpoint(settings.backbone, root=conversions)
    check_architecture(checkpoint, problem.head.family)
    tokenizer, added = make_tokenizer(checkpoint, settings)
    template = make_template(settings.dataset, tokenizer)
    seconds["load tokenizer"] = time.perf_counter() - clock
    clock = time.perf_counter()
    sources, cache = {id(part.source): part.source for part in (train, validation)}, settings.cache == "on"
    tokens = {key: tokens_of(source, template, tokenizer, cache=cache) for key, source in sources.items()}
    limits = make_limits(settings, problem, tokenizer)
    stops = Stops(tokenizer, template, stop_strings(settings.generation, template.stops))
    seconds["tokenize" + (FOUND if all(found for _, found in tokens.values()) else "")] = time.perf_counter() - clock
    clock = time.perf_counter()
    parts, cached = {}, True
    for name, part in (("train", train), ("validation", validation)):
        trees = TreeDataset(part, tokens[id(part.source)][0], template, problem.build_tree, limits)
        fit, found = measured(trees, name, tables, settings, problem, stops)
        check_fit(trees, fit, name)
        parts[name], cached = Prepared(trees, fit), cached and found
    check_readout(parts["train"].trees, tokenizer, problem)
    seconds["count tokens" + (FOUND if cached else "")] = time.perf_counter() - clock
    warnings = [warning for source in sources.values() for warning in source.warnings]
    warnings += [*tables.overlap.warnings, *added, *advice(settings, train), *oddities(parts, template)]
    return Material(
        checkpoint, tokenizer, problem, metrics, template, parts["train"], parts["validation"],
        tables.overlap, counts_of(parts, tables.overlap), warnings, seconds,
    )  # fmt: skip


def check_metrics(metrics: Sequence[Metric], validation: Part) -> None:
    """Ask each metric that can say so whether it can score these rows, before anything is paid for.

    Raises:
        ConfigError: with all their faults.
    """
    columns, rows = list(map(str, validation.source.table.frame.columns)), len(validation.samples)
    checks = [metric.function.check for metric in metrics if hasattr(metric.function, "check")]
    faults = [fault for check in checks for fault in check(columns, rows)]
    if not faults:
        reaches = [metric.function.reach for metric in metrics if hasattr(metric.function, "reach")]
        faults = [fault for reach in reaches for fault in reach()]
    if faults:
        raise ConfigError(faults)


def tokens_of(
    source: Source, template: Template, tokenizer: PreTrainedTokenizerBase, *, cache: bool
) -> tuple[Mapping[str, TokenColumn], bool]:
    """Token ids of a whole table by role, and whether they came from the cache."""
    return tokenize_columns(template.as_written(source.texts), tokenizer, cache=cache)


def advice(settings: Settings, train: Part) -> list[str]:
    """What is legal but likely not meant."""
    lines = list(training_advice(settings))
    if settings.backbone.trust_remote_code:
        lines.append(
            f"backbone.trust_remote_code=true: Python code that comes with {settings.backbone.name} may run, with all "
            "rights of this process."
        )
    if settings.trainer.rows > len(train.samples):
        lines.append(
            f"trainer.batch_size={settings.trainer.rows} is more than the {len(train.samples)} training samples; "
            "one batch holds them all."
        )
    quantile, augmentation = settings.tokenizer.padding_quantile, settings.augmentation
    if 0 < quantile < 1:
        lines.append(
            f"tokenizer.padding_quantile={quantile}: in training, samples above that quantile of the lengths in their "
            "batch lose their oldest tokens."
        )
    if augmentation.random_parent_probability and len(train.samples) == 1:
        lines.append("augmentation.random_parent_probability has no effect: the training part has one sample only.")
    if augmentation.skip_parent_probability and settings.dataset.parent_id_column is None:
        lines.append(
            f"augmentation.skip_parent_probability={augmentation.skip_parent_probability} has no effect without "
            "dataset.parent_id_column: there are no earlier turns."
        )
    return lines
