"""Checks of the backbone and its adapter against each other, the trainer, the packages and the disk."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from leyden.settings.locations import checkpoint_faults, weights_faults
from leyden.settings.paths import user_path
from leyden.settings.schema import Settings
from leyden.settings.wording import show

FLASH = "flash_attention_2"
QUANTISED = ("int8", "int4")


def backbone(settings: Settings) -> Iterator[str]:
    """What does not go together about the model, one sentence each."""
    backbone, lora = settings.backbone, settings.lora
    yield from checkpoint_faults(backbone.name, "backbone.name")
    if backbone.dtype == "float16" and lora is None and settings.trainer.epochs > 0:
        yield (
            "backbone.dtype='float16' without an adapter underflows: its updates are too small for the type. Use "
            "backbone.dtype=float32 with trainer.precision=16-mixed, or an adapter."
        )
    if backbone.dtype in QUANTISED:
        yield from _quantised(settings)
    if backbone.attention_implementation == FLASH:
        yield from _flash(settings)
    if lora is not None and lora.target_modules is not None and not lora.target_modules:
        yield "lora.target_modules=[] leaves nothing to adapt. Name modules, or null for every linear but the head."
    if lora is not None and backbone.freeze_layers:
        yield (
            f"backbone.freeze_layers={show(backbone.freeze_layers)} does not go with an adapter, under which the whole "
            "backbone is frozen. Use lora=none, or set backbone.freeze_layers=[]."
        )
    if backbone.pretrained_weights is not None:
        yield from weights_faults(backbone.pretrained_weights, "backbone.pretrained_weights")
        yield from _own_folder(settings, backbone.pretrained_weights)
    if backbone.compile:
        yield from _compiled(settings)


def _quantised(settings: Settings) -> Iterator[str]:
    """Rule A1."""
    backbone, trainer = settings.backbone, settings.trainer
    what = f"backbone.dtype={show(backbone.dtype)}"
    if find_spec("bitsandbytes") is None:
        yield f'{what} needs the package bitsandbytes. Install the extra: pip install "leyden[quantization]".'
    if not backbone.pretrained:
        yield (
            f"{what} holds weights that were learned, and backbone.pretrained=false draws them at random. Use "
            "backbone.dtype=auto."
        )
    if settings.lora is None and trainer.epochs > 0:
        yield f"{what} without an adapter cannot be trained: whole numbers have no gradient. Use lora=lora."
    if trainer.precision == "64-true":
        yield f"{what} does not compute in 64 bits (trainer.precision='64-true'). Use trainer.precision=32-true."
    if trainer.strategy not in ("auto", "ddp"):
        yield f"{what} cannot be cut in pieces by trainer.strategy={show(trainer.strategy)}. Use trainer=ddp."


def _flash(settings: Settings) -> Iterator[str]:
    """Rule R6."""
    lacking = [
        what
        for what, absent in (
            ("the package flash-attn", find_spec("flash_attn") is None),
            ("a GPU (trainer.accelerator is cpu)", settings.trainer.accelerator == "cpu"),
            ("weights of 16 bits (backbone.dtype is float32)", settings.backbone.dtype == "float32"),
        )
        if absent
    ]
    if lacking:
        yield f"backbone.attention_implementation={FLASH} needs {', and '.join(lacking)}. Use auto instead."


def _compiled(settings: Settings) -> Iterator[str]:
    """Rule E3."""
    if settings.augmentation.neftune_noise_alpha:
        yield (
            f"backbone.compile=true does not go with augmentation.neftune_noise_alpha="
            f"{settings.augmentation.neftune_noise_alpha}: compiled layers do not see noise that changes with each "
            "batch. Set one of them to its default."
        )
    if "deepspeed" in settings.trainer.strategy:
        strategy = show(settings.trainer.strategy)
        yield f"backbone.compile=true does not go with trainer.strategy={strategy}. Set backbone.compile=false."


def _own_folder(settings: Settings, source: str) -> Iterator[str]:
    """A run that replaces the folder it starts from would lose its start."""
    if not settings.overwrite or settings.experiment_name is None:
        return
    own = (user_path(settings.output_directory) / settings.experiment_name).resolve()
    path = user_path(source).resolve()
    if own in (path, *path.parents):
        yield (
            f"backbone.pretrained_weights={show(source)} is in the folder of this run, which overwrite=true would "
            "empty first. Choose another experiment_name."
        )
