"""The curves of a run: every number that was logged, and what those of preferences mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from leyden.report.charts import chart, figure_of, line, smoothing_control
from leyden.report.page import Section, fill, heading, number, words
from leyden.report.run_files import RunFiles

FEW = 2  # points, which are shown as such
MOST_POINTS = 1500  # of a curve; a longer one is drawn as means over equal pieces
PLAIN: Mapping[str, Any] = {}
FROM_ZERO: Mapping[str, Any] = {"rangemode": "tozero"}
WHOLE: Mapping[str, Any] = {**FROM_ZERO, "tickformat": ",~r"}
STEADY = ("learning rate", "peak memory")  # nothing in them is noise
TRAIN, VALIDATION = "train/", "validation/"
OWN = {"loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "peak_memory_gib"}  # drawn by name, below
# Curves of pairs that belong into one chart: title, y axis, names, and what they mean.
PAIRS = (
    ("Reward margin", "reward", ("reward_margin",),
     "Reward of the chosen answer less that of the rejected one: the higher, the clearer the preference. A margin that "
     "rises on training alone is memory."),
    ("Preference accuracy", "share of pairs", ("preference_accuracy",),
     "The share of pairs whose chosen answer has the higher reward: 0.5 is a coin; from 1 on only margins can grow."),
    ("Rewards of both answers", "reward", ("chosen_reward", "rejected_reward"),
     "Beta times an answer's score, less the reference's score where the loss has one: the gap is the margin."),
    ("Log-probabilities of both answers", "nats", ("chosen_logp", "rejected_logp"),
     "How likely the model finds each answer. Both often fall; what counts is that the rejected one falls further. If "
     "the chosen one falls far, answers get worse: lower the learning rate or raise beta."),
)  # fmt: skip


def section(run: RunFiles) -> Section | None:
    """A chart for each number, those that belong together in one; None before the first is logged."""
    charts = [*_losses(run), *_validation(run), *_preferences(run), *_others(run), *_machine(run)]
    if not charts:
        return None
    smooth = any(name.startswith(TRAIN) for name in run.series)
    body = fill("curves", charts=charts, smoothing=smoothing_control() if smooth else "")
    return Section("curves", "Curves", body, "Training is measured at each update, validation at each evaluation.")


def points(rows: pd.DataFrame, most: int = MOST_POINTS) -> tuple[list[int], list[float | None], int]:
    """Steps and values of a curve, and over how many values each point is the mean.

    Args:
        rows: `step` and `value`.
        most: points that the curve may have.

    Returns:
        A value that is not finite is None, which leaves a gap; a mean is over the finite ones.
    """
    steps, values = rows["step"].tolist(), [one if math.isfinite(one) else None for one in rows["value"].tolist()]
    pieces = math.ceil(len(steps) / most)
    if pieces > 1:
        starts = range(0, len(steps), pieces)
        values = [_mean(values[start : start + pieces]) for start in starts]
        steps = [steps[min(start + pieces, len(steps)) - 1] for start in starts]
    return steps, values, pieces


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _drawn(  # noqa: PLR0913
    run: RunFiles, names: Sequence[str], *, title: str, y: str, note: str = "", axis: Mapping[str, Any] = PLAIN
) -> Iterator[Markup]:
    """One chart of some logged numbers, of those that there are."""
    traces, notes, told = [], [note] if note else [], []
    present = [name for name in names if name in run.series]
    for place, name in enumerate(present):
        x, values, pieces = points(run.series[name])
        of_training, short = name.startswith(TRAIN), words(name.partition("/")[2])
        part = "training" if of_training else "validation"
        same = all(one.partition("/")[2] == name.partition("/")[2] for one in present)
        label = part if same and len(present) > 1 else short if of_training or same else f"{part} {short}"
        few = len(x) <= FEW or not of_training
        traces.append(
            line(
                label,
                x,
                values,
                series=place,
                smooth=not few and not short.startswith(STEADY),
                marks=few,
            )
        )  # noqa: PLR2004
        if pieces > 1:
            notes.append(f"Each point of {label} is the mean of {pieces} values.")
        if gaps := values.count(None):
            notes.append(f"{gaps} values of {label} are not finite, and leave gaps.")
        known = [value for value in values if value is not None]
        if known:
            told.append(f"{label} from {number(known[0])} to {number(known[-1])} over {len(known)} points")
    if traces:
        figure = figure_of(traces, x="update", layout={"yaxis": {"title": y, **axis}})
        yield chart(figure, f"{title} over updates: {'; '.join(told) or 'no finite value'}.", title=title,
                    note=" ".join(notes))  # fmt: skip


def _losses(run: RunFiles) -> Iterator[Markup]:
    yield from _drawn(run, ["train/loss", "validation/loss"], title="Loss", y="loss")


def _validation(run: RunFiles) -> Iterator[Markup]:
    """Each metric of the evaluations, but for those drawn with what the training says of them."""
    paired = {name for _, _, names, _ in PAIRS for name in names}
    first = next(iter(run.setting("metric") or {}), "")
    names = [name for name in run.series if name.startswith(VALIDATION) and name != "validation/loss"]
    for name in sorted(names, key=lambda one: one != f"{VALIDATION}{first}"):
        short = name.removeprefix(VALIDATION)
        if short not in paired:
            yield from _drawn(run, [name], title=heading(short), y=words(short))


def _preferences(run: RunFiles) -> Iterator[Markup]:
    """What the losses of pairs say, with what it means."""
    for title, y, names, meaning in PAIRS:
        found = [f"{part}{name}" for name in names for part in (TRAIN, VALIDATION)]
        yield from _drawn(run, found, title=title, y=y, note=meaning)


def _others(run: RunFiles) -> Iterator[Markup]:
    """What else is logged of updates, each in a chart of its own."""
    known = OWN | {name for _, _, names, _ in PAIRS for name in names}
    for name in run.series:
        short = name.removeprefix(TRAIN)
        if name.startswith(TRAIN) and short not in known and not short.startswith("learning_rate"):
            yield from _drawn(run, [name], title=heading(short), y=words(short))


def _machine(run: RunFiles) -> Iterator[Markup]:
    """Rates, gradients, speed and memory."""
    rates = [name for name in run.series if name.startswith("train/learning_rate")]
    yield from _drawn(run, rates, title="Learning rate", y="rate", axis={"tickformat": ".3~g"})
    clip = run.setting("trainer.gradient_clip")
    note = (
        f"Before clipping; trainer.gradient_clip={number(clip)} is the most that reaches the weights." if clip else ""
    )
    yield from _drawn(run, ["train/grad_norm"], title="Gradient norm", y="norm", note=note)
    yield from _drawn(run, ["train/tokens_per_second"], title="Throughput", y="tokens per second", axis=WHOLE)
    yield from _drawn(
        run,
        ["train/peak_memory_gib"],
        title="Peak memory",
        y="GiB",
        note="The most so far, of the first process.",
        axis=FROM_ZERO,
    )
