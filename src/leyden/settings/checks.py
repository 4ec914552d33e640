"""Checks across settings and against the disk: what no single field can know."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

from leyden.settings.checks_data import HEADS, MARKERS, augmentation, chains, columns, labels, tables, texts
from leyden.settings.checks_environment import environment, unused_strategies
from leyden.settings.checks_logging import secrets, trackers
from leyden.settings.checks_looks import looks
from leyden.settings.checks_model import backbone
from leyden.settings.checks_training import optimization
from leyden.settings.locations import TINY, WHEEL, folder_faults
from leyden.settings.paths import user_path
from leyden.settings.schema import Settings
from leyden.settings.wording import show

LONGEST_NAME = 240  # bytes; file systems take 255, and a run that is being replaced has a longer name
WRITING = (
    "min_length_inference max_length_inference max_time do_sample num_beams temperature repetition_penalty stop_tokens "
    "top_k top_p"
)

OF_CHAINS = "limit_chained_samples only_last_answer group_conversations"
UNTRAINED = {  # what only a training reads
    "backbone.": "freeze_layers intermediate_dropout gradient_checkpointing",
    "trainer.": "grad_accumulation gradient_clip drop_last_batch evaluation_epochs early_stopping_patience "
    "early_stopping_min_delta max_minutes max_bad_steps find_unused_parameters",
    "tokenizer.": "padding_quantile",
    "checkpoint.": "max_gib",
}
UNTRAINED_GROUPS = ("optimizer.", "schedule.", "augmentation.")


def check(settings: Settings, explicit: frozenset[str] = frozenset()) -> list[str]:
    """Every fault that shows without reading data or weights, one sentence each.

    Args:
        settings: types and ranges are right already.
        explicit: keys that the user typed on the command line.
    """
    parts: tuple[Callable[[Settings], Iterator[str]], ...] = (
        _names, looks, _problem, tables, columns, chains, texts, labels, augmentation, backbone, _generation,
        environment, optimization, trackers, secrets,
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


def _generation(settings: Settings) -> Iterator[str]:
    generation = settings.generation
    if generation.min_length_inference > generation.max_length_inference:
        yield (
            f"generation.min_length_inference={generation.min_length_inference} is above "
            f"generation.max_length_inference={generation.max_length_inference}. Lower the first or raise the second."
        )
    if generation.do_sample and generation.temperature == 0:
        yield "generation.do_sample=true needs generation.temperature above 0. Set a temperature, or do_sample=false."


def _without_effect(settings: Settings, explicit: frozenset[str]) -> Iterator[str]:
    """Settings that the user typed and that the rest of the config switches off."""
    data, name, optimizer = settings.dataset, settings.backbone.name, settings.optimizer
    pairs, heads = settings.problem.scores == "pair", settings.problem.scores in HEADS
    policy, patience = settings.checkpoint.policy, settings.trainer.early_stopping_patience
    on_hub = not name.startswith((WHEEL, TINY)) and not user_path(name).exists()
    off: list[tuple[bool, str, str, str]] = [
        (data.chat_template, "dataset.", MARKERS, "dataset.chat_template=true: the tokenizer's template decides"),
        (data.system_column is None, "dataset.", "text_system_start add_eos_token_to_system", "no system_column"),
        (data.parent_id_column is None, "dataset.", OF_CHAINS, "no parent_id_column"),
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
        (policy == "disable", "checkpoint.", "verify", "checkpoint=disable keeps no model"),
        (patience is None, "trainer.", "early_stopping_min_delta", "trainer.early_stopping_patience=null"),
        *unused_strategies(settings.trainer),
        (
            not optimizer.differential_learning_rate_layers,
            "optimizer.",
            "differential_learning_rate",
            "optimizer.differential_learning_rate_layers=[]",
        ),
        *_untrained(settings, explicit),
        *_untracked(settings),
    ]
    reasons: dict[str, str] = {}
    for when, group, names, why in off:
        if when:
            reasons = {group + name: why for name in names.split()} | reasons
    for key in sorted(reasons.keys() & explicit):
        yield f"{key} has no effect here ({reasons[key]}). Leave it out."


def _untracked(settings: Settings) -> list[tuple[bool, str, str, str]]:
    """What nobody logs, in the same form."""
    strategy, one = settings.trainer.strategy, settings.trainer.devices == settings.trainer.num_nodes == 1
    return [
        (not settings.logger.chosen, "", "log_step_size", "logger=none"),
        (strategy == "auto", "", "log_all_ranks", "trainer.strategy=auto is one process"),
        (one, "", "log_all_ranks", "trainer.devices=1 is one process"),
    ]


def _untrained(settings: Settings, explicit: frozenset[str]) -> list[tuple[bool, str, str, str]]:
    """What a run without training does not read: whether so, the group, its keys, and why."""
    none, why = settings.trainer.epochs == 0, "trainer.epochs=0 trains nothing"
    forced = none and not settings.trainer.evaluate_before_training
    typed = [key.rpartition(".") for key in explicit if key.startswith(UNTRAINED_GROUPS)]
    return [
        *((none, group, keys, why) for group, keys in UNTRAINED.items()),
        *((none, f"{group}.", key, why) for group, _, key in typed),
        (forced, "trainer.", "evaluate_before_training", f"{why}, and evaluates once"),
    ]
