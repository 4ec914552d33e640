"""A few real updates before a run: the longest batch there is and usual ones, and how long each kind of work takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from leyden.backbone.compiled import compile_errors
from leyden.backbone.reference import Reference
from leyden.data.batches import Batch
from leyden.data.collator import Collator
from leyden.settings.schema import Settings
from leyden.settings.training_groups import RANGE_START
from leyden.training.after_update import AfterUpdate
from leyden.training.assembly import load_backbone, make_answerer, make_data, make_module, reads_texts
from leyden.training.evaluation import due_updates
from leyden.training.finders import memory_gib
from leyden.training.measurements import Trial, Weights
from leyden.training.memory import bytes_per_token, memory_errors
from leyden.training.module import FineTuner
from leyden.training.prepare import Material
from leyden.training.problems import writes
from leyden.training.quiet import filtered_warnings, quiet_libraries
from leyden.training.reference_scores import ReferenceScores, plan_scores
from leyden.training.run import epochs_of, settle
from leyden.training.trainer import make_trainer
from leyden.training.update import trained_weights
from leyden.training.used_memory import peak_memory_gib, resident_gib
from leyden.training.weight_types import Loaded, choose_weights

USUAL = 3  # updates of batches as they come
ANSWERED = 48  # tokens of an answer that are tried at most; more of them take as much longer


def try_run(settings: Settings, material: Material, folder: Path) -> Trial:
    """Load the weights, try the longest batch and usual ones with real updates, an evaluation and an answer.

    Nothing is written. With several processes this is one of them.

    Args:
        settings: of the run.
        material: from `prepare`.
        folder: of the run.

    Raises:
        TrainingError: the memory did not hold the longest batch, though it was expected to.
    """
    alone = settings.trainer.model_copy(update={"devices": 1, "num_nodes": 1, "strategy": "auto"})
    optimizer = settings.optimizer
    if optimizer.learning_rate == "auto":  # neither memory nor time depend on it
        settings = settings.model_copy(
            update={"optimizer": optimizer.model_copy(update={"learning_rate": RANGE_START})}
        )
    with filtered_warnings(), memory_errors(settings, material.problem.loss):
        quiet_libraries()
        L.seed_everything(settings.seed, workers=True, verbose=False)
        clock = time.perf_counter()
        settings, chosen = choose_weights(settings, material, lambda wanted: Loaded(*load_backbone(wanted, material)))
        backbone, attention = chosen.backbone, chosen.attention
        loaded = time.perf_counter() - clock + sum(material.seconds.values())
        settings, _, collator = settle(settings, material, backbone, attention, folder)
        alone = alone.model_copy(update={"batch_size": settings.trainer.batch_size})
        bench = _Bench(settings, material, backbone, collator)
        trial = bench.plan(loaded)
        if trial.needed_gib > trial.available_gib:
            return trial
        module = bench.module()
        clocked = Clock(bench.after)
        trainer = make_trainer(alone, [clocked], [], folder, len(bench.updates))
        with compile_errors(on=settings.backbone.compile):
            trainer.fit(module, train_dataloaders=bench.loader())
    seconds = clocked.seconds
    usual = [(took, tokens) for took, tokens in zip(seconds[1:-1], bench.update_tokens[1:-1], strict=True)]
    return replace(
        trial, usual=usual, longest=seconds[-1], peak_gib=peak_memory_gib(), evaluation=clocked.evaluation,
        answering=clocked.answering, weights=replace(trial.weights, optimizer=clocked.optimizer),
    )  # fmt: skip


class _Bench:
    """What is tried: batches, loader and module."""

    def __init__(self, settings: Settings, material: Material, backbone: nn.Module, collator: Collator) -> None:
        self.settings, self.material, self.backbone, self.collator = settings, material, backbone, collator
        self.data = make_data(settings, material, collator)
        self.lengths = material.train.fit.lengths.array
        rows, passes = settings.trainer.rows, settings.trainer.grad_accumulation
        order = np.argsort(-self.lengths, kind="stable")[: rows * passes].tolist()
        longest = _cut(order, rows, passes)
        source = self.data.train_dataloader().batch_sampler
        usual = list(islice(iter(source), passes * USUAL))
        usual = (usual * passes)[: -(-len(usual) // passes) * passes]
        self.updates = [longest, *_windows(usual, passes), longest]

    @property
    def update_tokens(self) -> list[int]:
        """Tokens of the samples of each update."""
        return [int(sum(self.lengths[batch].sum() for batch in update)) for update in self.updates]

    def loader(self) -> DataLoader[Any]:
        """The batches of all updates, made as those of a training are."""
        batches = [batch for update in self.updates for batch in update]
        dataset = self.data.train_dataloader().dataset
        return DataLoader(dataset, batch_sampler=batches, collate_fn=self.collator.passes)

    def module(self) -> FineTuner:
        """The module of the run; a reference that is looked up in training is not computed."""
        updates = len(self.updates)
        module = make_module(self.settings, self.material, self.backbone, updates, updates)
        if "train" in plan_scores(self.settings, self.material.problem.loss).parts:
            module.scores = AssumedScores()
        return module

    def plan(self, load_seconds: float) -> Trial:
        """What the whole run will do."""
        settings, material = self.settings, self.material
        train, validation = material.train, material.validation
        epochs = epochs_of(self.data, settings.trainer, len(train.trees))
        updates = epochs.planned(None)
        evaluations = len(due_updates(updates, epochs.updates, settings.trainer.evaluation_epochs))
        evaluations += settings.trainer.evaluate_before_training
        texts = evaluations if reads_texts(material) else int(writes(settings, material.problem))
        parts = plan_scores(settings, material.problem.loss).parts if material.problem.uses_reference else ()
        passes = [batch.num_tokens for update in self.updates[:1] for samples in update
                  for batch in self.collator.passes([train.trees[sample] for sample in samples])]  # fmt: skip
        samples = settings.trainer.rows * settings.trainer.grad_accumulation
        return Trial(
            settings=settings, updates=updates,
            tokens_per_update=train.fit.tokens / len(train.trees) * min(samples, len(train.trees)),
            evaluations=evaluations, validation_tokens=validation.fit.tokens, answers=texts * len(validation.trees),
            scored_tokens=sum({"train": train, "validation": validation}[part].fit.tokens for part in parts),
            load_seconds=load_seconds, longest_pass=max(passes), longest_sample=int(self.lengths.max()),
            weights=weights_of(self.backbone), loaded_gib=resident_gib(), peak_gib=peak_memory_gib(),
            available_gib=memory_gib(),
            token_bytes=(
                bytes_per_token(self.backbone, checkpointed=settings.backbone.gradient_checkpointing),
                bytes_per_token(self.backbone, checkpointed=True),
            ),
        )  # fmt: skip

    def after(self, clock: Clock, trainer: L.Trainer, module: FineTuner) -> None:
        """Score some validation samples, and answer some, on the device of the training."""
        trees, size = self.material.validation.trees, self.settings.generation.batch_size_inference
        size = min(len(trees), size or self.settings.trainer.rows)
        samples = np.linspace(0, len(trees) - 1, size).round().astype(int).tolist()
        passes = self.collator.for_evaluation().passes([trees[sample] for sample in samples])
        module.train(False)
        start = time.perf_counter()
        with torch.no_grad(), trainer.precision_plugin.val_step_context():
            for batch in passes:
                module.problem.compute(module, trainer.strategy.batch_to_device(batch))
        lengths = self.material.validation.fit.lengths.array
        clock.evaluation = (time.perf_counter() - start, int(lengths[samples].sum()))
        if reads_texts(self.material) or writes(self.settings, self.material.problem):
            clock.answering = (self._answer(module, samples), len(samples))

    def _answer(self, module: FineTuner, samples: list[int]) -> float:
        """Seconds that a batch of answers takes, at most: none may end before it is as long as is tried."""
        asked = self.settings.generation
        tried = min(asked.max_length_inference, ANSWERED)
        shorter = {"max_length_inference": tried, "min_length_inference": tried}
        settings = self.settings.model_copy(update={"generation": asked.model_copy(update=shorter)})
        answerer = replace(make_answerer(settings, self.material, module.backbone), stops=())
        start = time.perf_counter()
        answerer.generate(samples)
        return (time.perf_counter() - start) * asked.max_length_inference / tried


@dataclass
class Clock(AfterUpdate):
    """Notes how long each update took, with the loading of its batches.

    Attributes:
        after: called at the end of the updates, while everything is still where it was trained.
        seconds: of each update.
        evaluation: as in `Trial`.
        answering: as in `Trial`.
        optimizer: bytes of its state.
    """

    after: Callable[[Clock, L.Trainer, FineTuner], None]
    seconds: list[float] = field(default_factory=list)
    evaluation: tuple[float, int] | None = None
    answering: tuple[float, int] | None = None
    optimizer: int = 0
    _since: float = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the first update."""
        super().on_train_start(trainer, pl_module)
        self._since = time.perf_counter()

    def on_update(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Stop the clock of an update, once its device has done all."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        now = time.perf_counter()
        self.seconds.append(now - self._since)
        self._since = now

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the rest."""
        assert isinstance(pl_module, FineTuner)
        states = [state for optimizer in trainer.optimizers for state in optimizer.state.values()]
        tensors = [value for state in states for value in state.values() if isinstance(value, Tensor)]
        self.optimizer = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self.after(self, trainer, pl_module)


@dataclass
class AssumedScores(ReferenceScores):
    """Stands for scores that a run computes before its training: what they are moves neither time nor memory."""

    def of(self, batch: Batch, reference: Reference, *, training: bool) -> Tensor:  # noqa: ARG002
        """Zeros: [N]."""
        return torch.zeros(len(batch.target_sequences), device=batch.input_ids.device)


def weights_of(backbone: nn.Module) -> Weights:
    """Bytes of the weights of a model, by what becomes of them."""
    trained = sum(weight.numel() * weight.element_size() for weight in trained_weights(backbone).values())
    every = sum(weight.numel() * weight.element_size() for weight in backbone.parameters())
    linear = sum(
        module.weight.numel() * module.weight.element_size()
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear) and module.weight.is_floating_point() and not module.weight.requires_grad
        and "lm_head" not in name
    )  # fmt: skip
    return Weights(trained, every - trained, linear)


def _cut(samples: Sequence[int], rows: int, passes: int) -> list[list[int]]:
    """So many batches of so many samples; with too few samples the last ones again."""
    return [list(samples[place * rows : (place + 1) * rows] or samples[-rows:]) for place in range(passes)]


def _windows(batches: Sequence[list[int]], passes: int) -> list[list[list[int]]]:
    return [list(batches[start : start + passes]) for start in range(0, len(batches), passes)]
