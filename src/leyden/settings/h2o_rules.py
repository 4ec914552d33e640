"""How one key of H2O LLM Studio becomes ours: by name, by a choice of a file, or from several keys at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from leyden.settings.h2o_conditions import Condition, setting
from leyden.settings.h2o_values import Reader

Values = Mapping[str, Any]
PROBLEMS = {
    "text_causal_language_modeling": "causal_lm",
    "text_causal_classification_modeling": "classification",
    "text_causal_regression_modeling": "regression",
    "text_sequence_to_sequence_modeling": "seq2seq",
    "text_dpo_modeling": "dpo",
}
EVERY = frozenset(PROBLEMS.values())
TEXTS = frozenset({"causal_lm", "seq2seq", "dpo"})
CHAT = frozenset({"causal_lm"})
UNSET = object()

_TOKENS = {
    "TokenAveragedCrossEntropy": "token_averaged_cross_entropy",
    "SampleAveragedCrossEntropy": "sample_averaged_cross_entropy",
}
_TEXT_METRICS = {"Perplexity": "perplexity", "BLEU": "bleu", "GPT": "gpt", "GPT3.5": "gpt", "GPT4": "gpt"}
LOSSES = {
    "causal_lm": _TOKENS,
    "seq2seq": _TOKENS,
    "classification": {"BinaryCrossEntropyLoss": "binary_cross_entropy", "CrossEntropyLoss": "cross_entropy"},
    "regression": {"MSELoss": "squared_error", "MAELoss": "absolute_error"},
    "dpo": {
        "DPOLoss": "dpo",
        "DPOHingeLoss": "hinge",
        "DPOIPOLoss": "ipo",
        "KTOPairLoss": "kto_pair",
        "CPOLoss": "cpo",
        "SimPOLoss": "simpo",
    },
}
METRICS = {
    "causal_lm": _TEXT_METRICS,
    "seq2seq": _TEXT_METRICS,
    "dpo": _TEXT_METRICS,
    "classification": {"AUC": "auc", "Accuracy": "accuracy", "LogLoss": "log_loss"},
    "regression": {"MSE": "mse", "MAE": "mae"},
}
OPTIMIZERS = {
    "AdamW": "adamw",
    "Adam": "adam",
    "SGD": "sgd",
    "RMSprop": "rmsprop",
    "Adadelta": "adadelta",
    "AdamW8bit": "adamw_8bit",
}
LOGGERS = {"None": "none", "Neptune": "neptune", "W&B": "wandb"}


@dataclass(frozen=True)
class Row:
    """One line of the table of keys.

    Attributes:
        old: key of H2O's file, with its section.
        spec: number of the setting in the specification; `old` for what H2O has dropped.
        read: makes a plain value of what stands in the file, or raises ValueError with what is allowed.
        new: our key, or our group for a row with `pick`; empty for a key that is never mapped.
        why: the reason, if it is never mapped.
        problems: the problems in which H2O reads it.
        needs: what other keys must say for it to have an effect.
        off: the value that means the same as not having the setting.
        derive: our value, if it is not the same one.
        pick: names of the file of the group, the first that exists counts.
        closed: every value that `read` lets through is legal in H2O, so one that Leyden refuses is one it lacks.
        remarks: what to say of some values.
    """

    old: str
    spec: str
    read: Reader
    new: str = ""
    why: str = ""
    problems: frozenset[str] = EVERY
    needs: tuple[Condition, ...] = ()
    off: Any = UNSET
    derive: Callable[[Values], Any] | None = None
    pick: Callable[[Values, str], Sequence[str]] | None = None
    closed: bool = False
    remarks: Mapping[Any, str] = field(default_factory=dict)


def precision(values: Values) -> str:
    """`trainer.precision` in Lightning's words; H2O itself switches autocast off in full training of 16-bit weights."""
    full = not setting(values, "training.lora") and values.get("architecture.backbone_dtype") in ("float16", "bfloat16")
    if full or not setting(values, "environment.mixed_precision"):
        return "32-true"
    return "16-mixed" if values.get("environment.mixed_precision_dtype") == "float16" else "bf16-mixed"


def devices(values: Values) -> int | list[int]:
    """`trainer.devices`: a count where the GPUs are the first ones, so that the experiment runs elsewhere too."""
    ids: list[int] = values["environment.gpus"]
    return max(1, len(ids)) if ids == list(range(len(ids))) else ids


def loss(values: Values, problem: str) -> Sequence[str]:
    """The file of conf/problem/loss."""
    return (LOSSES[problem][values["training.loss_function"]],)


def metric(values: Values, problem: str) -> Sequence[str]:
    """The file of conf/metric."""
    return (METRICS[problem][values["prediction.metric"]],)


def trainer(values: Values, problem: str) -> Sequence[str]:
    """The file of conf/trainer: by what shares the weights among devices, else by their number and kind."""
    ids: list[int] = setting(values, "environment.gpus")
    if not ids:
        return ("cpu",)
    shared = [*(sharded(values, problem) if setting(values, "environment.use_deepspeed") else ())]
    shared += ["fsdp"] if setting(values, "environment.use_fsdp") else []
    return (*shared, "ddp" if len(ids) > 1 else "auto" if ids == [0] else "gpu")


def sharded(values: Values, _: str) -> Sequence[str]:
    """The file of conf/trainer with DeepSpeed; older files name the stage where newer ones say true."""
    on = setting(values, "environment.use_deepspeed")
    stage = on if isinstance(on, str) else setting(values, "environment.deepspeed_method")
    return ("deepspeed_" + str(stage).lower(),)


def adapter(values: Values, _: str) -> Sequence[str]:
    """The file of conf/lora."""
    kinds = [kind for kind in ("dora", "rslora") if values.get(f"training.use_{kind}")]
    return (kinds[0] if kinds else "lora",) if values["training.lora"] else ("none",)


def unfrozen(values: Values) -> list[str]:
    """`lora.unfreeze_layers`, with the embedding for the older switch of that name."""
    layers: list[str] = values.get("training.lora_unfreeze_layers", [])
    embed = values.get("architecture.force_embedding_gradients") and "embed" not in layers
    return [*layers, "embed"] if embed else layers


def attention(values: Values) -> str:
    """`backbone.attention_implementation`; older files have a switch for one of them."""
    old = "flash_attention_2" if values.get("training.use_flash_attention_2") else "auto"
    return str(values.get("training.attention_implementation", old))


def tokenizer_arguments(values: Values) -> dict[str, Any]:
    """`tokenizer.tokenizer_kwargs`; older files have a key for each argument."""
    names = ("use_fast", "add_prefix_space")
    old = {name: values[f"tokenizer.{name}"] for name in names if f"tokenizer.{name}" in values}
    return {**old, **values.get("tokenizer.tokenizer_kwargs", {})}


def runs_folder(values: Values) -> str:
    """`output_directory`: H2O's is the folder of one run, ours the folder above."""
    path = str(values["output_directory"]).rstrip("/")
    name = values.get("experiment_name")
    inside = path.rpartition("/")
    return (inside[0] or "/" if inside[1] else ".") if name and inside[2] == name else path


def template(values: Values) -> str:
    """`metric.gpt.template`; a template of the user is a file in H2O's folder `prompts`."""
    known = {"general": "general", "rag": "rag", "mt-bench": "two_turn"}
    name = values["prediction.metric_gpt_template"]
    return known.get(name, f"prompts/{name}.txt")
