"""What a whole run will take, from a trial of a part of it, and which settings would make it fit or faster."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leyden.backbone.quantization import KINDS
from leyden.training.measurements import Trial

GIB = 2**30
SPARE = 0.9  # share of the memory that a run may fill
QUANTISED = 0.5625  # bytes of a weight in four bits, with the scales of its blocks
RECOMPUTED = 1.33  # a second forward pass, where forward and backward are three
SHORTER = 0.95  # quantile of the lengths that is looked at
WORTH = 0.01  # share of the memory from which on it is worth a line
WORTH_TIME = 0.02  # and of the time
TIME = (
    "training = updates x mean tokens of an update x median of the seconds per token of usual updates; "
    "evaluations = evaluations x validation tokens x seconds per token; answers = answers x seconds per answer "
    "of a batch, each as long as generation.max_length_inference allows; "
    "reference = tokens it scores x seconds per token; loading as measured. If every update were as the longest one, "
    "training would take updates x seconds of that one."
)
MEMORY = (
    "the most that this process has held, by the end of the longest update; where it was not tried: memory with the "
    "weights + 3 x trained weights (gradient, two moments) + tokens of the largest pass x bytes per token"
)


def estimate(trial: Trial, lengths: NDArray[np.int64]) -> dict[str, Any]:
    """All that `dry_run.json` says: see docs/data_check.md.

    Args:
        trial: what was measured.
        lengths: tokens of each training sample.
    """
    seconds = seconds_of(trial)
    peak = trial.peak_gib if trial.longest is not None else trial.needed_gib
    weights = trial.weights
    return {
        "tried": trial.longest is not None,
        "fits": peak <= SPARE * trial.available_gib,
        "updates": trial.updates,
        "measured": {
            "seconds of usual updates": [round(took, 4) for took, _ in trial.usual],
            "tokens of usual updates": [tokens for _, tokens in trial.usual],
            "tokens of an update in the mean": round(trial.tokens_per_update, 1),
            "seconds of the longest update": _rounded(trial.longest),
            "tokens of the largest pass": trial.longest_pass,
            "seconds and tokens of an evaluation": trial.evaluation,
            "seconds, at most, and number of answers": trial.answering,
        },
        "seconds": {name: _rounded(took) for name, took in seconds.items()},
        "memory_gib": {
            "peak": _rounded(peak),
            "available": _rounded(trial.available_gib),
            "with the weights, before any update": _rounded(trial.loaded_gib),
            "trained weights": _rounded(weights.trained / GIB),
            "frozen weights": _rounded(weights.frozen / GIB),
            "gradients": _rounded(weights.trained / GIB),
            "optimizer": _rounded(weights.optimizer / GIB),
            "largest pass, estimated": _rounded((trial.token_bytes[0] or 0) * trial.longest_pass / GIB),
        },
        "formulas": {"seconds": TIME, "memory": MEMORY},
        "advice": [line for line in advice(trial, lengths) if line["saves_gib"] >= WORTH * peak or line["saves_time"]],
    }


def seconds_of(trial: Trial) -> dict[str, float]:
    """Seconds of each kind of work of the whole run, their sum, and the training if all updates were the longest."""
    if trial.longest is None or not trial.usual:
        return {}
    per_update = median(took / max(1, tokens) for took, tokens in trial.usual) * trial.tokens_per_update
    spent, scored = trial.evaluation or (0.0, 1)
    per_token = spent / max(1, scored)
    answering, answered = trial.answering or (0.0, 1)
    found = {
        "load": trial.load_seconds,
        "score the reference": trial.scored_tokens * per_token,
        "train": trial.updates * per_update,
        "evaluate": trial.evaluations * trial.validation_tokens * per_token,
        "answer": trial.answers * answering / max(1, answered),
    }
    return found | {"in all": sum(found.values()), "train at most": trial.updates * trial.longest}


def advice(trial: Trial, lengths: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    """Settings that would need less memory or time, with how much: estimates from the widths of the model.

    Args:
        trial: what was measured.
        lengths: tokens of each training sample.
    """
    yield from _of_passes(trial, lengths)
    yield from _of_weights(trial)


def _of_passes(trial: Trial, lengths: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    settings, (kept, least) = trial.settings, trial.token_bytes
    trainer, largest = settings.trainer, trial.longest_pass
    if kept is None or least is None:
        return
    smaller = max(largest // 2, trial.longest_sample)
    if smaller < largest and trainer.tokens_per_pass is not None:
        yield _line("trainer.tokens_per_pass", (trainer.tokens_per_pass, smaller), (largest - smaller) * kept,
                    "the updates are the same")  # fmt: skip
    elif smaller < largest and trainer.rows > 1:
        half = trainer.rows // 2
        passes = trainer.grad_accumulation * trainer.rows // half
        yield _line("trainer.batch_size", (trainer.rows, half), largest * kept // 2,
                    f"with trainer.grad_accumulation={passes} the updates are the same")  # fmt: skip
    if not settings.backbone.gradient_checkpointing:
        yield _line("backbone.gradient_checkpointing", (False, True), largest * (kept - least),
                    f"an update takes about {RECOMPUTED:g} times as long")  # fmt: skip
    shorter = int(np.quantile(lengths, SHORTER)) if len(lengths) else 0
    over = np.maximum(0, lengths - shorter)
    share = over.sum() / max(1, lengths.sum())
    if 0 < shorter < trial.longest_sample:
        budget = trainer.tokens_per_pass if isinstance(trainer.tokens_per_pass, int) else largest
        saved = largest - max(shorter, min(budget, trainer.rows * shorter))
        yield _line("tokenizer.max_length", (settings.tokenizer.max_length, shorter), saved * kept,
                    f"cuts {int((over > 0).sum()):,} of {len(lengths):,} samples, and "
                    f"{share:.1%} of the tokens to compute", saves_time=bool(share >= WORTH_TIME))  # fmt: skip


def _of_weights(trial: Trial) -> Iterator[dict[str, Any]]:
    settings, weights = trial.settings, trial.weights
    training = weights.trained + (weights.optimizer or 2 * weights.trained)  # gradients and the optimizer's state
    if settings.lora is None:
        yield _line("lora", ("none", "lora"), training, "trains an adapter alone: under 3 % of the weights as a rule")
    elif (rank := getattr(settings.lora, "r", None)) and rank > 1:
        yield _line("lora.r", (rank, rank // 2), (training + weights.trained) // 2, "half as many weights are trained")
    if weights.linear and settings.lora is not None and settings.backbone.dtype not in KINDS:
        size = 2 if settings.backbone.dtype in ("bfloat16", "float16") else 4
        yield _line("backbone.dtype", (settings.backbone.dtype, "int4"), int(weights.linear * (1 - QUANTISED / size)),
                    "rounds the frozen weights to four bits; needs bitsandbytes")  # fmt: skip


def _line(
    setting: str, change: tuple[Any, Any], saved: float, note: str, *, saves_time: bool = False
) -> dict[str, Any]:
    saves = round(max(0.0, saved / GIB), 4)
    return {
        "setting": setting,
        "now": change[0],
        "to": change[1],
        "saves_gib": saves,
        "saves_time": saves_time,
        "note": note,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
