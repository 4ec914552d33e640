from __future__ import annotations

import logging
from pathlib import Path

import pytest

from leyden.data import long_work, readers
from leyden.data.long_work import with_progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that tests turn."""
    now = [100.0]
    monkeypatch.setattr(long_work.time, "monotonic", lambda: now[0])
    return now


def test_a_line_every_ten_seconds_and_none_at_the_end(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in with_progress([[1, 2]] * 10, "Tokenizing", 20):
        clock[0] += 4.0
    assert [record.getMessage() for record in caplog.records] == [
        "Tokenizing: 6 of 20, 28 s left.", "Tokenizing: 12 of 20, 16 s left.", "Tokenizing: 18 of 20, 4 s left.",
    ]  # fmt: skip


def test_short_work_says_nothing(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert list(with_progress(range(5), "Comparing", 5)) == [0, 1, 2, 3, 4]
    for _ in with_progress(["whole"], "Comparing", 5):
        clock[0] += 60.0
    assert caplog.records == []


def test_a_large_file_is_named_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "table.csv"
    path.write_text("p,a\n1,2\n", encoding="utf-8")
    readers.read_file(path, "a=b")
    assert caplog.records == []
    monkeypatch.setattr(readers, "LARGE", 8)
    readers.read_file(path, "a=b")
    assert [record.getMessage() for record in caplog.records] == [f"Reading {path}, 0 MB."]
