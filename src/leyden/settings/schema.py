"""The root of all settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from leyden.settings.augmentation_groups import Augmentation
from leyden.settings.base import Group, Text
from leyden.settings.data_groups import Dataset, Tokenizer
from leyden.settings.logger_groups import Loggers
from leyden.settings.model_groups import Adapter, Backbone, Generation, Lora, Metric, Problem
from leyden.settings.training_groups import Checkpoint, Optimizer, Schedule, Trainer


def _kind_of_adapter(value: Any) -> str:
    """Which of the two groups a tree is: one with a `_target_` is for `peft` to read."""
    named = value.get("_target_") is not None if isinstance(value, dict) else isinstance(value, Adapter)
    return "<named>" if named else "<low-rank>"


AnyAdapter = Annotated[
    Annotated[Lora, Tag("<low-rank>")] | Annotated[Adapter, Tag("<named>")], Discriminator(_kind_of_adapter)
]


class Settings(Group):
    """Everything a run needs to know; the fields are in the order of the rooms."""

    experiment_name: str | None = Field(description="Name of the run's folder; null: problem, backbone and time.")
    output_directory: Text = Field(description="Folder of all runs.")
    seed: Annotated[int, Field(ge=-1, lt=2**32)] = Field(
        description="Seed of everything random; -1 draws one and saves it."
    )
    resume: Text | None = Field(
        description="Go on with a run: its folder; auto: with the one of this experiment_name, if it is there."
    )
    overwrite: bool = Field(description="Replace an existing run folder.")
    mode: Literal["train", "inspect"] = Field(
        description="Train; or look at the tables, write the data part of the report, and load no weights."
    )
    dry_run: bool = Field(
        description="Try the longest batch, estimate memory and time of the whole run; keep nothing of the training."
    )
    cache: Literal["on", "off"] = Field(
        description="Keep tokens, converted weights and the scores of a reference for the next start."
    )
    debug: bool = Field(description="Show the traceback of an error.")
    log_step_size: Literal["absolute", "relative"] = Field(
        description="What trackers count along their x axis: samples, or the share of all planned samples."
    )
    log_all_ranks: bool = Field(description="Let every process speak and keep a log, not the first one alone.")
    problem: Problem
    backbone: Backbone
    dataset: Dataset
    tokenizer: Tokenizer
    augmentation: Augmentation
    lora: AnyAdapter | None
    optimizer: Optimizer
    schedule: Schedule
    trainer: Trainer
    checkpoint: Checkpoint
    metric: Annotated[
        dict[str, Metric], Field(min_length=1, description="Metrics; the first one decides which evaluation is best.")
    ]
    generation: Generation
    logger: Loggers = Field(description="Trackers that get every number beside metrics.csv.")

    @field_validator("experiment_name", "output_directory", mode="before")
    @classmethod
    def _number_as_name(cls, value: Any) -> Any:
        return as_name(value)


def as_name(value: Any) -> Any:
    """A whole number as the text that was typed: Hydra reads `experiment_name=123` as one."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Maybe = Annotated[str | None, Field(description="As in dataset; null: as the run was trained.")]


class PredictDataset(Group):
    """The table to predict; what is null is as the run was trained."""

    path: str | None = Field(description="Table to predict: .csv, .parquet, .pq or .jsonl.")
    system_column: Maybe
    prompt_column: list[str] | str | None = Field(description="As in dataset; null: as the run was trained.")
    prompt_column_separator: Maybe
    answer_column: list[str] | str | None = Field(description="As in dataset; null: as the run was trained.")
    rejected_answer_column: Maybe
    parent_id_column: Maybe
    id_column: Maybe
    chat_template: bool | None = Field(description="As in dataset; null: as the run was trained.")


class PredictTokenizer(Group):
    """Changes of tokenizer; what is null is as the run was trained."""

    max_length: int | None


class PredictGeneration(Group):
    """Changes of generation, with the ranges it has there; what is null is as the run was trained."""

    min_length_inference: int | None
    max_length_inference: int | None
    batch_size_inference: int | None
    max_time: float | None
    do_sample: bool | None
    num_beams: int | None
    temperature: float | None
    repetition_penalty: float | None
    stop_tokens: str | None
    top_k: int | None
    top_p: float | None


class PredictSettings(Group):
    """What predict.py needs beside the settings of the run."""

    run: str | None = Field(description="Run folder, its model folder, or any model: hub id, folder, .gguf file.")
    output: str | None = Field(description="Folder for the predictions; null: a new one beside the run.")
    overwrite: bool = Field(description="Replace existing predictions.")
    cache: Literal["on", "off"] = Field(description="Keep converted weights for the next start.")
    debug: bool = Field(description="Show the traceback of an error.")
    dataset: PredictDataset
    tokenizer: PredictTokenizer
    generation: PredictGeneration

    @field_validator("run", "output", mode="before")
    @classmethod
    def _number_as_name(cls, value: Any) -> Any:
        return as_name(value)


class ExportSettings(Group):
    """What `python -m leyden.export` needs beside the settings of the run."""

    run: str | None = Field(description="Run folder, or its model folder.")
    merge: bool = Field(description="Add the adapter into its base and write a whole model.")
    output: str | None = Field(description="New folder for the model; null: merged in the run folder, with merge=true.")
    debug: bool = Field(description="Show the traceback of an error.")

    @field_validator("run", "output", mode="before")
    @classmethod
    def _number_as_name(cls, value: Any) -> Any:
        return as_name(value)
