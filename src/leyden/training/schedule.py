"""Learning-rate curves: the factor on the peak rate at each update.

Each curve is a pure function, handed to the library with everything but the step filled in:
`LambdaLR(optimizer, partial(cosine, total=total, warmup=warmup, floor=floor))`, stepped once per update.

Notation: k updates done (0 for the first), S = total, W = warmup in updates, a fraction allowed. All curves rise as
k / max(1, W) while k < W, so the first update of a warmup has the rate 0; the floor does not hold there.
"""

from __future__ import annotations

import math


def constant(step: int, *, total: int, warmup: float) -> float:
    """Warmup, then 1.

    Args:
        step: updates done.
        total: updates of the whole run; the curve does not depend on it.
        warmup: updates of the warmup, >= 0.
    """
    return step / max(1.0, warmup) if step < warmup else 1.0


def linear(step: int, *, total: int, warmup: float, floor: float) -> float:
    """Warmup, then a straight line to 0 at S, cut off at the floor: max(floor, (S - k) / max(1, S - W)).

    Args:
        step: updates done.
        total: updates of the whole run.
        warmup: updates of the warmup, >= 0.
        floor: least factor after the warmup, in [0, 1). It clips the line, it does not tilt it.
    """
    if step < warmup:
        return step / max(1.0, warmup)
    return max(floor, (total - step) / max(1.0, total - warmup))


def cosine(step: int, *, total: int, warmup: float, floor: float) -> float:
    """Warmup, then half a cosine to 0 at S, cut off at the floor.

    Equals max(floor, (1 + cos(pi (k - W) / max(1, S - W))) / 2). From S on it stays where it is.

    Args:
        step: updates done.
        total: updates of the whole run.
        warmup: updates of the warmup, >= 0.
        floor: least factor after the warmup, in [0, 1). It clips the curve, it does not scale it.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5, without restarts.
    """
    if step < warmup:
        return step / max(1.0, warmup)
    progress = min(1.0, (step - warmup) / max(1.0, total - warmup))
    return max(floor, (1 + math.cos(math.pi * progress)) / 2)


def wsd(step: int, *, total: int, warmup: float, floor: float, decay_share: float) -> float:
    """Warmup, then 1, then 1 - sqrt of the progress of the last updates, cut off at the floor.

    With D = decay_share S and E = max(W, S - D), it equals max(floor, 1 - sqrt((k - E) / max(1, S - E))) from E on.

    Args:
        step: updates done.
        total: updates of the whole run.
        warmup: updates of the warmup, >= 0.
        floor: least factor after the warmup, in [0, 1). It clips the curve, it does not scale it.
        decay_share: share of the updates in which it falls, in (0, 1].

    Raises:
        ValueError: decay_share is out of that range.

    Source: Hu et al. 2024, arXiv:2404.06395, for the three phases; Hägele et al. 2024, arXiv:2405.18392, for the root.
    """
    if not 0 < decay_share <= 1:
        raise ValueError(f"decay_share={decay_share}, and it must be above 0, at most 1")
    if step < warmup:
        return step / max(1.0, warmup)
    end = max(warmup, total * (1 - decay_share))
    progress = min(1.0, max(0.0, step - end) / max(1.0, total - end))
    return max(floor, 1 - math.sqrt(progress))


def inverse_sqrt(step: int, *, total: int, warmup: float, floor: float) -> float:
    """Warmup, then sqrt(max(1, W) / k), cut off at the floor.

    Args:
        step: updates done.
        total: updates of the whole run; the curve does not depend on it.
        warmup: updates of the warmup, >= 0. The longer it is, the slower the curve falls.
        floor: least factor after the warmup, in [0, 1). It clips the curve, it does not scale it.

    Source: Vaswani et al. 2017, arXiv:1706.03762, equation 3, scaled to 1 at its peak.
    """
    if step < warmup:
        return step / max(1.0, warmup)
    return max(floor, min(1.0, math.sqrt(max(1.0, warmup) / max(1, step))))
