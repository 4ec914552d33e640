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
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch import nn
from torch.optim import Optimizer
from transformers.utils import logging as transformers_logging

from leyden.backbone.attention import AttentionChoice
from leyden.backbone.compiled import compile_errors
from leyden.backbone.load import Chosen
from leyden.data.datamodule import TreeDataModule
from leyden.data.rows import Part
from leyden.settings.schema import Settings
from leyden.settings.training_groups import Trainer
from leyden.training.assembly import load_backbone, make_answerer, make_collator, make_data, reads_texts
from leyden.training.callbacks import History, Point, ProgressDisplay
from leyden.training.checkpoints import Checkpoints, SavedState, load_trained
from leyden.training.devices import world_size
from leyden.training.evaluation import Evaluation, EvaluationSchedule, due_updates
from leyden.training.module import FineTuner
from leyden.training.optimizer import build_optimizer, optimizer_factory
from leyden.training.prepare import Material
from leyden.training.progress import Display, make_display
from leyden.training.scheduling import Plan
from leyden.training.start import goes_on_with_an_adapter, keep_start
from leyden.training.stopping import make_stops, why_stopped
from leyden.training.trainer import make_trainer

log = logging.getLogger(__name__)

NOISE = (  # of Lightning: true, and of no use to whoever fine-tunes
    r".*does not have many workers.*",
    r".*The number of training batches.*is smaller than the logging interval.*",
    r".*Starting from v1.9.0, `tensorboardX` has been removed.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*No device id is provided via `init_process_group`.*",
    r".*Found .* module\(s\) in eval mode at the start of training.*",
    r".*Model has `tie_word_embeddings=True`.*",  # of an adapter that is loaded: its copies are equal
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
        checkpoints: those that are kept.
        attention: how the backbone attended.
        dtype: type of the backbone's weights.
        updates: of the whole run, as planned.
        reference: what the reference was, or "none".
        seconds: how long each step took.
        best: the checkpoint whose weights were put back in the end; None: the module has those of the last update.
    """

    module: FineTuner
    trainer: L.Trainer
    history: History
    checkpoints: Checkpoints
    attention: AttentionChoice
    dtype: Chosen
    updates: int
    reference: str
    display: Display
    seconds: dict[str, float] = field(default_factory=dict)
    best: SavedState | None = None

    @property
    def before(self) -> Point | None:
        """The evaluation before the first update."""
        first = self.history.points[0]
        return first if first.step == 0 else None

    @property
    def final(self) -> Point:
        """The evaluation after the last update."""
        return self.history.points[-1]

    @property
    def kept_point(self) -> Point:
        """The evaluation of the weights that the module has in the end."""
        return self.best.point if self.best else self.final

    @property
    def kept_evaluation(self) -> Evaluation | None:
        """What that evaluation said of each row."""
        return self.history.best_evaluation if self.best else self.module.evaluation


def fit(
    settings: Settings,
    material: Material,
    loggers: Sequence[Logger],
    folder: Path,
    export: Callable[[Run, Path], None] | None = None,
) -> Run:
    """Load the backbone, train it on the material, evaluate before, between and after.

    Args:
        settings: of the run; `seed` is a number by now.
        material: from `prepare`.
        loggers: where every number goes.
        folder: of the run.
        export: writes the model of a run for use; needed where each evaluation keeps one.
    """
    with filtered_warnings():
        run, data = _assemble(settings, material, loggers, folder)
        run.checkpoints.export = None if export is None else partial(export, run)
        with compile_errors(on=settings.backbone.compile):
            _train(run, data, settings.trainer)
        _keep(run)
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
        make_schedule=Plan(settings.schedule, material.metrics[0].direction, updates, per_epoch),
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
    checkpoints = Checkpoints(settings.checkpoint, folder / "checkpoints", material.metrics[0], history)
    shown = ProgressDisplay(display, history, updates)
    stops = make_stops(settings.trainer, material.metrics[0])
    trainer = make_trainer(
        settings.trainer, [history, shown, EvaluationSchedule(due), *stops, checkpoints], loggers, folder
    )
    run = Run(
        module, trainer, history, checkpoints, attention, dtype, updates,
        module.reference.kind if material.problem.uses_reference else "none", display, seconds,
    )  # fmt: skip
    return run, data


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
        run.seconds["save checkpoints"] = run.checkpoints.seconds
        callbacks: list[Callback] = run.trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
        why = why_stopped(callbacks, settings, run.trainer.global_step, run.updates)
        if why is not None:
            log.info("%s", why)
    run.module.gather()


def _keep(run: Run) -> None:
    """Put the weights back that the policy keeps; predictions and model are of these."""
    best = run.checkpoints.best()
    if run.checkpoints.settings.policy != "best" or best is None:
        return
    if best.point is not run.final:
        run.best = best
        if not is_later_rank():  # the others have nothing left to do
            load_trained(run.module, best.path)
    log.info("checkpoint=best keeps the weights after update %d.", best.point.step)


def _optimizer(settings: Settings) -> Callable[[nn.Module], Optimizer]:
    optimizer = settings.optimizer
    return partial(
        build_optimizer,
        factory=optimizer_factory(optimizer),
        weight_decay=optimizer.weight_decay,
        layers=optimizer.differential_learning_rate_layers,
        rate=optimizer.differential_learning_rate,
    )


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
