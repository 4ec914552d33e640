"""Regression: one or several numbers that a text stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from leyden.backbone.heads import Head
from leyden.problem.base import Cell, cells
from leyden.problem.head_problem import HeadProblem, settled

if TYPE_CHECKING:
    from leyden.data.labels import Labels


@dataclass(frozen=True)
class Scale:
    """How the outputs of the head stand to the targets: target = mean + deviation * output.

    Attributes:
        columns: names of the targets.
        mean: of each target over the training rows; 0 without standardisation.
        deviation: standard deviation of each; 1 without, and for a target that never varies.
    """

    columns: tuple[str, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclass(frozen=True)
class Regression(HeadProblem):
    """Predict numbers, read at the last token of the prompt.

    Attributes:
        standardize: train on (target - mean) / deviation over the training rows; predictions are scaled back.
    """

    standardize: bool = True
    scale: Scale | None = field(default=None, init=False)

    targets: ClassVar[Literal["text", "classes", "numbers"]] = "numbers"
    offers: ClassVar[tuple[str, ...]] = ("predicted_values", "target_values")

    @property
    def head(self) -> Head:
        """One output per target; the scale is kept in the model's config."""
        scale = self._scale
        extra = (("target_mean", list(scale.mean)), ("target_deviation", list(scale.deviation)))
        return Head(outputs=len(scale.columns), names=scale.columns, problem_type="regression", extra=extra)

    def fitted(self, labels: Labels | None) -> Regression:
        """Take names, means and deviations of the targets from the labels."""
        assert labels is not None
        values = torch.from_numpy(labels.values)
        mean, deviation = torch.zeros(values.shape[1]), torch.ones(values.shape[1])
        if self.standardize:
            mean, deviation = values.mean(dim=0), values.std(dim=0, correction=0)
            deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
        return settled(self, scale=Scale(labels.columns, tuple(mean.tolist()), tuple(deviation.tolist())))

    def restored(self, config: Mapping[str, Any]) -> Regression:
        """Take names and scale of the targets from the config of the saved model."""
        names = tuple(str(name) for _, name in sorted((int(n), name) for n, name in config["id2label"].items()))
        scale = Scale(names, tuple(config["target_mean"]), tuple(config["target_deviation"]))
        return settled(self, scale=scale)

    @property
    def output_names(self) -> Sequence[str]:
        """Of the targets."""
        return self._scale.columns

    @property
    def label_columns(self) -> int:
        """One number per target."""
        return len(self._scale.columns)

    def wanted(self, labels: Tensor) -> Tensor:
        """The targets on the scale of the outputs."""
        mean, deviation = self._moments(labels)
        return (labels - mean) / deviation

    def answers(self, outputs: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        """`predicted_values` and `target_values`, on the scale of the table."""
        mean, deviation = self._moments(outputs)
        return {"predicted_values": mean + deviation * outputs, "target_values": labels}

    def tabulate(self, columns: Mapping[str, Tensor]) -> dict[str, Sequence[Cell]]:
        """What is predicted of each target, beside what it is; the mean errors of each row."""
        names, found = self._scale.columns, columns["predicted_values"]
        table: dict[str, Sequence[Cell]] = {f"prediction_{name}": cells(found[:, n]) for n, name in enumerate(names)}
        table["loss"] = cells(columns["loss"])
        wanted = columns["target_values"]
        if wanted.shape != found.shape or wanted.isnan().all():  # a table without labels
            return table
        targets: dict[str, Sequence[Cell]] = {f"target_{name}": cells(wanted[:, n]) for n, name in enumerate(names)}
        errors = found - wanted
        scores = {"score_mse": cells(errors.square().mean(dim=1)), "score_mae": cells(errors.abs().mean(dim=1))}
        return {**targets, **table, **scores}

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return like.new_tensor(self._scale.mean), like.new_tensor(self._scale.deviation)

    @property
    def _scale(self) -> Scale:
        if self.scale is None:
            raise RuntimeError("The targets are known only after `fitted` has seen the labels.")
        return self.scale
