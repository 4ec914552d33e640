"""Classification: which class a text belongs to, yes or no, or which of several labels it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from leyden.backbone.heads import Head
from leyden.problem.base import Cell, cells
from leyden.problem.head_losses import binary_cross_entropy, cross_entropy
from leyden.problem.head_problem import HeadProblem, settled
from leyden.settings.errors import ConfigError

if TYPE_CHECKING:
    from leyden.data.labels import Labels

Kind = Literal["binary", "multiclass", "multilabel"]
EVEN = 0.5  # a probability above it is a yes


@dataclass(frozen=True)
class Classes:
    """What the labels of the training rows say about the classes.

    Attributes:
        kind: one question with yes or no, one class of several, or several questions.
        names: binary: of no and yes; multi-class: of the classes; multi-label: of the columns.
        weights: multi-class and binary: [classes]; multi-label: [columns, 2], of no and yes.
    """

    kind: Kind
    names: tuple[str, ...]
    weights: Tensor


@dataclass(frozen=True)
class Classification(HeadProblem):
    """Raise the probability of the right class, read at the last token of the prompt.

    Attributes:
        num_classes: 1 for one question, the number of classes for several, of columns for several labels; None: what
            the labels of the training rows show.
        class_weights: `balanced` makes every class weigh the same, N / (K N_c); or a list, one number per class (for
            several labels: of the yes of each column); None: every row weighs the same.
    """

    num_classes: int | None = None
    class_weights: str | Sequence[float] | None = None
    classes: Classes | None = field(default=None, init=False)

    targets: ClassVar[Literal["text", "classes", "numbers"]] = "classes"
    offers: ClassVar[tuple[str, ...]] = ("probabilities", "labels")

    @property
    def head(self) -> Head:
        """One output per class, or one per question."""
        kind, names = self._classes.kind, self._classes.names
        if kind == "binary":
            # one output and two names would not load again, as the library counts outputs by names
            extra = (("class_names", list(names)),)
            return Head(outputs=1, names=(names[1],), problem_type="multi_label_classification", extra=extra)
        word = "single_label_classification" if kind == "multiclass" else "multi_label_classification"
        return Head(outputs=len(names), names=names, problem_type=word)

    def fitted(self, labels: Labels | None) -> Classification:
        """Take kind, names and weights of the classes from the labels."""
        assert labels is not None
        kind = self._kind(labels)
        names = labels.columns if labels.class_names is None else labels.class_names
        weights = _weights(labels, kind, len(names), self.class_weights)
        return settled(self, classes=Classes(kind, names, weights))

    def restored(self, config: Mapping[str, Any]) -> Classification:
        """Take kind and names of the classes from the config of the saved model; every class weighs 1 again."""
        names = tuple(str(name) for _, name in sorted((int(n), name) for n, name in config["id2label"].items()))
        kind: Kind = "multiclass" if config["problem_type"] == "single_label_classification" else "multilabel"
        if "class_names" in config:
            kind, names = "binary", tuple(config["class_names"])
        shape = (len(names), 2) if kind == "multilabel" else (len(names),)
        return settled(self, classes=Classes(kind, names, torch.ones(shape, dtype=torch.float64)))

    @property
    def output_names(self) -> Sequence[str]:
        """Of the classes, or of the one question or several."""
        return self.head.names

    @property
    def classes_read(self) -> dict[str, Any]:
        """Labels of another table are read with the classes of the training table."""
        if self.classes is None:
            return {}
        kind, names = self.classes.kind, self.classes.names
        if kind == "multilabel":
            return {"num_classes": len(names)}
        return {"num_classes": 1 if kind == "binary" else len(names), "class_names": names}

    @property
    def label_columns(self) -> int:
        """One class, or an answer to each of several questions."""
        return len(self._classes.names) if self._classes.kind == "multilabel" else 1

    def entry_weights(self, wanted: Tensor) -> Tensor:
        """The weight of each label's class."""
        weights = self._classes.weights.to(wanted)
        if self._classes.kind == "multilabel":
            return torch.where(wanted > 0, weights[:, 1], weights[:, 0])
        return weights[wanted.long()]

    def answers(self, outputs: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        """`probabilities`: softmax over classes, or sigmoid of each question; `labels` as metrics read them."""
        if self._classes.kind == "multiclass":
            whole = torch.nan_to_num(labels[:, 0], nan=-1).long()
            return {"probabilities": outputs.softmax(dim=1), "labels": whole}
        return {"probabilities": outputs.sigmoid(), "labels": labels}

    def tabulate(self, columns: Mapping[str, Tensor]) -> dict[str, Sequence[Cell]]:
        """What is true, where it is known, and what is predicted; then the probability of each class."""
        found, names = columns["probabilities"], self._classes.names
        wanted = columns["labels"].double().view(len(found), -1)
        wanted = torch.where(wanted < 0, torch.nan, wanted)  # as `answers` marks rows without a label
        best = (found > EVEN).double()
        if self._classes.kind == "multiclass":
            best = found.argmax(dim=1, keepdim=True).double()
        known = wanted.shape == best.shape and not bool(wanted.isnan().all())
        table = {**(self._named("target", wanted) if known else {}), **self._named("prediction", best)}
        shown = names[1:] if self._classes.kind == "binary" else names
        for place, name in enumerate(shown):
            table[f"probability_{name}"] = cells(found[:, place])
        table["loss"] = cells(columns["loss"])
        if known:
            right = torch.where(wanted.isnan(), torch.nan, (wanted == best).double())
            table["score_accuracy"] = cells(right.mean(dim=1))
        return table

    def _named(self, title: str, values: Tensor) -> dict[str, Sequence[Cell]]:
        """Class numbers [R, 1] as the names of the classes, 0 and 1 of several labels as a column for each."""
        names = self._classes.names
        if self._classes.kind == "multilabel":
            whole = [[None if cell is None else int(cell) for cell in cells(column)] for column in values.T]
            return {f"{title}_{name}": column for name, column in zip(names, whole, strict=True)}
        return {title: [None if cell is None else names[int(cell)] for cell in cells(values[:, 0])]}

    @property
    def _classes(self) -> Classes:
        if self.classes is None:
            raise RuntimeError("The classes are known only after `fitted` has seen the labels.")
        return self.classes

    def _kind(self, labels: Labels) -> Kind:
        function = self.loss.func if isinstance(self.loss, partial) else self.loss
        kind: Kind = labels.kind  # type: ignore[assignment]  # numbers are another problem
        if kind == "binary" and function is cross_entropy:
            return "multiclass"  # two classes, each with an output
        if kind == "multiclass" and function is binary_cross_entropy:
            raise ConfigError(
                "problem/loss=binary_cross_entropy is for yes-or-no questions, and the labels have several classes. "
                "Use problem/loss=label_cross_entropy or cross_entropy."
            )
        if kind == "multilabel" and function is cross_entropy:
            raise ConfigError(
                "problem/loss=cross_entropy is for one class of several, and dataset.answer_column names several "
                "columns. Use problem/loss=label_cross_entropy or binary_cross_entropy."
            )
        return kind


def _weights(labels: Labels, kind: Kind, count: int, wanted: str | Sequence[float] | None) -> Tensor:
    values = torch.from_numpy(labels.values)
    if kind == "multilabel":
        yes = values.sum(dim=0)
        counts = torch.stack([len(values) - yes, yes], dim=1)
        plain, classes = torch.ones_like(counts), 2
    else:
        counts = torch.bincount(values[:, 0].long(), minlength=count).double()
        plain, classes = torch.ones_like(counts), count
    if wanted is None:
        return plain
    if wanted == "balanced":
        return torch.where(counts > 0, len(values) / (classes * counts.clamp(min=1)), plain)
    given = torch.tensor(wanted, dtype=torch.float64)
    if len(given) != count:
        raise ConfigError(
            f"problem.class_weights has {len(given)} numbers, and there are {count} classes. Give one per class, "
            "'balanced', or null."
        )
    return torch.stack([plain[:, 0], given], dim=1) if kind == "multilabel" else given
