"""How many updates a run has that goes on: those it would have had, however the epoch is cut."""

from __future__ import annotations

import math

import pytest

from leyden.training.position import Epochs, Position


@pytest.mark.parametrize("accumulation", [1, 2, 3, 7, 9])
@pytest.mark.parametrize(
    ("samples", "step", "whole_only"), [(13, 2, False), (13, 2, True), (12, 4, True), (3, 4, False)]
)
def test_the_plan_is_the_same_after_every_update(samples: int, step: int, whole_only: bool, accumulation: int) -> None:
    steps = samples // step if whole_only else math.ceil(samples / step)
    epochs = Epochs(samples, step, steps, accumulation, 3, whole_only)
    planned, done = epochs.planned(None), 0
    assert planned == 3 * math.ceil(steps / accumulation)
    end = samples - (samples % step if whole_only else 0)
    for epoch in range(3):
        for batch in range(1, steps + 1):
            if batch % accumulation == 0 or batch == steps:
                done += 1
                position = Position(done, epoch, min(batch * step, end), 1)
                assert epochs.batches_at(position) == batch
                assert epochs.planned(position) == planned


def test_other_processes_cut_what_is_left_anew() -> None:
    """Of 13 samples 4 are used by one process with 2 at a time; two processes take the other 9 in three steps."""
    two = Epochs(13, 4, 4, 1, 2)
    position = Position(2, 0, 4, 1)
    assert two.batches_at(position) == 1
    assert two.planned(position) == 2 + 3 + 4
