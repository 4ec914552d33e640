"""Evaluation: when it happens, counted in updates, and what comes out of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from leyden.data.batches import Batch
from leyden.problem.base import Outcome
from leyden.problem.metrics import NAMES, Metric, NoNumberError, Rated
from leyden.settings.errors import LeydenError, MetricError

NEVER = 10**9
NO_TARGET = (
    "the validation loss is over no target: no validation sample has one that weighs more than 0. Give validation rows "
    "that count, or raise weights (dataset.weight_column, problem.class_weights)."
)


@dataclass(frozen=True)
class Evaluation:
    """One pass over the validation part.

    Attributes:
        metrics: flat names such as `validation/loss`.
        samples: numbers of all samples, ascending.
        columns: for each of them the problem's columns.
        scored: which of them have what the problem needs; the others are in no loss and no metric.
        texts: what was generated, by sample; empty where no metric reads texts.
        remarks: what metrics say about single samples: cells by column, one per scored sample.
        failures: metrics that failed, with why; their value is NaN.
    """

    metrics: Mapping[str, float]
    samples: Sequence[int]
    columns: Mapping[str, Tensor]
    scored: Tensor
    texts: Mapping[int, str] = field(default_factory=dict)
    remarks: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    failures: Mapping[str, LeydenError] = field(default_factory=dict)

    @property
    def unscored(self) -> int:
        """Samples without what the problem needs."""
        return len(self.samples) - int(self.scored.sum())


class Answers(Protocol):
    """Texts for metrics that read them."""

    def of(self, backbone: nn.Module) -> Answers:
        """The same of another model."""

    def generate(self, samples: Sequence[int]) -> dict[int, str]:
        """What the model answers, by sample."""

    def columns(self, samples: Sequence[int], texts: Mapping[int, str]) -> dict[str, Sequence[Any]]:
        """Columns of texts: what was generated, what was to be said, what the model was shown, the table's rows."""


@dataclass
class Collected:
    """What the batches of an evaluation have given so far on this rank."""

    samples: list[int] = field(default_factory=list)
    columns: dict[str, list[Tensor]] = field(default_factory=dict)
    scored: list[Tensor] = field(default_factory=list)
    total: float = 0.0
    count: float = 0.0

    def add(self, batch: Batch, outcome: Outcome) -> None:
        """Take in one batch."""
        self.samples += batch.samples
        self.scored.append(outcome.scored.cpu())
        self.total += float(outcome.loss.total)
        self.count += float(outcome.loss.count)
        for name, column in outcome.columns.items():
            column = column.detach().cpu()
            self.columns.setdefault(name, []).append(column.double() if column.is_floating_point() else column)

    def joined(self, texts: Mapping[int, str]) -> dict[str, Any]:
        """Plain containers and tensors, to be sent to the other ranks."""
        columns = {name: torch.cat(pieces) for name, pieces in self.columns.items()}
        scored = torch.cat([torch.zeros(0, dtype=torch.bool), *self.scored])
        return {
            "samples": self.samples, "columns": columns, "scored": scored, "total": self.total, "count": self.count,
            "texts": dict(texts),
        }  # fmt: skip


def finish(
    collected: Collected,
    metrics: Sequence[Metric],
    answers: Answers | None = None,
    *,
    output_names: Sequence[str] = (),
    strict: bool = True,
) -> Evaluation:
    """Bring the ranks' shares together and score them; every rank gets the same result.

    The loss is the sum over all targets divided by the sum of their weights, so it does not depend on batches or ranks.

    Args:
        collected: this rank's share.
        metrics: to compute; those that read texts need `answers`.
        answers: generates them; None where no metric reads them.
        output_names: of the outputs of a head, for what metrics say about them.
        strict: raise when a metric fails; otherwise it is NaN and stands in `failures`.

    Raises:
        LeydenError: of the first metric that fails, or there is no target to take a loss over.
    """
    shares = _all_gathered(collected.joined(answers.generate(collected.samples) if answers else {}))
    samples = [sample for share in shares for sample in share["samples"]]
    order = sorted(range(len(samples)), key=samples.__getitem__)
    # a rank that had nothing but ghosts has columns of the wrong width, and no rows in them
    full = [share for share in shares if share["samples"]]
    names = list(dict.fromkeys(name for share in full for name in share["columns"]))
    columns = {name: torch.cat([share["columns"][name] for share in full])[order] for name in names}
    scored = torch.cat([share["scored"] for share in shares])[order]
    samples = [samples[place] for place in order]
    texts = {sample: text for share in shares for sample, text in share["texts"].items()}
    count = sum(share["count"] for share in shares)
    scores = {"loss": sum(share["total"] for share in shares) / count if count else math.nan}
    failures: dict[str, LeydenError] = {"loss": MetricError(NO_TARGET)} if samples and metrics and not count else {}
    kept = [sample for sample, good in zip(samples, scored.tolist(), strict=True) if good]
    remarks: dict[str, Sequence[Any]] = {}
    if kept:
        readable: dict[str, Any] = {name: column[scored] for name, column in columns.items()}
        if answers is not None:
            readable |= answers.columns(kept, texts)
        if output_names:
            readable[NAMES] = output_names
        rated, failed = _rated(metrics, readable)
        failures |= failed
        scores |= {name: value for one in rated for name, value in one.parts.items()}
        remarks = {name: cells for one in rated for name, cells in one.columns.items()}
    if failures and strict:
        raise next(iter(failures.values()))
    found = {f"validation/{name}": value for name, value in scores.items()}
    return Evaluation(found, samples, columns, scored, texts, remarks, failures)


def _rated(metrics: Sequence[Metric], readable: Mapping[str, Any]) -> tuple[list[Rated], dict[str, LeydenError]]:
    """What each metric says, its own value among its parts, and why some say nothing.

    Only rank 0 computes, since a judge costs money; all ranks hear the same, as the others would wait for ever.
    """
    rated: list[Rated] = []
    failures: dict[str, LeydenError] = {}
    if not _distributed() or torch.distributed.get_rank() == 0:
        for metric in metrics:
            try:
                one = _computed(metric, readable)
            except LeydenError as error:
                one, failures[metric.name] = Rated(math.nan), error
            rated.append(replace(one, parts={metric.name: one.value, **one.parts}))
    if _distributed():
        found: list[Any] = [rated, failures]
        torch.distributed.broadcast_object_list(found)
        rated, failures = found
    return rated, failures


def _computed(metric: Metric, readable: Mapping[str, Any]) -> Rated:
    """The metric of these rows; whatever its function raises becomes an error that names it."""
    name, rows = f"metric.{metric.name} ({metric.path})", len(next(iter(readable.values())))
    try:
        return metric.compute(readable)
    except LeydenError:
        raise
    except NoNumberError as error:
        raise MetricError(f"{name} {error} on {rows} rows. Mend the function.") from error
    except Exception as error:  # a function of the user's may raise anything
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        raise MetricError(f"{name} raised {said} on {rows} rows. Mend the function.") from error


def due_updates(total: int, per_epoch: int, every_epochs: float) -> frozenset[int]:
    """The updates after which an evaluation is due: every so many epochs, rounded, and always the last.

    Args:
        total: updates of the whole run.
        per_epoch: updates of one epoch.
        every_epochs: interval; fractions of an epoch allowed.
    """
    if not total:
        return frozenset({0})
    if every_epochs * per_epoch <= 1:
        return frozenset(range(1, total + 1)) | {total}
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
        """Nothing is due before the first update.

        Inside a resumed epoch Lightning takes the batch at hand as evaluated, and not as one to be trained, where this
        says that one was due.
        """
        self._seen = trainer.global_step
        trainer.val_check_batch = trainer.fit_loop.epoch_loop.batch_progress.current.ready or NEVER

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
    if not _distributed():
        return [share]
    shares: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(shares, share)
    return shares


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
