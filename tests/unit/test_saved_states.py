from __future__ import annotations

from pathlib import Path

import pytest

from leyden.training.saved_states import MANIFEST, STATE, DamagedError, finish_state, partial_of, read_state

ABOUT = {
    "step": 7, "samples": 28, "metrics": {"validation/loss": 1.5, "validation/perplexity": None}, "resumable": True,
    "settled": {"trainer.tokens_per_pass": 512}, "position": {"epoch": 1}, "run": "0123", "rows": {"train": "4567"},
    "grown": {"metrics.csv": {"bytes": 9, "sha256": "89ab"}},
}  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "step-00000007"
    partial_of(path).mkdir()
    (partial_of(path) / STATE).write_bytes(b"state")
    finish_state(path, ABOUT)
    return path


def test_it_is_read_as_it_was_written(checkpoint: Path) -> None:
    state = read_state(checkpoint)
    assert (state.point.step, state.settled, state.run) == (7, {"trainer.tokens_per_pass": 512}, "0123")
    assert state.size == sum(file.stat().st_size for file in checkpoint.iterdir())


def test_one_wrong_bit_anywhere_in_the_manifest_is_seen(checkpoint: Path) -> None:
    content = (checkpoint / MANIFEST).read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        (checkpoint / MANIFEST).write_bytes(damaged)
        if content[place : place + 1].isspace() and bytes(damaged[place : place + 1]).isspace():
            continue  # between the words of a manifest
        with pytest.raises(DamagedError, match=MANIFEST):
            read_state(checkpoint)
