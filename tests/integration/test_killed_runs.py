"""Runs that end without a word, and pages that are made of them later: what the lock of their folder tells."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.effects.small_runs import settings_of
from tests.integration.stopped_runs import run, stop_after, stopped
from tests.integration.test_reporting import COLUMNS, WORDS, overrides, progress
from tests.reliability.children import start

from leyden import compare
from leyden.artifacts.job import run_job
from leyden.artifacts.lock import locked
from leyden.report import __main__ as report
from leyden.report.run_files import RunFiles
from leyden.settings import run_lock
from leyden.settings.errors import ConfigError, TrainingError
from leyden.settings.run_lock import LOCK, is_written
from leyden.training.checkpoints import Checkpoints


def pages(folder: Path) -> tuple[str, str]:
    """The page of a run and one that compares it, both made now."""
    assert report.main([f"run={folder}"]) == 0
    comparison = folder.parent / "comparison.html"
    assert compare.main([str(folder), f"output={comparison}"]) == 0
    return (folder / "report.html").read_text(encoding="utf-8"), comparison.read_text(encoding="utf-8")


def test_a_run_is_running_while_it_lives_and_killed_once_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stand_still(self: Checkpoints, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == 6:
            (tmp_path / "still").touch()
            signal.pause()

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", stand_still)
    child = start(lambda: run_job(settings_of(tmp_path, COLUMNS, *WORDS)), tmp_path / "log")
    try:
        latest = time.monotonic() + 120
        while not (tmp_path / "still").exists():
            assert time.monotonic() < latest, (tmp_path / "log").read_text()
            time.sleep(0.05)
        own = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
        assert "while the run went on: it says how things were then" in own
        one, many = pages(tmp_path / "run")
        assert '<span class="tag ">Running</span>' in one
        assert "while the run went on: it says how things were then" in one
        assert "<bdi>running</bdi>" in many
        assert "1 run had not ended when this page was written" in many
        with pytest.raises(ConfigError, match="is in use by process"):  # reading did not take its lock away
            locked(tmp_path / "run").__enter__()
    finally:
        os.kill(child.pid, signal.SIGKILL)
    assert child.wait().code == -signal.SIGKILL
    assert progress(tmp_path / "run")["status"] == "running"
    one, many = pages(tmp_path / "run")
    assert '<span class="tag bad">Killed</span>' in one
    assert "No process writes into its folder any more" in one
    assert "while the run went on" not in one
    assert "<bdi>killed</bdi>" in many
    assert "No process writes into its folder any more" in many
    assert "had not ended" not in many


def test_a_run_that_writes_its_own_page_keeps_its_lock(tmp_path: Path) -> None:
    def taken() -> int:
        try:
            with locked(tmp_path):
                return 1
        except ConfigError:
            return 0

    with locked(tmp_path):
        assert RunFiles.read(tmp_path).goes_on
        assert start(lambda: sys.exit(taken()), tmp_path / "log").wait().code == 0
        assert start(lambda: sys.exit(not is_written(tmp_path)), tmp_path / "log").wait().code == 0
    assert is_written(tmp_path) is False
    assert not run_lock._held


def test_where_the_lock_tells_nothing_a_run_is_not_called_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    assert is_written(folder) is None
    with locked(folder):
        pass
    said = json.loads((folder / LOCK).read_text())
    for other in ("", "{", "[]", json.dumps({**said, "host": "elsewhere"})):
        (folder / LOCK).write_text(other)
        assert is_written(folder) is None
    (folder / "config.yaml").write_text("problem: {}\n")
    (folder / "progress.json").write_text('{"status": "running", "written": "2026-01-01T10:00:00+00:00"}')
    one, _ = pages(folder)
    assert "said last (2026-01-01 10:00:00 UTC) that it goes on; whether it still does cannot be told from here" in one


def test_workers_that_die_before_they_begin_are_no_earlier_end_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        stopped(*overrides(tmp_path), pages=True)
    assert progress(folder)["status"] == "stopped"
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(TrainingError, match="ended with code 1"):
        run(f"resume={folder}", "trainer.devices=2", "trainer.strategy=ddp", pages=True)
    said = progress(folder)
    assert (said["status"], said["updates_done"]) == ("failed", 4)  # as of the last evaluation
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "6 of 8 updates" in page, "what is logged counts"
    assert "The worker processes ended with code 1" in page
    assert "signal 15" not in page
    with pytest.raises(TrainingError, match="ended with code 1"):
        run(*overrides(tmp_path / "fresh", "trainer.devices=2", "trainer.strategy=ddp"), pages=True)
    assert progress(tmp_path / "fresh" / "run")["status"] == "failed"
    assert "ended with code 1" in (tmp_path / "fresh" / "run" / "report.html").read_text(encoding="utf-8")
