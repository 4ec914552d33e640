"""The pass of the reference over all samples, before the first update or evaluation; its result is kept on disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from leyden.backbone.compiled import is_compiled
from leyden.backbone.scoring import base_model
from leyden.data.cache import cached_folder, content_key, known_folder
from leyden.data.datamodule import TreeDataModule, leave_signals
from leyden.data.sampler import Rank
from leyden.training.module import FineTuner
from leyden.training.progress import Display
from leyden.training.reference_scores import PartScores, SampleKeys, ScoringPlan, read_scores, sample_keys, write_scores

FORMAT = 1  # of the files and of how scores are computed; a change of it makes every old cache a stranger
KIND = "reference"
TOKENS = 2048  # of a batch without a gradient; not of the batch size, so that runs that differ in it share their scores
PATHS = 2  # of a pair: the chosen answer and the rejected one
PACKAGES = ("leyden", "torch", "transformers", "peft", "bitsandbytes")  # another version may compute in another order
log = logging.getLogger(__name__)


class ReferenceScoring(Callback):
    """Computes the scores of the reference, or reads them, when the first loop of a run starts.

    By then the weights are on their device and in their type, and the processes are a group. Scores are a function of
    their key, so a run that reads them has the same numbers, bit for bit, as the one that wrote them. Training samples
    are scored in the same batches whatever the batch size, the order of the rows or the number of processes.
    Validation samples are scored in the batches of the evaluations, so that before training a policy that is its
    reference differs from it by nothing, and not by rounding.

    Args:
        plan: which parts.
        data: of the run.
        cache: keep the scores on disk.
        display: shows how far it is.
    """

    def __init__(self, plan: ScoringPlan, data: TreeDataModule, display: Display, *, cache: bool) -> None:
        self.plan, self.data, self.display, self.cache = plan, data, display, cache
        self._done = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score, unless an evaluation before training came first."""
        self._fill(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score, unless a loop has started before."""
        self._fill(trainer, pl_module)

    def _fill(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._done:
            return
        self._done = True
        assert isinstance(module, FineTuner)
        clock = time.perf_counter()
        scores, computed, distinct = module.scores, 0, 0
        took: dict[str, float] = {}
        numbers = _numbers_key(trainer, module, self.data.collator.layout) if self.plan.parts else ""
        for name in self.plan.parts:
            keys = sample_keys(getattr(self.data, name).trees)
            scored, fresh = self._part(trainer, module, name, keys, numbers)
            scores.parts[name] = PartScores(scored, keys)
            computed, distinct = computed + fresh, distinct + len(keys.distinct)
            took[name] = time.perf_counter() - clock - sum(took.values())
        scores.seconds = time.perf_counter() - clock
        if set(self.plan.parts) == {"train", "validation"}:
            module.reference.release()
        scores.report = {
            "in_training": "looked up" if "train" in self.plan.parts else "live", "reason": self.plan.reason,
            "computed": computed, "read": distinct - computed, "key": numbers,
            "seconds": {name: round(value, 3) for name, value in took.items()},
        }  # fmt: skip
        self._say(computed, distinct, scores.seconds)

    def _say(self, computed: int, distinct: int, seconds: float) -> None:
        if self.plan.reason:
            log.info("The reference is scored live, batch by batch, in training, because %s.", self.plan.reason)
        if self.plan.parts:
            log.info(
                "The reference's scores of %d distinct samples (%s): %d computed, %d from the cache, %.1f s.",
                distinct, " and ".join(self.plan.parts), computed, distinct - computed, seconds,
            )  # fmt: skip

    def _part(
        self, trainer: L.Trainer, module: FineTuner, part: str, keys: SampleKeys, numbers: str
    ) -> tuple[NDArray[np.float32], int]:
        """The scores of a part, and how many samples had to be scored for them."""
        key, computed = content_key(numbers, keys.distinct.tobytes(), *self._cut(part)), None

        def sound(folder: Path) -> bool:
            return read_scores(folder, keys.offsets) is not None

        def fill(folder: Path) -> None:
            nonlocal computed
            if computed is None:
                computed = self._scored(trainer, module, part, keys, Rank())
            write_scores(folder, computed, keys.offsets)

        if not self.cache or (trainer.world_size > 1 and _on_any_rank(known_folder(KIND, key, sound=sound) is None)):
            computed = self._scored(trainer, module, part, keys, Rank(trainer.global_rank, trainer.world_size))
        if self.cache:
            folder = cached_folder(KIND, key, fill, sound=sound)
            if computed is None and (found := read_scores(folder, keys.offsets)) is not None:
                return found, 0
        assert computed is not None
        return computed, len(keys.distinct)

    def _scored(
        self, trainer: L.Trainer, module: FineTuner, part: str, keys: SampleKeys, rank: Rank
    ) -> NDArray[np.float32]:
        """Score every distinct sample; each rank takes its share of the batches, and every one gets all scores."""
        loader = self._loader(part, keys, rank)
        logps, scored = np.empty(int(keys.offsets[-1]), dtype=np.float32), []
        with self.display.phase("reference", sum(map(len, loader.batch_sampler or ()))):
            for batch in (one for passes in loader for one in passes):
                with trainer.precision_plugin.forward_context():
                    found = module.reference.logps(batch.to(trainer.strategy.root_device))
                scored.append((batch.samples, found.float().cpu().numpy()))
                self.display.advance(len(batch.samples))
        for samples, values in _of_all_ranks(scored) if rank.world > 1 else scored:
            rows, start = keys.rows[list(samples)], 0
            for row in rows:
                begin, end = keys.offsets[row], keys.offsets[row + 1]
                logps[begin:end] = values[start : start + end - begin]
                start += end - begin
        return logps

    def _loader(self, part: str, keys: SampleKeys, rank: Rank) -> DataLoader[Any]:
        """The distinct training samples, or the batches of an evaluation."""
        drawn = torch.Generator()  # its own, so that the training draws what it would have drawn
        if part == "validation":
            return self.data.evaluation_loader(rank, drawn)
        return DataLoader(
            self.data.train.trees,
            batch_sampler=scoring_batches(keys, self.data.train.fit.lengths)[rank.index :: rank.world],
            collate_fn=replace(self.data.collator.for_evaluation(), tokens=None).passes,
            num_workers=self.data.settings.number_of_workers,
            worker_init_fn=leave_signals,
            generator=drawn,
        )

    def _cut(self, part: str) -> tuple[object, ...]:
        """What scores hang on besides, by rounding: how validation samples are cut into batches."""
        if part == "train":
            return ()
        world = self.data.world
        batches = [list(self.data.evaluation_loader(Rank(rank, world)).batch_sampler or ()) for rank in range(world)]
        most, tokens = largest(batches, self.data.validation.fit.lengths, self.data.collator.layout), None
        if self.data.collator.tokens is not None and most > self.data.collator.tokens:
            tokens = self.data.collator.tokens  # on a GPU the free memory of the moment, so only where it cuts
        return (batches, tokens)


def scoring_batches(keys: SampleKeys, lengths: Sequence[int]) -> list[list[int]]:
    """The distinct samples, longest first, in batches of at most `TOKENS` tokens if all were as long as the longest.

    Args:
        keys: of the samples; they, not the order of the rows, decide what is scored together.
        lengths: tokens of each sample.
    """
    own = np.asarray(lengths)[keys.firsts]
    batches: list[list[int]] = []
    room = 0
    for place in np.argsort(-own, kind="stable").tolist():
        if not room:
            batches.append([])
            room = max(1, TOKENS // max(1, int(own[place])))
        batches[-1].append(int(keys.firsts[place]))
        room -= 1
    return batches


def largest(ranks: Iterable[Iterable[Sequence[int]]], lengths: Sequence[int], layout: str) -> int:
    """Tokens, at most, of one pass through the model for those batches that could be cut into several.

    Args:
        ranks: the batches of each; `~i` is a ghost of sample i.
        lengths: tokens of each sample's tree.
        layout: of the collator; unless it packs, a pair is two rows, each as wide as the widest.
    """
    most = 0
    for batch in chain.from_iterable(ranks):
        own = [lengths[max(sample, ~sample)] for sample in batch]
        if len(own) > 1:
            most = max(most, sum(own) if layout == "packed" else PATHS * len(own) * max(own))
    return most


def _numbers_key(trainer: L.Trainer, module: FineTuner, layout: str) -> str:
    """A key of all that moves a score besides the sample: weights, arithmetic, attention, device and libraries."""
    device = trainer.strategy.root_device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    arithmetic = (str(trainer.precision), torch.get_float32_matmul_precision(), is_compiled(module.backbone))
    attention = (base_model(module.backbone).config._attn_implementation, layout)
    versions = []
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions.append((name, metadata.version(name)))
    return content_key(FORMAT, TOKENS, module.reference.key(), arithmetic, attention, device.type, kind, versions)


def _on_any_rank(said: bool) -> bool:
    return any(_gathered(said))


def _of_all_ranks(scored: list[Any]) -> list[Any]:
    return [one for share in _gathered(scored) for one in share]


def _gathered(own: Any) -> list[Any]:
    shares: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(shares, own)
    return shares
