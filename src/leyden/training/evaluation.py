"""Evaluation: when it happens, counted in updates, and what comes out of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from leyden.data.batches import Batch
from leyden.problem.base import Outcome, Problem

NEVER = 10**9


@dataclass(frozen=True)
class Evaluation:
    """One pass over the validation part.

    Attributes:
        metrics: flat names such as `validation/loss`.
        samples: numbers of the samples that were scored, ascending.
        columns: for each of them the problem's columns.
        unscored: samples without what the problem needs.
    """

    metrics: Mapping[str, float]
    samples: Sequence[int]
    columns: Mapping[str, Tensor]
    unscored: int


@dataclass
class Collected:
    """What the batches of an evaluation have given so far on this rank."""

    samples: list[int] = field(default_factory=list)
    columns: dict[str, list[Tensor]] = field(default_factory=dict)
    total: float = 0.0
    count: float = 0.0
    unscored: int = 0

    def add(self, batch: Batch, outcome: Outcome) -> None:
        """Take in one batch."""
        scored = outcome.scored.cpu()
        kept = [sample for sample, good in zip(batch.samples, scored.tolist(), strict=True) if good]
        self.samples += kept
        self.unscored += len(batch.samples) - len(kept)
        self.total += float(outcome.loss.total)
        self.count += float(outcome.loss.count)
        for name, column in outcome.columns.items():
            self.columns.setdefault(name, []).append(column.detach().cpu()[scored].double())

    def joined(self) -> dict[str, Any]:
        """Plain containers and tensors, to be sent to the other ranks."""
        columns = {name: torch.cat(pieces) for name, pieces in self.columns.items()}
        return {
            "samples": self.samples, "columns": columns, "total": self.total, "count": self.count,
            "unscored": self.unscored,
        }  # fmt: skip


def finish(collected: Collected, problem: Problem, metrics: tuple[str, ...]) -> Evaluation:
    """Bring the ranks' shares together and score them; every rank gets the same result.

    The loss is the sum over all targets divided by their number, so it does not depend on batches or ranks.
    """
    shares = _all_gathered(collected.joined())
    samples = [sample for share in shares for sample in share["samples"]]
    order = sorted(range(len(samples)), key=samples.__getitem__)
    names = list(dict.fromkeys(name for share in shares for name in share["columns"]))
    columns = {
        name: torch.cat([share["columns"][name] for share in shares if name in share["columns"]])[order]
        for name in names
    }
    count = sum(share["count"] for share in shares)
    scores = {"loss": sum(share["total"] for share in shares) / count if count else math.nan}
    if samples:
        scores |= problem.score(columns, metrics)
    return Evaluation(
        {f"validation/{name}": value for name, value in scores.items()},
        [samples[place] for place in order],
        columns,
        sum(share["unscored"] for share in shares),
    )


def due_updates(total: int, per_epoch: int, every_epochs: float) -> frozenset[int]:
    """The updates after which an evaluation is due: every so many epochs, rounded, and always the last.

    Args:
        total: updates of the whole run.
        per_epoch: updates of one epoch.
        every_epochs: interval; fractions of an epoch allowed.
    """
    times = math.floor(total / (every_epochs * per_epoch) + 1e-9)
    return frozenset({max(1, round(k * every_epochs * per_epoch)) for k in range(1, times + 1)} | {total})


class EvaluationSchedule(Callback):
    """Evaluate after given updates.

    Lightning's own interval counts batches, cuts accumulation windows and can miss the end of training. Its loop looks
    at `val_check_batch` after each batch, so this sets it to the batch at hand when an update is due.

    Args:
        due: updates, counted from 1.
    """

    def __init__(self, due: frozenset[int]) -> None:
        self.due = due
        self._seen = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Nothing is due before the first update; inside a resumed epoch the update at hand may be."""
        self._seen = trainer.global_step
        ready = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        trainer.val_check_batch = ready if ready and trainer.global_step in self.due else NEVER

    def on_train_batch_end(  # noqa: PLR0913
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Ask for an evaluation when this batch completed an update that is due."""
        stepped = trainer.global_step != self._seen
        self._seen = trainer.global_step
        trainer.val_check_batch = batch_idx + 1 if stepped and trainer.global_step in self.due else NEVER


def _all_gathered(share: dict[str, Any]) -> list[dict[str, Any]]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [share]
    shares: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(shares, share)
    return shares
