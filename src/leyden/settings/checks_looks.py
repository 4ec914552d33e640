"""Checks of what looks at a run before it is trained: mode=inspect and dry_run=true."""

from __future__ import annotations

from collections.abc import Iterator

from leyden.settings.schema import Settings
from leyden.settings.torchrun import is_one_of_several

SPREAD = ("fsdp", "deepspeed")  # strategies that part the weights among processes


def looks(settings: Settings) -> Iterator[str]:
    """What does not go with a look. What it does not read is no fault: the command is that of the training."""
    inspects, trainer = settings.mode == "inspect", settings.trainer
    if inspects and settings.dry_run:
        yield (
            "dry_run=true has no effect with mode=inspect, which loads no weights. Leave one of them out; a dry run "
            "writes what mode=inspect writes, too."
        )
    if not inspects and not settings.dry_run:
        return
    what = "mode=inspect" if inspects else "dry_run=true"
    if is_one_of_several():
        yield f"{what} is a matter of one process. Start it as python train.py, without torchrun."
    if inspects:
        return
    if trainer.strategy.startswith(SPREAD):
        yield (
            f"dry_run=true tries one process, and trainer.strategy={trainer.strategy} parts the weights among several. "
            "Try it with trainer=cpu or trainer=gpu, or train for one epoch on a small dataset.data_sample."
        )
    if trainer.epochs == 0:
        yield "dry_run=true has no update to try (trainer.epochs=0). Leave one of them out."
