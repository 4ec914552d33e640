"""What `auto` stands for: a learning rate from a range test, a batch size from the memory there is."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader

from leyden.settings.errors import ConfigError
from leyden.settings.training_groups import RANGE_START
from leyden.training.after_update import AfterUpdate
from leyden.training.module import FineTuner
from leyden.training.update import trained_weights
from leyden.training.used_memory import peak_memory_gib

HIGHEST, UPDATES = 1.0, 60  # of the range test
SMOOTHING = 0.9
DIVERGED = 4.0  # times the best loss
FEWEST = 12  # updates that a suggestion needs
SPARE = 0.8  # share of the memory that a batch may fill
LARGEST = 256
LIMITS = (  # of a container, by the two versions of control groups
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
TrainerOf = Callable[[list[Callback], int], L.Trainer]


def rate_curve(step: int) -> float:
    """The factor on `RANGE_START` at an update of the range test: it grows by the same ratio each time."""
    return float((HIGHEST / RANGE_START) ** (step / (UPDATES - 1)))


@dataclass
class RangeTest(AfterUpdate):
    """Notes the loss of each update and ends when it has left its best far behind.

    Attributes:
        losses: of the updates so far.
    """

    losses: list[float] = field(default_factory=list)

    def on_update(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at a complete update."""
        assert isinstance(pl_module, FineTuner)
        record = pl_module.record
        if record is None:
            return
        loss = record.values["train/loss"]
        if record.applied:
            self.losses.append(loss)
        best = min(smoothed(self.losses), default=math.inf)
        failed = not record.applied and pl_module.bad_steps > 0  # an update whose rows weigh nothing is no failure
        trainer.should_stop = failed or (len(self.losses) >= FEWEST and loss > DIVERGED * best)


def find_learning_rate(module: FineTuner, loader: DataLoader[Any], trainer_of: TrainerOf) -> float:
    """The rate at which the loss falls fastest, from a test in which it grows at each update.

    The weights are as before afterwards.

    Args:
        module: whose optimizer starts at `RANGE_START` and whose curve is `rate_curve`.
        loader: training batches; it is gone through again when it ends.
        trainer_of: from callbacks and a number of updates.

    Raises:
        ConfigError: the loss did not fall.

    Source: Smith 2017, arXiv:1506.01186, section 3.3.
    """
    test = RangeTest()
    with weights_kept(module):
        trainer_of([test], UPDATES).fit(module, train_dataloaders=loader)
    return suggestion(test.losses)


def suggestion(losses: Sequence[float]) -> float:
    """The rate of the update at which the smoothed loss falls fastest.

    Args:
        losses: of the updates of a range test, in order.

    Raises:
        ConfigError: there are too few, or the loss only grew.
    """
    slopes = np.diff(smoothed(losses))
    if len(losses) < FEWEST or slopes.min() >= 0:
        raise ConfigError(
            f"optimizer.learning_rate=auto: the loss did not fall in the {len(losses)} updates of the range test "
            f"({RANGE_START:g} to {HIGHEST:g}). Set optimizer.learning_rate to a number, such as 1e-4."
        )
    return float(f"{RANGE_START * rate_curve(int(slopes.argmin())):.2g}")


def smoothed(losses: Sequence[float]) -> list[float]:
    """Exponential moving average without the pull to zero at its start."""
    average, found = 0.0, []
    for step, loss in enumerate(losses, start=1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        found.append(average / (1 - SMOOTHING**step))
    return found


def find_batch_size(
    make_module: Callable[[], FineTuner],
    loader_of: Callable[[int], DataLoader[Any]],
    trainer_of: TrainerOf,
    samples: int,
) -> int:
    """The largest power of two whose update fits into four fifths of the memory, with the longest samples there are.

    On a GPU a size that does not fit is tried and given up. On a CPU it would end the process, so a size is tried only
    while twice the memory of the one before fits: twice the rows never take more. The weights are as before afterwards.

    Args:
        make_module: a module with a fresh optimizer.
        loader_of: one batch of that many of the longest training samples.
        trainer_of: from callbacks and a number of updates.
        samples: of the training part; no batch is larger.

    Raises:
        ConfigError: not even one sample fits.
    """
    size = 1
    while True:
        module = make_module()
        try:
            with weights_kept(module):
                trainer_of([], 1).fit(module, train_dataloaders=loader_of(size))
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise ConfigError(
                    "trainer.batch_size=auto: one sample of the greatest length does not fit into the memory. Lower "
                    "tokenizer.max_length, set backbone.gradient_checkpointing=true, or take a smaller backbone."
                ) from error
            torch.cuda.empty_cache()
            return size // 2
        needed = peak_memory_gib() * (1 if _on_gpu() else 2)
        if 2 * size > min(samples, LARGEST) or needed > SPARE * memory_gib():
            return size
        size *= 2


def memory_gib(limits: Sequence[Path] = LIMITS) -> float:
    """Memory of the device in use: of the GPU, or of the machine as far as this process may use it, in GiB.

    Args:
        limits: files in which the system may say how much that is, in bytes.
    """
    if _on_gpu():
        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 2**30
    said = [text for path in limits if path.is_file() and (text := path.read_text(encoding="utf-8").strip()).isdigit()]
    return min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *map(int, said), math.inf) / 2**30


def _on_gpu() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_initialized()


@contextmanager
def weights_kept(module: nn.Module) -> Iterator[None]:
    """Put the trained weights back afterwards, bit for bit, without a gradient."""
    before = {name: weight.detach().clone() for name, weight in trained_weights(module).items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in trained_weights(module).items():
                weight.copy_(before[name])
                weight.grad = None
