"""The wiring of a run, left to right: backbone, problem, data, module, trainer."""

from __future__ import annotations

import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from torch import nn
from torch.optim import Optimizer
from transformers.utils import logging as transformers_logging

from leyden.backbone.attention import AttentionChoice
from leyden.backbone.compiled import compile_errors
from leyden.backbone.load import Chosen
from leyden.data.datamodule import TreeDataModule
from leyden.data.rows import Part
from leyden.settings.errors import ConfigError
from leyden.settings.schema import Settings
from leyden.settings.training_groups import Trainer
from leyden.training.assembly import load_backbone, make_answerer, make_collator, make_data, reads_texts
from leyden.training.callbacks import History, Point, ProgressDisplay
from leyden.training.evaluation import EvaluationSchedule, due_updates
from leyden.training.module import FineTuner
from leyden.training.optimizer import build_optimizer
from leyden.training.prepare import Material
from leyden.training.problems import dotted
from leyden.training.progress import Display, make_display
from leyden.training.start import goes_on_with_an_adapter, keep_start
from leyden.training.trainer import make_trainer

log = logging.getLogger(__name__)

NOISE = (  # of Lightning: true, and of no use to whoever fine-tunes
    r".*does not have many workers.*",
    r".*The number of training batches.*is smaller than the logging interval.*",
    r".*Starting from v1.9.0, `tensorboardX` has been removed.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*No device id is provided via `init_process_group`.*",
    r".*Found .* module\(s\) in eval mode at the start of training.*",
    r".*The \.grad attribute of a Tensor that is not a leaf Tensor.*",  # torch.compile, of its own look at a tensor
    r".*`is_gradient_checkpointing` is deprecated.*",  # peft 0.21 asks transformers 5.23 by the old name
)


@dataclass
class Run:
    """What comes out of a training.

    Attributes:
        module: with the trained backbone and the last evaluation.
        trainer: Lightning's, as it ended.
        history: every evaluation, and totals.
        attention: how the backbone attended.
        dtype: type of the backbone's weights.
        updates: of the whole run.
        reference: what the reference was, or "none".
        seconds: how long each step took.
    """

    module: FineTuner
    trainer: L.Trainer
    history: History
    attention: AttentionChoice
    dtype: Chosen
    updates: int
    reference: str
    display: Display
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def before(self) -> Point | None:
        """The evaluation before the first update."""
        first = self.history.points[0]
        return first if first.step == 0 else None

    @property
    def final(self) -> Point:
        """The evaluation after the last update."""
        return self.history.points[-1]


def fit(settings: Settings, material: Material, loggers: Sequence[Logger], folder: Path) -> Run:
    """Load the backbone, train it on the material, evaluate before, between and after.

    Args:
        settings: of the run; `seed` is a number by now.
        material: from `prepare`.
        loggers: where every number goes.
        folder: of the run.
    """
    with filtered_warnings():
        run, data = _assemble(settings, material, loggers, folder)
        with compile_errors(on=settings.backbone.compile):
            _train(run, data, settings.trainer)
    return run


def _assemble(
    settings: Settings, material: Material, loggers: Sequence[Logger], folder: Path
) -> tuple[Run, TreeDataModule]:
    """Build everything, left to right, on one screen."""
    quiet_libraries()
    L.seed_everything(settings.seed, workers=True, verbose=False)
    clock = time.perf_counter()
    kept = None if is_later_rank() else folder
    backbone, dtype, attention = load_backbone(settings, material, kept)
    seconds = {"load weights": time.perf_counter() - clock}
    data = make_data(settings, material, make_collator(settings, material.tokenizer, backbone, attention))
    per_epoch = math.ceil(data.steps_per_epoch(world_size(settings.trainer)) / settings.trainer.grad_accumulation)
    updates = settings.trainer.epochs * per_epoch
    module = FineTuner(
        backbone,
        material.problem,
        make_optimizer=_optimizer(settings),
        curve=_curve(settings, updates, per_epoch),
        metrics=material.metrics,
        seed=settings.seed,
        max_bad_steps=settings.trainer.max_bad_steps,
        places=partial(_places, material.train.trees.part),
        answers=make_answerer(settings, material, backbone) if reads_texts(material) else None,
        noise_alpha=settings.augmentation.neftune_noise_alpha,
        learned=goes_on_with_an_adapter(settings),
    )
    keep_start(settings, module.reference, kept)
    history = History(material.metrics[0])
    display = make_display(settings.trainer.progress, quiet=is_later_rank())
    due = due_updates(updates, per_epoch, settings.trainer.evaluation_epochs) if updates else frozenset({0})
    callbacks = [history, ProgressDisplay(display, history, updates), EvaluationSchedule(due)]
    trainer = make_trainer(settings.trainer, callbacks, loggers, folder)
    run = Run(
        module, trainer, history, attention, dtype, updates,
        module.reference.kind if material.problem.uses_reference else "none", display, seconds,
    )  # fmt: skip
    return run, data


def world_size(settings: Trainer) -> int:
    """How many processes train together."""
    devices = len(settings.devices) if isinstance(settings.devices, list) else settings.devices
    if devices == "auto":
        devices = torch.cuda.device_count() if settings.accelerator != "cpu" and torch.cuda.is_available() else 1
    return devices * settings.num_nodes


def quiet_libraries() -> None:
    """Keep the libraries' own lines to warnings, and their bars away: the display is ours."""
    transformers_logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "httpx", "httpx2", "openai"):
        logging.getLogger(name).setLevel(logging.WARNING)


def is_later_rank() -> bool:
    """Whether this process is another than the one that speaks and writes."""
    return any(int(os.environ.get(name, "0")) for name in ("LOCAL_RANK", "RANK"))


def _train(run: Run, data: TreeDataModule, settings: Trainer) -> None:
    clock = time.perf_counter()
    if settings.evaluate_before_training or not run.updates:
        run.trainer.validate(run.module, datamodule=data, verbose=False)
        run.seconds["evaluate before training"] = time.perf_counter() - clock
    clock = time.perf_counter()
    if run.updates:
        run.trainer.fit(run.module, datamodule=data)
        run.seconds["train, with evaluations"] = time.perf_counter() - clock
        run.seconds["train alone"] = run.history.seconds


def _optimizer(settings: Settings) -> Callable[[nn.Module], Optimizer]:
    optimizer = settings.optimizer
    make = dotted(optimizer.target, "optimizer._target_")
    factory = partial(make, lr=optimizer.learning_rate, **optimizer.knobs)
    try:
        factory([nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer: {error}. Its keys must be arguments of {optimizer.target}.") from error
    return partial(build_optimizer, factory=factory, weight_decay=optimizer.weight_decay)


def _curve(settings: Settings, updates: int, per_epoch: int) -> Callable[[int], float]:
    schedule = settings.schedule
    options: dict[str, float] = {"total": updates, "warmup": schedule.warmup_epochs * per_epoch}
    if schedule.min_learning_rate_ratio is not None:
        options["floor"] = schedule.min_learning_rate_ratio
    return partial(dotted(schedule.target, "schedule._target_"), **options)


def _places(part: Part, samples: Sequence[int]) -> str:
    """Where the rows stand that the samples are named after: the last of each conversation."""
    return part.source.table.places(sorted(part.samples[sample][-1] for sample in samples))


@contextmanager
def filtered_warnings() -> Iterator[None]:
    """Keep away the warnings of the libraries that are of no use to whoever fine-tunes."""
    with warnings.catch_warnings():
        for pattern in NOISE:
            warnings.filterwarnings("ignore", message=pattern)
        yield
