"""What one run of one arm measured."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """One arm, one case, one round.

    Attributes:
        arm: who.
        losses: of each update, before it.
        update_seconds: of each update: forward, backward, clipping, optimizer.
        loop_seconds: of the whole training loop, loading included; evaluations and saving are left out.
        reference_seconds: of the reference's log-probabilities, where they are computed before the loop.
        start_seconds: from the start of the process to that of the first update, the reference left out.
        peak_gib: most resident memory of the process (VmHWM; ru_maxrss where there is no such thing).
        threads: of the arithmetic, as torch says.
    """

    arm: str
    losses: list[float]
    update_seconds: list[float]
    loop_seconds: float
    reference_seconds: float
    start_seconds: float
    peak_gib: float
    threads: int

    @property
    def seconds(self) -> float:
        """What the training took: reference and loop."""
        return self.reference_seconds + self.loop_seconds


def write_result(result: Result, path: Path) -> None:
    """Write it as JSON."""
    path.write_text(json.dumps(asdict(result), indent=1), encoding="utf-8")


def read_result(path: Path) -> Result:
    """Read what `write_result` wrote."""
    return Result(**json.loads(path.read_text(encoding="utf-8")))
