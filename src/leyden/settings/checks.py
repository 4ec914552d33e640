"""Checks across settings and against the disk: what no single field can know."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from leyden.settings.checks_data import HEADS, MARKERS, augmentation, chains, columns, labels, tables, texts
from leyden.settings.locations import TINY, WHEEL, checkpoint_faults, folder_faults
from leyden.settings.schema import Settings
from leyden.settings.wording import show

FLASH = "flash_attention_2"
LONGEST_NAME = 240  # bytes; file systems take 255, and a run that is being replaced has a longer name
WRITING = (
    "min_length_inference max_length_inference max_time do_sample num_beams temperature repetition_penalty stop_tokens "
    "top_k top_p"
)


def check(settings: Settings, explicit: frozenset[str] = frozenset()) -> list[str]:
    """Every fault that shows without reading data or weights, one sentence each.

    Args:
        settings: types and ranges are right already.
        explicit: keys that the user typed on the command line.
    """
    parts: tuple[Callable[[Settings], Iterator[str]], ...] = (
        _names, _problem, tables, columns, chains, texts, labels, augmentation, _backbone, _generation, _training,
    )  # fmt: skip
    faults = [fault for part in parts for fault in part(settings)]
    return faults + list(_without_effect(settings, explicit))


def check_prediction(settings: Settings, explicit: frozenset[str] = frozenset()) -> list[str]:
    """The same for a prediction, which reads one table and trains nothing."""
    parts = (columns, chains, texts, labels, _generation)
    return [fault for part in parts for fault in part(settings)] + list(_without_effect(settings, explicit))


def _names(settings: Settings) -> Iterator[str]:
    name = settings.experiment_name
    if name is not None and (not re.fullmatch(r"[^/\\\0]+", name) or name in (".", "..") or name != name.strip()):
        yield f"experiment_name={show(name)} is no folder name. Use letters, digits, dashes and dots, without slashes."
    if name is not None and len(os.fsencode(name)) > LONGEST_NAME:
        yield (
            f"experiment_name={show(name)} has {len(os.fsencode(name))} bytes, and a folder's name may have "
            f"{LONGEST_NAME}. Shorten it."
        )
    yield from folder_faults(settings.output_directory, "output_directory")


def _problem(settings: Settings) -> Iterator[str]:
    problem = settings.problem
    if problem.loss.scores != problem.scores:
        name = problem.loss.target.rpartition(".")[2]
        yield (
            f"problem/loss={name} reads scores of {problem.loss.scores}, but {problem.target.rpartition('.')[2]} has "
            f"scores of {problem.scores}. Choose a file of conf/problem/loss with `scores: {problem.scores}`."
        )
    for name, metric in settings.metric.items():
        if metric.target.startswith("leyden.") and name not in problem.metrics:
            yield f"metric={name} does not go with this problem. Allowed: {', '.join(problem.metrics)}."


def _backbone(settings: Settings) -> Iterator[str]:
    backbone, lora = settings.backbone, settings.lora
    yield from checkpoint_faults(backbone.name, "backbone.name")
    if backbone.dtype == "float16" and lora is None and settings.trainer.epochs > 0:
        yield (
            "backbone.dtype='float16' without an adapter underflows: its updates are too small for the type. Use "
            "backbone.dtype=float32 with trainer.precision=16-mixed, or an adapter."
        )
    if backbone.attention_implementation == FLASH:
        lacking = [
            what
            for what, absent in (
                ("the package flash-attn", find_spec("flash_attn") is None),
                ("a GPU (trainer.accelerator is cpu)", settings.trainer.accelerator == "cpu"),
                ("weights of 16 bits (backbone.dtype is float32)", backbone.dtype == "float32"),
            )
            if absent
        ]
        if lacking:
            yield f"backbone.attention_implementation={FLASH} needs {', and '.join(lacking)}. Use auto instead."
    if lora is not None and lora.target_modules is not None and not lora.target_modules:
        yield "lora.target_modules=[] leaves nothing to adapt. Name modules, or null for every linear but the head."


def _generation(settings: Settings) -> Iterator[str]:
    generation = settings.generation
    if generation.min_length_inference > generation.max_length_inference:
        yield (
            f"generation.min_length_inference={generation.min_length_inference} is above "
            f"generation.max_length_inference={generation.max_length_inference}. Lower the first or raise the second."
        )
    if generation.do_sample and generation.temperature == 0:
        yield "generation.do_sample=true needs generation.temperature above 0. Set a temperature, or do_sample=false."


def _training(settings: Settings) -> Iterator[str]:
    trainer = settings.trainer
    if trainer.accelerator == "cpu" and trainer.precision.startswith("16-"):
        yield (
            f"trainer.precision={show(trainer.precision)} needs a GPU. On a CPU use 32-true, or bf16-mixed where the "
            "processor has bfloat16."
        )
    if isinstance(trainer.devices, list):
        if not trainer.devices or len(set(trainer.devices)) < len(trainer.devices):
            yield f"trainer.devices={trainer.devices} must name at least one device, each once."
        elif trainer.accelerator == "cpu":
            yield f"trainer.devices={trainer.devices} names GPUs. With trainer.accelerator=cpu give a count."
    count = len(set(trainer.devices)) if isinstance(trainer.devices, list) else trainer.devices
    if trainer.strategy == "auto" and (trainer.num_nodes > 1 or (isinstance(count, int) and count > 1)):
        yield (
            f"trainer.devices={trainer.devices} on trainer.num_nodes={trainer.num_nodes} are several processes, and "
            "trainer.strategy=auto is for one. Set trainer.strategy=ddp."
        )


def _without_effect(settings: Settings, explicit: frozenset[str]) -> Iterator[str]:
    """Settings that the user typed and that the rest of the config switches off."""
    data, backbone = settings.dataset, settings.backbone
    pairs, heads = settings.problem.scores == "pair", settings.problem.scores in HEADS
    policy, patience = settings.checkpoint.policy, settings.trainer.early_stopping_patience
    on_hub = not backbone.name.startswith((WHEEL, TINY)) and not Path(backbone.name).expanduser().exists()
    off: list[tuple[bool, str, str, str]] = [
        (data.chat_template, "dataset.", MARKERS, "dataset.chat_template=true: the tokenizer's template decides"),
        (data.system_column is None, "dataset.", "text_system_start add_eos_token_to_system", "no system_column"),
        (data.parent_id_column is None, "dataset.", "limit_chained_samples only_last_answer", "no parent_id_column"),
        (not data.prompt_columns[1:], "dataset.", "prompt_column_separator", "fewer than two prompt columns"),
        (not data.personalize, "dataset.", "chatbot_name chatbot_author", "dataset.personalize=false"),
        (len(data.train_tables) == 1, "dataset.", "train_ratios", "one table to train on"),
        (data.data_sample == 1, "dataset.", "data_sample_choice", "dataset.data_sample=1"),
        (not data.data_sample_choice, "dataset.", "data_sample", "dataset.data_sample_choice=[]"),
        (data.validation_strategy == "custom", "dataset.", "validation_size", "dataset.validation_strategy=custom"),
        (pairs, "dataset.", "mask_prompt_labels only_last_answer", "of pairs, the last answers count"),
        (heads, "dataset.", "mask_prompt_labels only_last_answer add_eos_token_to_answer", "a head writes no text"),
        (heads, "generation.", WRITING, "a head writes no text"),
        (not settings.generation.do_sample, "generation.", "temperature top_k top_p", "generation.do_sample=false"),
        (not on_hub, "backbone.", "revision", "backbone.name is no hub id"),
        (policy != "each_evaluation_epoch", "checkpoint.", "max_gib", f"checkpoint={policy} keeps what it must"),
        (patience is None, "trainer.", "early_stopping_min_delta", "trainer.early_stopping_patience=null"),
        (settings.trainer.strategy == "auto", "trainer.", "find_unused_parameters", "trainer.strategy=auto"),
    ]
    reasons: dict[str, str] = {}
    for when, group, names, why in off:
        if when:
            reasons = {group + name: why for name in names.split()} | reasons
    for key in sorted(reasons.keys() & explicit):
        yield f"{key} has no effect here ({reasons[key]}). Leave it out."
