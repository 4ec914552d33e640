"""Times, losses and memory of a peer, taken from inside its process."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from benchmarks.result import Result
from leyden.training.used_memory import peak_memory_gib

STARTED = "BENCHMARK_STARTED"
"""Environment variable: when the process was started, in seconds since 1970."""


@dataclass
class Clock(TrainerCallback):
    """Listens to a `transformers.Trainer`.

    Attributes:
        losses: of each update.
        updates: seconds of each update.
        loop: seconds of the training loop.
        first: when the first update began, in seconds since 1970.
        reference: seconds of the reference's log-probabilities.
    """

    losses: list[float] = field(default_factory=list)
    updates: list[float] = field(default_factory=list)
    loop: float = 0.0
    first: float | None = None
    reference: float = 0.0
    _begun: float = 0.0
    _step: float = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock of the loop."""
        self._begun = time.perf_counter()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock of an update."""
        self.first = self.first or time.time()
        self._step = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """An update is complete."""
        self.updates.append(time.perf_counter() - self._step)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """The loop is over."""
        self.loop = time.perf_counter() - self._begun

    def saw(self, loss: Tensor) -> Tensor:
        """Keep the loss of an update."""
        self.losses.append(float(loss))
        return loss

    def result(self, arm: str) -> Result:
        """What was measured, once the training is over."""
        start = (self.first or 0.0) - float(os.environ.get(STARTED, "nan")) - self.reference
        return Result(
            arm, self.losses, self.updates, self.loop, self.reference, start, peak_memory_gib(),
            torch.get_num_threads(),
        )  # fmt: skip
