"""Metrics: each one function from columns of an evaluation, one entry per row, to a number.

A function names the columns it reads by its parameters, and says with `@metric` which way is better. That is all a new
metric needs: whoever evaluates offers the columns it has, and `Metric` picks. Parameters with a default are knobs, set
in the metric's YAML.
"""

from __future__ import annotations

import inspect
import math
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from torch import Tensor

Direction = Literal["min", "max"]
Column = Tensor | Sequence[Any]
Function = Callable[..., "float | Rated"]
NAMES = "output_names"


@dataclass(frozen=True)
class Rated:
    """A metric that also has something to say about each row.

    Attributes:
        value: of the metric.
        columns: further columns of the table of predictions, one cell per row.
        parts: further numbers for the log, such as averages of categories.
    """

    value: float
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    parts: Mapping[str, float] = field(default_factory=dict)


class NoNumberError(TypeError):
    """A metric returned something else than a number."""


@dataclass(frozen=True)
class Metric:
    """A metric function with its name and its direction.

    Attributes:
        name: how settings and results call it.
        direction: "min" if less is better, "max" if more is.
        function: columns to a number; the names of its parameters without default are the columns it reads.
    """

    name: str
    direction: Direction
    function: Function

    @property
    def path(self) -> str:
        """Where the function comes from: `module.name`."""
        inner = self.function.func if isinstance(self.function, partial) else self.function
        named = inner if hasattr(inner, "__qualname__") else type(inner)
        return f"{named.__module__}.{named.__qualname__}"

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns the metric needs."""
        parameters = inspect.signature(self.function).parameters.values()
        return tuple(p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD)

    def compute(self, columns: Mapping[str, Column]) -> Rated:
        """The metric of these rows.

        Args:
            columns: at least those of `reads`, all of one length; others are left alone. A function with a parameter
            `output_names` is given the names of the classes or targets too, if they are there.

        Raises:
            KeyError: a column that the metric reads is missing.
            NoNumberError: it returned something else, or cells for more or fewer rows than there are.
        """
        missing = [name for name in self.reads if name not in columns]
        if missing:
            raise KeyError(f"Metric {self.name} reads {', '.join(missing)}, but there is only {', '.join(columns)}.")
        takes_names = NAMES in columns and NAMES in inspect.signature(self.function).parameters
        found = self.function(**{name: columns[name] for name in (*self.reads, *([NAMES] if takes_names else []))})
        rated = found if isinstance(found, Rated) else Rated(_number(found))
        rows = len(columns[self.reads[0]]) if self.reads else 0
        for name, cells in rated.columns.items():
            if len(cells) != rows:
                raise NoNumberError(f"returned {len(cells)} cells in the column {name}")
        return replace(rated, value=_number(rated.value))

    def improves(self, value: float, best: float | None) -> bool:
        """Whether a value is strictly better than the best so far; any number beats none, and NaN beats nothing."""
        if math.isnan(value):
            return False
        if best is None or math.isnan(best):
            return True
        return value < best if self.direction == "min" else value > best


def metric(
    direction: Direction, knob_faults: Callable[..., Iterable[str]] | None = None
) -> Callable[[Function], Function]:
    """Say of a function which way is better; the function itself stays as it is.

    Args:
        direction: "min" if less is better, "max" if more is.
        knob_faults: called with the knobs before anything is read; one sentence per fault, beginning with the knob.
    """

    def mark(function: Function) -> Function:
        function.direction = direction  # type: ignore[attr-defined]
        function.knob_faults = knob_faults  # type: ignore[attr-defined]
        return function

    return mark


def knob_faults_of(function: Callable[..., Any], knobs: Mapping[str, object]) -> list[str]:
    """What is wrong with the knobs, as the function says; empty if it says nothing."""
    found = getattr(function, "knob_faults", None)
    return [] if found is None else list(found(**knobs))


def listed_outputs(numbers: Sequence[int], count: int, names: Sequence[str]) -> str:
    """Outputs in words: by name where there is one for each, else by number."""
    if len(names) == count:
        return ", ".join(repr(names[number]) for number in numbers)
    return f"{', '.join(map(str, numbers))} (counted from 0, of {count})"


def direction_of(function: Callable[..., Any]) -> Direction | None:
    """Which way is better, as the function or object itself says; None if it does not."""
    inner = function.func if isinstance(function, partial) else function
    found = getattr(inner, "direction", None)
    return found if found in ("min", "max") else None


@metric("min")
def perplexity(logps: Tensor, counts: Tensor) -> float:
    """Mean over rows of exp(mean negative log-probability of the row's target tokens).

    Equals V for uniform guesses among V tokens. Rows without a target token are left out.

    Args:
        logps: [R], log-probability of each row's target tokens, summed, nats.
        counts: [R], number of target tokens of each row.

    Returns:
        At least 1; NaN if a log-probability is.

    Raises:
        ValueError: no row has a target token.
    """
    scored = counts > 0
    if not scored.any():
        raise ValueError(f"Perplexity has nothing to score: none of {len(counts)} rows has a target token.")
    # In float32, exp overflows at 88 nats a token; an untrained or broken model gets there.
    means = logps.detach().cpu().double()[scored.cpu()] / counts.cpu()[scored.cpu()]
    return means.neg().exp().mean().item()


@metric("max")
def preference_accuracy(margins: Tensor) -> float:
    """Share of pairs whose chosen answer has the higher reward; a tie, or NaN, is not right.

    Args:
        margins: [R], reward of the chosen answer minus reward of the rejected one.

    Raises:
        ValueError: there is no pair.
    """
    return (_not_empty(margins) > 0).double().mean().item()


@metric("max")
def reward_margin(margins: Tensor) -> float:
    """Mean reward of the chosen answer minus that of the rejected one.

    Args:
        margins: [R], reward of the chosen answer minus reward of the rejected one.

    Raises:
        ValueError: there is no pair.
    """
    return _not_empty(margins).double().mean().item()


def _number(found: Any) -> float:
    try:
        if isinstance(found, str | bytes):
            raise TypeError
        return float(found)
    except (TypeError, ValueError, RuntimeError):  # the last: a tensor of several numbers
        raise NoNumberError(f"returned {reprlib.repr(found)}, which is no number,") from None


def _not_empty(margins: Tensor) -> Tensor:
    if not len(margins):
        raise ValueError("Preference metrics have nothing to score: no pair has both answers.")
    return margins.detach().cpu()
