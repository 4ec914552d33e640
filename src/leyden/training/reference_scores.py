"""Log-probabilities of the reference: computed once before training and looked up, or live where that cannot be."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leyden.backbone.reference import Reference
from leyden.data.batches import Batch
from leyden.data.dataset import TreeDataset
from leyden.data.trees import Tree
from leyden.problem.losses import compares_pairs
from leyden.settings.schema import Settings

CHECKSUMS = "checksums.json"
KEY_BYTES = 16


@dataclass(frozen=True)
class ScoringPlan:
    """Of which parts the scores are computed before training, decided once per run.

    Attributes:
        parts: `train`, `validation`, both or none.
        reason: why a part is left out, with the setting; empty when none is.
    """

    parts: tuple[str, ...]
    reason: str = ""


def plan_scores(settings: Settings, loss: Any) -> ScoringPlan:
    """Decide it: a sample that is not the same in every epoch cannot be looked up, nor can shared weights be copied."""
    strategy, quantile = settings.trainer.strategy, settings.tokenizer.padding_quantile
    if strategy not in ("auto", "ddp"):
        return ScoringPlan((), f"trainer.strategy={strategy} spreads the weights over the processes")
    if not settings.trainer.epochs:
        return ScoringPlan(("validation",))
    augmented = {name: value for name, value in settings.augmentation.model_dump().items() if value}
    for name, value in augmented.items():
        return ScoringPlan(("validation",), f"augmentation.{name}={value} changes the samples in training")
    if 0 < quantile < 1:
        return ScoringPlan(
            ("validation",), f"tokenizer.padding_quantile={quantile} cuts samples as their batch asks for"
        )
    if compares_pairs(loss):  # its first gradient hangs on a mean of 0, which rounding in another batch would move
        return ScoringPlan(
            ("validation",), "this loss compares the pairs of a batch, and at the start they have to be equal"
        )
    return ScoringPlan(("train", "validation"))


@dataclass(frozen=True)
class SampleKeys:
    """The samples of a part by their content; equal ones are scored once.

    Attributes:
        distinct: [U], one key per distinct sample, ascending.
        rows: [samples], which of them each sample is.
        firsts: [U], the first sample of each.
        offsets: int64 [U + 1], where the scores of each begin: one per target.
    """

    distinct: NDArray[np.bytes_]
    rows: NDArray[np.int64]
    firsts: NDArray[np.int64]
    offsets: NDArray[np.int64]


def sample_keys(trees: TreeDataset) -> SampleKeys:
    """Build every tree once and hash what decides its scores: tokens, structure and targets."""
    count = len(trees)
    keys, counts = np.empty(count, dtype=f"S{KEY_BYTES}"), np.empty(count, dtype=np.int64)
    for sample in range(count):
        tree = trees[sample].tree
        keys[sample], counts[sample] = tree_key(tree), len(tree.targets)
    distinct, firsts, rows = np.unique(keys, return_index=True, return_inverse=True)
    return SampleKeys(distinct, rows, firsts, np.concatenate([[0], np.cumsum(counts[firsts], dtype=np.int64)]))


def tree_key(tree: Tree) -> bytes:
    """Content hash of all that the log-probabilities of a tree's targets depend on, and of their order."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in (tree.tokens, tree.starts, tree.parents, tree.targets, tree.sources, tree.sequences):
        numbers = np.asarray(part, dtype=np.int64)
        digest.update(len(numbers).to_bytes(8, "little") + numbers.tobytes())
    return digest.digest()


@dataclass(frozen=True)
class PartScores:
    """The reference's scores of the samples of a part.

    Attributes:
        logps: float32, nats; the targets of each distinct sample in the order of its own tree, one sample after
            another; a memory map of the cached file.
        keys: where each sample's begin.
    """

    logps: NDArray[np.float32]
    keys: SampleKeys

    def of(self, samples: Sequence[int]) -> NDArray[np.float32]:
        """Those of some samples, one after another."""
        rows, offsets = self.keys.rows[list(samples)], self.keys.offsets
        pieces = [self.logps[offsets[row] : offsets[row + 1]] for row in rows]
        return np.concatenate([np.empty(0, dtype=np.float32), *pieces])


@dataclass
class ReferenceScores:
    """What a training asks for the scores of its reference.

    A part that is in `parts` is looked up. Without it, a batch in training is scored live, and a validation batch
    when it is first met.

    Attributes:
        parts: scores by part, `train` and `validation`.
        seconds: that it took to compute or read them.
        report: for the manifest.
    """

    parts: dict[str, PartScores] = field(default_factory=dict)
    seconds: float = 0.0
    report: dict[str, Any] = field(default_factory=dict)
    _met: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def of(self, batch: Batch, reference: Reference, *, training: bool) -> Tensor:
        """Log-probability of each target of the batch under the reference: [N], on its device.

        Args:
            batch: of training or of validation samples, in the order of the batch's targets: sample by sample.
            reference: asked when the scores are not known.
            training: which of the two.

        Raises:
            RuntimeError: the batch has other targets than the samples it names.
        """
        part = self.parts.get("train" if training else "validation")
        if part is not None:
            logps = part.of(batch.samples)
            if len(logps) != len(batch.target_ids):
                raise RuntimeError(
                    f"A batch has {len(batch.target_ids)} targets, and its samples have {len(logps)} known scores."
                )
            return torch.from_numpy(logps).to(batch.target_ids.device)
        if training:
            return reference.logps(batch)
        if batch.samples not in self._met:
            self._met[batch.samples] = reference.logps(batch)
        return self._met[batch.samples]


def write_scores(folder: Path, logps: NDArray[np.float32], offsets: NDArray[np.int64]) -> None:
    """Write scores and where each sample's begin, with their checksums."""
    for name, array in (("logps", logps), ("offsets", offsets)):
        np.save(folder / f"{name}.npy", array)
    sums = {"logps": zlib.crc32(logps.data), "offsets": zlib.crc32(offsets.data)}
    (folder / CHECKSUMS).write_text(json.dumps(sums), encoding="utf-8")


def read_scores(folder: Path, offsets: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """The scores in a folder; None unless they are as they were written, and as many as these samples have.

    Args:
        folder: of `write_scores`.
        offsets: where the scores of each sample have to begin.
    """
    try:
        sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        begins = np.load(folder / "offsets.npy")
        # an empty file cannot be mapped
        logps: NDArray[np.float32] = np.load(folder / "logps.npy", mmap_mode="r" if offsets[-1] > 0 else None)
        whole = {"logps": zlib.crc32(logps.data), "offsets": zlib.crc32(begins.data)} == sums
    except (OSError, ValueError, EOFError):
        return None
    fits = np.array_equal(begins, offsets) and logps.shape == (int(offsets[-1]),) and logps.dtype == np.float32
    return logps if whole and fits else None
