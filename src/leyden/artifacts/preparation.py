"""What every job does before weights are loaded: the seed, the material, and what is said and kept of the data."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from leyden.artifacts.folder import RunFolder
from leyden.artifacts.manifest import write_json
from leyden.artifacts.run_log import say
from leyden.settings.schema import Settings
from leyden.training.data_description import describe_data
from leyden.training.devices import is_later_rank
from leyden.training.gates import blocks
from leyden.training.prepare import Material, prepare

SEEDS = 1_000_000  # a drawn seed is below

log = logging.getLogger(__name__)


def with_seed(settings: Settings) -> Settings:
    """The settings with a number drawn for a seed of -1."""
    if settings.seed != -1:
        return settings
    return settings.model_copy(update={"seed": random.SystemRandom().randrange(SEEDS)})


@contextmanager
def prepared(settings: Settings, folder: RunFolder) -> Iterator[Material]:
    """The material of a run; without a cache, a converted base stays in the run folder, since its adapter needs it."""
    if settings.cache == "on":
        yield prepare(settings)
        return
    with TemporaryDirectory(prefix="leyden-") as scratch:
        material = prepare(settings, conversions=Path(scratch))
        yield replace(material, checkpoint=replace(material.checkpoint, weights_root=folder.path / "base"))


def announce(material: Material, settings: Settings, folder: RunFolder, *, needed: bool = False) -> None:
    """Say what the gates before training counted, a block for each part, and what is odd; write `data.json`.

    Args:
        material: from `prepare`.
        settings: of the run.
        folder: that is there.
        needed: there is no run that could go on without `data.json`.
    """
    for line in blocks(material.counts):
        log.info("%s", line)
    say(material.warnings)
    if is_later_rank():
        return
    clock = time.perf_counter()
    try:
        write_json(folder.path / "data.json", describe_data(settings, material), indent=None)
    except Exception as error:  # of any kind: a training is worth more than what a page says of its data
        if needed:
            raise
        log.warning("data.json could not be written (%s: %s); the run goes on without it.", type(error).__name__, error)
    material.seconds["describe the data"] = time.perf_counter() - clock
