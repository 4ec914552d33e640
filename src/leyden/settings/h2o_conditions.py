"""What hangs on what in H2O LLM Studio: keys that have an effect only if another key says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# What H2O takes for a key that an old file lacks, where another key hangs on it.
ABSENT: dict[str, Any] = {
    "dataset.parent_id_column": None,
    "dataset.system_column": None,
    "dataset.validation_strategy": "automatic",
    "dataset.data_sample": 1.0,
    "dataset.mask_prompt_labels": True,
    "dataset.personalize": False,
    "training.lora": True,
    "training.schedule": "Cosine",
    "training.loss_function": None,
    "training.differential_learning_rate_layers": [],
    "prediction.metric": None,
    "prediction.do_sample": False,
    "environment.mixed_precision": True,
    "environment.use_deepspeed": False,
    "environment.deepspeed_method": "ZeRO2",
    "environment.use_fsdp": False,
    "environment.gpus": [0],
    "logging.logger": "None",
}


@dataclass(frozen=True)
class Condition:
    """What another key must say for a key to have an effect in H2O.

    Attributes:
        old: the other key.
        holds: the test of its value.
    """

    old: str
    holds: Callable[[Any], bool]


CHAINS = Condition("dataset.parent_id_column", bool)
SYSTEM = Condition("dataset.system_column", bool)
SPLIT = Condition("dataset.validation_strategy", lambda word: word == "automatic")
CUSTOM = Condition("dataset.validation_strategy", lambda word: word == "custom")
SAMPLED = Condition("dataset.data_sample", lambda share: share != 1)
MASKED = Condition("dataset.mask_prompt_labels", bool)
PERSONAL = Condition("dataset.personalize", bool)
ADAPTED = Condition("training.lora", bool)
UNADAPTED = Condition("training.lora", lambda on: not on)
CURVED = Condition("training.schedule", lambda word: word != "Constant")
SIMPO = Condition("training.loss_function", lambda word: word == "SimPOLoss")
LAYERS = Condition("training.differential_learning_rate_layers", bool)
JUDGED = Condition("prediction.metric", lambda word: str(word).startswith("GPT"))
SAMPLING = Condition("prediction.do_sample", bool)
MIXED = Condition("environment.mixed_precision", bool)
SEVERAL = Condition("environment.gpus", lambda ids: len(ids) > 1)
DEEPSPEED = Condition("environment.use_deepspeed", bool)
FSDP = Condition("environment.use_fsdp", bool)
ZERO2 = Condition("environment.deepspeed_method", lambda word: word == "ZeRO2")
ZERO3 = Condition("environment.deepspeed_method", lambda word: word == "ZeRO3")
TRACKED = Condition("logging.logger", lambda word: word != "None")
NEPTUNE = Condition("logging.logger", lambda word: word == "Neptune")
WANDB = Condition("logging.logger", lambda word: word == "W&B")


def setting(values: Mapping[str, Any], old: str) -> Any:
    """The value of a key; what H2O takes where the file does not say."""
    return values.get(old, ABSENT.get(old))
