"""What a trial of a run has measured, and what the whole run will do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leyden.settings.schema import Settings


@dataclass(frozen=True)
class Weights:
    """Bytes of a model and of what trains it.

    Attributes:
        trained: weights that are trained; their gradients take as much again.
        frozen: the other ones.
        linear: of these, those of linear layers that are not quantised, which `backbone.dtype=int4` would be.
        optimizer: its state; 0 before the first update.
    """

    trained: int
    frozen: int
    linear: int
    optimizer: int = 0


@dataclass(frozen=True)
class Trial:
    """What a run will do, and what a part of it took on this machine.

    Attributes:
        settings: of the run, with a number for every `auto`.
        updates: of the whole run.
        tokens_per_update: of its training samples, on average.
        evaluations: of the whole run.
        validation_tokens: of one evaluation.
        answers: validation samples that are answered in the whole run.
        scored_tokens: that the reference scores before training.
        load_seconds: from the start until the weights were there.
        usual: seconds of usual updates, and the tokens of their samples.
        longest: seconds of the update of the longest samples; None: it was not tried, as it would not fit.
        longest_pass: tokens of the largest pass through the model.
        longest_sample: tokens of the longest sample.
        evaluation: seconds of scoring some validation samples, and their tokens.
        answering: seconds that some validation samples take to answer at most, and their number; None: none will be.
        weights: of the model.
        loaded_gib: memory with the weights there, before any update.
        peak_gib: most memory of all.
        available_gib: memory there is.
        token_bytes: kept per token for the backward pass, with checkpointing as it is set and with it on; an estimate.
    """

    settings: Settings
    updates: int
    tokens_per_update: float
    evaluations: int
    validation_tokens: int
    answers: int
    scored_tokens: int
    load_seconds: float
    longest_pass: int
    longest_sample: int
    weights: Weights
    loaded_gib: float
    peak_gib: float
    available_gib: float
    token_bytes: tuple[int | None, int | None]
    usual: Sequence[tuple[float, int]] = ()
    longest: float | None = None
    evaluation: tuple[float, int] | None = None
    answering: tuple[float, int] | None = None

    @property
    def needed_gib(self) -> float:
        """Memory that the longest update will take, from the widths of the model; an estimate made before it."""
        training = 3 * self.weights.trained  # gradient and two moments
        return self.loaded_gib + (training + (self.token_bytes[0] or 0) * self.longest_pass) / 2**30
