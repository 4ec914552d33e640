"""Settings of the training: optimizer, schedule, trainer, checkpoint."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from leyden.settings.base import Group, OpenGroup, Text

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
DeviceId = Annotated[int, Field(ge=0)]


class Optimizer(OpenGroup):
    """An optimizer class by its dotted path; keys beyond these are handed to it."""

    target: Text = Field(alias="_target_", description="Dotted path of the class.")
    learning_rate: Annotated[float, Field(gt=0, le=1e30)] = Field(description="Peak learning rate.")
    weight_decay: NotNegative = Field(description="Decay of matrices; biases and norms are exempt.")
    differential_learning_rate_layers: list[Text] = Field(
        description="Substrings of the names of weights that learn at differential_learning_rate."
    )
    differential_learning_rate: Annotated[float, Field(gt=0, le=1e30)] = Field(
        description="Peak learning rate of those weights; the schedule has the same shape for them."
    )


class Schedule(OpenGroup):
    """The learning rate over the updates: a warmup from zero, then a curve, or any scheduler of torch.

    Further keys are handed to it; `updates` and `updates_per_epoch` as their values become numbers.
    """

    target: Text = Field(alias="_target_", description="Dotted path of the curve, or of a scheduler class.")
    warmup_epochs: NotNegative = Field(description="Length of the linear warmup, in epochs; fractions allowed.")
    min_learning_rate_ratio: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None, description="Floor after the warmup, as a share of the peak."
    )


class Trainer(Group):
    """How many rows, how often, on which devices."""

    batch_size: Count = Field(description="Rows per device and forward pass.")
    grad_accumulation: Count = Field(description="Forward passes per update.")
    epochs: Annotated[int, Field(ge=0)] = Field(description="Passes over the training rows; 0 evaluates only.")
    gradient_clip: NotNegative = Field(description="Upper bound of the gradient's L2 norm; 0: off.")
    drop_last_batch: bool = Field(description="Leave out an incomplete last batch of an epoch.")
    evaluation_epochs: Positive = Field(description="Evaluate every so many epochs, and always at the end.")
    evaluate_before_training: bool = Field(description="Evaluate once before the first update.")
    max_bad_steps: Count = Field(description="Stop after so many updates in a row without a finite gradient.")
    accelerator: Literal["auto", "cpu", "gpu"] = Field(description="Kind of device.")
    devices: Literal["auto"] | Count | list[DeviceId] = Field(description="A count, or 0-based ids.")
    num_nodes: Count = Field(description="Machines.")
    strategy: Literal["auto", "ddp"] = Field(description="auto: one process; ddp: several, with a copy each.")
    precision: Literal["32-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true", "64-true"] = Field(
        description="Lightning's word for the arithmetic."
    )
    find_unused_parameters: bool = Field(description="Let DDP look for weights without a gradient.")
    number_of_workers: Annotated[int, Field(ge=0)] = Field(description="Processes that build batches; 0: none.")
    progress: Literal["auto", "rich", "plain", "none"] = Field(description="auto: bars in a terminal, else lines.")


class Checkpoint(Group):
    """What is kept of the trained weights."""

    policy: Literal["last", "disable"] = Field(description="last: the weights after the last update.")
