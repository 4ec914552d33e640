"""Checks of optimizer, schedule and adapter that need neither torch nor the libraries they name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import find_spec

from leyden.settings.config_files import definition
from leyden.settings.model_groups import Adapter, Lora
from leyden.settings.schema import Settings
from leyden.settings.sweeps import available_cores
from leyden.settings.training_groups import Schedule
from leyden.settings.wording import show

EXTRAS = {"bitsandbytes": "quantization", "schedulefree": "schedulefree"}
INITIALISATIONS = (True, False, "gaussian", "orthogonal")  # of LoRA, those that leave the base as it is
SEQUENCE = "it puts tokens of its own before the text, and positions, lengths and shared prompts are counted without"
REFUSED = {
    "AdaLoraConfig": "it moves ranks between layers by a call after every step, which this trainer does not make",
    "XLoraConfig": "it mixes adapters that are trained already",
    "AdaptionPromptConfig": "it replaces the attention modules, and with them how samples of one row are kept apart",
} | dict.fromkeys(
    ("PromptTuningConfig", "PrefixTuningConfig", "PromptEncoderConfig", "MultitaskPromptTuningConfig", "CPTConfig",
     "CartridgeConfig"),
    SEQUENCE,
)  # fmt: skip
INSTEAD = "Choose a file of conf/lora, or another adapter that stands beside the layers, such as peft.HRAConfig."


def optimization(settings: Settings) -> Iterator[str]:
    """Faults of the optimizer, the schedule and the adapter, one sentence each."""
    yield from missing_package(settings.optimizer.target, "optimizer._target_")
    yield from missing_package(settings.schedule.target, "schedule._target_")
    yield from _found(settings)
    yield from _schedule(settings.schedule)
    yield from _adapter(settings.lora)


def _found(settings: Settings) -> Iterator[str]:
    """Values that are found on the machine, which one process has to do."""
    if settings.trainer.strategy != "auto":
        for key, value in (
            ("optimizer.learning_rate", settings.optimizer.learning_rate),
            ("trainer.batch_size", settings.trainer.batch_size),
        ):
            if value == "auto":
                yield (
                    f"{key}=auto is found by one process, and trainer.strategy={settings.trainer.strategy} is for "
                    "several. Find it once with trainer.strategy=auto, and write the number here."
                )

    trainer = settings.trainer
    if trainer.batch_size == "auto" and trainer.epochs == 0:
        yield (
            "trainer.batch_size=auto looks for the rows of an update, and with trainer.epochs=0 there is none. Set a "
            "number."
        )
    if trainer.batch_size == "auto" and trainer.drop_last_batch and settings.log_step_size == "relative":
        yield (
            "log_step_size=relative needs to know how many samples trainer.drop_last_batch=true leaves out, and with "
            "trainer.batch_size=auto nobody does at the start. Set a number, or log_step_size=absolute."
        )


def training_advice(settings: Settings) -> Iterator[str]:
    """What is legal but likely not meant."""
    schedule, epochs = settings.schedule, settings.trainer.epochs
    if schedule.warmup_epochs and schedule.warmup_epochs >= epochs > 0:
        yield (
            f"schedule.warmup_epochs={schedule.warmup_epochs} is as long as the training (trainer.epochs={epochs}); "
            "the peak learning rate is never reached."
        )
    workers, cores = settings.trainer.number_of_workers, available_cores()
    if workers > cores:
        yield (
            f"trainer.number_of_workers={workers} is more than the {cores} cores of this machine; each is a process "
            "with memory of its own. Rows are tokenised before, so few are needed."
        )
    if settings.optimizer.target.startswith("schedulefree.") and not schedule.target.endswith(".constant"):
        yield (
            f"optimizer._target_={settings.optimizer.target} averages weights in place of a falling rate, and schedule "
            "lets the rate fall all the same. Leave the schedule out, or set schedule=constant."
        )
    if schedule.target.endswith(".inverse_sqrt") and not schedule.warmup_epochs:
        yield "schedule=inverse_sqrt without schedule.warmup_epochs falls from the first update on."


def missing_package(target: str, setting: str) -> Iterator[str]:
    """A sentence that names the extra, if the library of a dotted path is optional and not installed.

    Args:
        target: dotted path.
        setting: where it stands.
    """
    package = target.partition(".")[0]
    if package in EXTRAS and find_spec(package) is None:
        yield f"{setting}={show(target)} needs {package}. Install it: pip install -e '.[{EXTRAS[package]}]'."


def _schedule(schedule: Schedule) -> Iterator[str]:
    curve = definition(schedule.target)
    if not schedule.min_learning_rate_ratio or not isinstance(curve, ast.FunctionDef):
        return
    if all(argument.arg != "floor" for argument in curve.args.kwonlyargs):
        yield (
            f"schedule.min_learning_rate_ratio={schedule.min_learning_rate_ratio} has no effect with {curve.name}, "
            "which never falls. Leave it out, or choose schedule=cosine or schedule=linear."
        )


def _adapter(lora: Lora | Adapter | None) -> Iterator[str]:
    if not isinstance(lora, Adapter):
        return
    name, start = lora.target.rpartition(".")[2], lora.knobs.get("init_lora_weights", True)
    if name in REFUSED:
        yield f"lora._target_={show(lora.target)} does not work here: {REFUSED[name]}. {INSTEAD}"
    if start not in INITIALISATIONS:
        yield (
            f"lora.init_lora_weights={show(start)} changes the weights under the adapter, so that switching it off "
            "does not give the starting point back. Allowed: true, false, 'gaussian', 'orthogonal'."
        )
    for key in ("r", "alpha", "lora_alpha"):
        value = lora.knobs.get(key, 1)
        if key == "r" and _is_left_to_blocks(value, lora.knobs.get("oft_block_size", name == "OFTConfig")):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            yield f"lora.{key}={show(value)} is not allowed: an adapter of that size says nothing. Allowed: above 0."


def _is_left_to_blocks(rank: object, block_size: object) -> bool:
    """Whether a rank of 0 says that the size of the blocks is given instead, as is the default of OFT."""
    return rank == 0 and not isinstance(rank, bool) and bool(block_size)
