"""What comes out of a training, and which of its weights stay."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import lightning as L

from leyden.backbone.attention import AttentionChoice
from leyden.backbone.load import Chosen
from leyden.settings.schema import Settings
from leyden.training.callbacks import History, Point
from leyden.training.checkpoints import Checkpoints
from leyden.training.devices import is_later_rank
from leyden.training.evaluation import Evaluation
from leyden.training.interrupts import Stopped
from leyden.training.loaded_states import load_trained
from leyden.training.module import FineTuner
from leyden.training.progress import Display
from leyden.training.saved_states import SavedState

log = logging.getLogger(__name__)


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
        settings: with what was found in place of every `auto`.
        found: why it was that, by key.
        seconds: how long each step took.
        best: the checkpoint whose weights were put back in the end; None: the module has those of the last update.
        stopped: the signal that ended the training before its time; None if none did.
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
    settings: Settings
    found: dict[str, str]
    seconds: dict[str, float] = field(default_factory=dict)
    best: SavedState | None = None
    stopped: Stopped | None = None

    @property
    def before(self) -> Point | None:
        """The evaluation before the first update."""
        points = self.history.points
        return points[0] if points and points[0].step == 0 else None

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


def keep_best(run: Run) -> None:
    """Put the weights back that the policy keeps; predictions and model are of these."""
    best = run.checkpoints.best()
    if run.checkpoints.settings.policy != "best" or best is None:
        return
    if best.point.step != run.final.step:
        run.best = best
        if not is_later_rank():  # the others have nothing left to do
            load_trained(run.module, best.path)
    log.info("checkpoint=best keeps the weights after update %d.", best.point.step)
