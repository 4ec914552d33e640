"""Many short updates in one process, stopped and gone on with at random points: does anything grow or stay behind."""

from __future__ import annotations

import gc
import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tests.reliability.children import start
from tests.reliability.runs import Bench, difference, train

WARM = 0.3  # of the updates, in which allocators and caches still fill
STRETCH = 50  # updates between two stops, on average
PER_EPOCH = 6  # updates
FLAT = 16.0  # KiB per update that the memory may grow by
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Soak:
    """What was measured in one process.

    Attributes:
        updates: done.
        stops: how often it was stopped and gone on with, in the same process.
        seconds: it took.
        slope: KiB per update that the resident memory grew by, after the first part.
        memory: MiB of it at the end.
        files: that were open, the median of the first half and of the second; at the turn of an epoch a pipe of a
            worker that ends and one of its successor may both be there for a moment.
        left: processes that were there after it.
        wrong: what was not as it should be; empty if nothing.
    """

    updates: int
    stops: int
    seconds: float
    slope: float
    memory: float
    files: tuple[int, int]
    left: int
    wrong: str


def soak(bench: Bench, updates: int, seed: int) -> tuple[Soak, Soak]:
    """A run that is never stopped and one that is, again and again; both have to be the same."""
    draw = random.Random(f"{seed}-soak")
    stops = sorted(draw.sample(range(1, updates), max(1, updates // STRETCH)))
    whole = _measured(bench, bench.folder / "soak" / "whole", updates, [])
    stopped = _measured(bench, bench.folder / "soak" / "stopped", updates, stops, bench.folder / "soak" / "whole")
    return whole, stopped


def _measured(bench: Bench, place: Path, updates: int, stops: list[int], like: Path | None = None) -> Soak:
    epochs = -(-updates // PER_EPOCH)
    words = bench.overrides(
        "sft", place, f"trainer.epochs={epochs}", "trainer.evaluation_epochs=2", "trainer.number_of_workers=1",
    )  # fmt: skip
    samples = place.with_name(f"{place.name}-samples.txt")
    end = start(partial(_all, words, place, samples, list(stops)), place.with_name(f"{place.name}.log")).wait(
        longest=3600
    )
    found = np.loadtxt(samples, dtype=np.int64)
    late = found[int(len(found) * WARM) :]
    slope = float(np.polyfit(late[:, 0], late[:, 1], 1)[0]) * PAGE / 1024
    half = len(found) // 2
    files = int(np.median(found[:half, 2])), int(np.median(found[half:, 2]))
    wrong = f"code {end.code}" if end.code else difference(like, place) if like else ""
    wrong = wrong or f"the memory grows by {slope:.1f} KiB per update" * (slope > FLAT)
    wrong = wrong or f"open files: {files}" * (files[1] > files[0])
    wrong = wrong or f"processes were left: {end.left}" * bool(end.left)
    return Soak(
        len(found), len(stops), end.seconds, slope, float(found[-1, 1]) * PAGE / 2**20, files, len(end.left), wrong
    )


def _all(words: list[str], place: Path, samples: Path, stops: list[int]) -> None:
    """The whole training in this process, however often it is stopped."""
    with samples.open("w", buffering=1) as file:
        _sample(lambda step: file.write(f"{step} {_pages()} {len(os.listdir('/proc/self/fd'))}\n"), stops)
        command = words
        while not _ends(command):
            gc.collect()  # what a run was made of refers to itself, and is there until this
            command = [f"resume={place}"]


def _ends(command: list[str]) -> bool:
    """Train until the end, or until it is stopped."""
    try:
        train(command)
    except SystemExit:
        return False
    return True


def _sample(sample: Callable[[int], object], stops: list[int]) -> None:
    """After each update sample, and at those in `stops` have this process told to end."""
    from leyden.training.checkpoints import Checkpoints

    original = Checkpoints.on_update

    def on_update(self: Checkpoints, trainer: object, *rest: object) -> None:
        step = trainer.global_step  # type: ignore[attr-defined]
        sample(step)
        if stops and step == stops[0]:
            os.kill(os.getpid(), signal.SIGTERM)
            stops.pop(0)
        original(self, trainer, *rest)  # type: ignore[arg-type]

    Checkpoints.on_update = on_update  # type: ignore[method-assign, assignment]


def _pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])
