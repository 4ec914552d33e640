"""Settings of the training: optimizer, schedule, trainer, checkpoint."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from leyden.settings.base import Group, OpenGroup, Text

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Elements = Annotated[int, Field(ge=1_000_000)]
DeviceId = Annotated[int, Field(ge=0)]
RANGE_START = 1e-6  # of the test behind optimizer.learning_rate=auto


class Optimizer(OpenGroup):
    """An optimizer class by its dotted path; keys beyond these are handed to it."""

    target: Text = Field(alias="_target_", description="Dotted path of the class.")
    learning_rate: Annotated[float, Field(gt=0, le=1e30)] | Literal["auto"] = Field(
        description="Peak learning rate; auto: where the loss falls fastest in a range test before training."
    )
    weight_decay: NotNegative = Field(description="Decay of matrices; biases and norms are exempt.")
    differential_learning_rate_layers: list[Text] = Field(
        description="Substrings of the names of weights that learn at differential_learning_rate."
    )
    differential_learning_rate: Annotated[float, Field(gt=0, le=1e30)] = Field(
        description="Peak learning rate of those weights; the schedule has the same shape for them."
    )

    @property
    def peak(self) -> float:
        """`learning_rate` as a number; while it is still to be found, where the range test begins."""
        return RANGE_START if self.learning_rate == "auto" else self.learning_rate


class Schedule(OpenGroup):
    """The learning rate over the updates: a warmup from zero, then a curve, or any scheduler of torch.

    Further keys are handed to it; `updates` and `updates_per_epoch` as their values become numbers.
    """

    target: Text = Field(alias="_target_", description="Dotted path of the curve, or of a scheduler class.")
    warmup_epochs: NotNegative = Field(description="Length of the linear warmup, in epochs; fractions allowed.")
    min_learning_rate_ratio: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None, description="Floor after the warmup, as a share of the peak."
    )


class DeepSpeed(Group):
    """The engine of the DeepSpeed strategies; sizes are in elements, not bytes."""

    reduce_bucket_size: Elements = Field(description="Gradients that are reduced at once.")
    allgather_bucket_size: Elements = Field(description="Stage 2: weights that are gathered at once.")
    stage3_prefetch_bucket_size: Elements = Field(description="Stage 3: weights fetched before they are needed.")
    stage3_param_persistence_threshold: Elements = Field(description="Stage 3: smaller weights are not shared out.")
    stage3_max_live_parameters: Elements = Field(description="Stage 3: weights that one GPU holds whole at once.")
    stage3_max_reuse_distance: Elements = Field(description="Stage 3: a weight needed again sooner than this stays.")
    offload_optimizer: bool = Field(description="Keep the optimizer's states in the memory of the CPU.")


class Trainer(Group):
    """How many rows, how often, on which devices."""

    batch_size: Count | Literal["auto"] = Field(
        description="Rows per device and batch; auto: the largest power of two that the memory holds."
    )
    tokens_per_pass: Count | Literal["auto"] | None = Field(
        description="Tokens that go through the model at once; a larger batch is split, with the same update. auto: "
        "chosen from model and machine; null: no limit."
    )
    grad_accumulation: Count = Field(description="Batches per update.")
    epochs: Annotated[int, Field(ge=0)] = Field(description="Passes over the training rows; 0 evaluates only.")
    gradient_clip: NotNegative = Field(description="Upper bound of the gradient's L2 norm; 0: off.")
    drop_last_batch: bool = Field(description="Leave out an incomplete last batch of an epoch.")
    evaluation_epochs: Positive = Field(description="Evaluate every so many epochs, and always at the end.")
    evaluate_before_training: bool = Field(description="Evaluate once before the first update.")
    early_stopping_patience: Count | None = Field(
        description="Stop after so many evaluations in a row without a better first metric; null: never."
    )
    early_stopping_min_delta: NotNegative = Field(description="Least difference that counts as better.")
    max_minutes: Positive | None = Field(
        description="Stop after the update that ends the time, which a resume has anew; null: no limit."
    )
    max_bad_steps: Count = Field(description="Stop after so many updates in a row without a finite gradient.")
    accelerator: Literal["auto", "cpu", "gpu"] = Field(description="Kind of device.")
    devices: Literal["auto"] | Count | list[DeviceId] = Field(description="A count, or 0-based ids.")
    num_nodes: Count = Field(description="Machines.")
    strategy: Literal["auto", "ddp", "fsdp", "deepspeed_stage_2", "deepspeed_stage_3"] = Field(
        description="auto: one process; ddp: several, with a copy each; fsdp and deepspeed: several, with shares."
    )
    precision: Literal["32-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true", "64-true"] = Field(
        description="Lightning's word for the arithmetic."
    )
    find_unused_parameters: bool = Field(description="Let DDP look for weights without a gradient.")
    deepspeed: DeepSpeed
    number_of_workers: Annotated[int, Field(ge=0)] = Field(description="Processes that build batches; 0: none.")
    progress: Literal["auto", "rich", "plain", "none"] = Field(description="auto: bars in a terminal, else lines.")

    @property
    def rows(self) -> int:
        """`batch_size` as a number; 1 while it is still to be found."""
        return 1 if self.batch_size == "auto" else self.batch_size


class Checkpoint(Group):
    """What is kept of the trained weights."""

    policy: Literal["last", "best", "each_evaluation_epoch", "disable"] = Field(
        description="Which weights are kept: after the last update, of the best evaluation, of each one, or none."
    )
    every_minutes: Positive | None = Field(
        description="Write one after the update that ends so many minutes, besides those of evaluations; null: never."
    )
    max_gib: Positive | None = Field(description="Size of all checkpoints together, in GiB; null: no limit.")
    verify: bool = Field(
        default=True, description="Load the saved model in a fresh process and compare it with the run's own."
    )

    @property
    def kept(self) -> Literal["best", "final"]:
        """Which evaluation of `results.json` is that of the weights in `model/`."""
        return "best" if self.policy == "best" else "final"
