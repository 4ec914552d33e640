"""Checkpoints: the full state of the training after an evaluation, and which of them are kept."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from leyden.problem.metrics import Metric
from leyden.settings.errors import ConfigError, TrainingError
from leyden.settings.training_groups import Checkpoint
from leyden.training.callbacks import History, Point
from leyden.training.update import trained_weights

log = logging.getLogger(__name__)

STATE = "state.ckpt"
MANIFEST = "manifest.json"
GIB = 2**30


@dataclass(frozen=True)
class SavedState:
    """A checkpoint on the disk.

    Attributes:
        path: its folder.
        point: the evaluation it was written after.
        size: bytes of all its files.
        resumable: it holds the optimizer too; the one before the first update holds weights alone.
    """

    path: Path
    point: Point
    size: int
    resumable: bool


@dataclass
class Checkpoints(Callback):
    """Writes a checkpoint after each evaluation and keeps those that the policy asks for.

    A checkpoint is a folder `step-N` with `state.ckpt` (what is trained, optimizer, schedule, position; Lightning's
    layout, readable with `weights_only=True`) and `manifest.json` (step, metrics, size and sha256 of each file). It is
    written beside its place, flushed, and renamed, so a folder of that name is whole. The newest one is never deleted:
    the training goes on from there. Must stand behind `history` in the list of callbacks.

    Attributes:
        settings: policy and size budget.
        folder: where the checkpoints go.
        metric: decides which one is best.
        history: the evaluations so far.
        export: writes the model for use; with `each_evaluation_epoch` it is called for each checkpoint.
        saved: what is kept now, oldest first.
        seconds: spent on all this.
    """

    settings: Checkpoint
    folder: Path
    metric: Metric
    history: History
    export: Callable[[Path], None] | None = None
    saved: list[SavedState] = field(default_factory=list)
    seconds: float = 0.0
    _is_over_budget: bool = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save, then delete what the policy does not keep."""
        policy = self.settings.policy
        before = trainer.state.fn != TrainerFn.FITTING
        if policy == "best" and before:
            self._check_metric()
        if policy == "disable" or (before and policy != "best"):
            return
        clock = time.perf_counter()
        self._save(trainer, resumable=not before)
        self._prune(trainer)
        self.seconds += time.perf_counter() - clock

    def best(self) -> SavedState | None:
        """The kept checkpoint with the best metric; None if none has one."""
        return self._best(self.saved)

    def _best(self, saved: list[SavedState]) -> SavedState | None:
        best: SavedState | None = None
        for one in saved:
            value = best.point.metrics[self._key] if best else None
            if self.metric.improves(one.point.metrics[self._key], value):
                best = one
        return best

    @property
    def _key(self) -> str:
        return f"validation/{self.metric.name}"

    def _check_metric(self) -> None:
        value = self.history.points[-1].metrics[self._key]
        if math.isnan(value):
            raise ConfigError(
                f"checkpoint=best needs a number to compare, and metric={self.metric.name} is {value} on the "
                "validation rows. Choose another first metric, other validation rows, or checkpoint=last."
            )

    def _save(self, trainer: L.Trainer, *, resumable: bool) -> None:
        point = self.history.points[-1]
        path = self.folder / f"step-{point.step:08d}"
        partial = path.with_name(f".{path.name}.partial")
        if trainer.is_global_zero:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        trainer.strategy.barrier()
        trainer.save_checkpoint(partial / STATE, weights_only=not resumable)
        if self.settings.policy == "each_evaluation_epoch" and self.export is not None:
            self.export(partial / "model")
        size = 0
        if trainer.is_global_zero:
            size = _seal(partial, point)
            shutil.rmtree(path, ignore_errors=True)
            partial.rename(path)
            _flush(path.parent)
        self.saved = [one for one in self.saved if one.path != path]
        self.saved.append(SavedState(path, point, int(trainer.strategy.broadcast(size)), resumable))

    def _prune(self, trainer: L.Trainer) -> None:
        best = self._best(self.saved) if self.settings.policy == "best" else None
        needed = [one for one in self.saved if one is self.saved[-1] or one is best]
        kept = list(self.saved) if self.settings.policy == "each_evaluation_epoch" else needed
        budget = math.inf if self.settings.max_gib is None else self.settings.max_gib * GIB
        while sum(one.size for one in kept) > budget and len(kept) > len(needed):
            oldest = next(one for one in kept if one not in needed)
            kept.remove(oldest)
            log.info("checkpoint.max_gib=%s: %s is deleted.", self.settings.max_gib, oldest.path.name)
        if sum(one.size for one in kept) > budget and not self._is_over_budget:
            self._is_over_budget = True
            log.warning(
                "checkpoint.max_gib=%s is less than the %.3g GiB of the checkpoint that a resume needs; it stays.",
                self.settings.max_gib, sum(one.size for one in kept) / GIB,
            )  # fmt: skip
        for one in self.saved:
            if one not in kept and trainer.is_global_zero:
                shutil.rmtree(one.path)
        self.saved = kept


def load_trained(module: nn.Module, path: Path) -> None:
    """Put the trained weights of a checkpoint back into the module, by name.

    Args:
        module: with the same weights in training.
        path: folder of the checkpoint.

    Raises:
        TrainingError: the names or shapes differ.
    """
    found = torch.load(path / STATE, map_location="cpu", weights_only=True)["state_dict"]
    trained = trained_weights(module)
    if found.keys() != trained.keys():
        odd = sorted(found.keys() ^ trained.keys())
        raise TrainingError(f"{path}: {len(odd)} names differ from the weights in training, such as {odd[0]}.")
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(found[name])


def _seal(folder: Path, point: Point) -> int:
    """Flush every file, write the manifest last; return the bytes of all."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        _flush(path)
    listed = {str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in files}
    content = {"step": point.step, "samples": point.samples, "metrics": _finite(point), "files": listed}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    _flush(manifest)
    _flush(folder)
    return sum(path.stat().st_size for path in [*files, manifest])


def _finite(point: Point) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in point.metrics.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
