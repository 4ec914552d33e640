"""What a failing disk, a dying worker or a second signal does to a run."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.integration.forked_workers import ForkedPython
from tests.integration.stopped_runs import assert_same_bits, run
from tests.integration.test_resume import overrides_of
from tests.reliability.children import left_of

from leyden.data.collator import Collator
from leyden.settings.errors import TrainingError
from leyden.training import saved_states

ROOT = Path(__file__).resolve().parents[2]
EACH = "checkpoint.every_minutes=1e-9"  # a checkpoint after each update


def test_checkpoints_between_evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    original = saved_states.finish_state

    def finish(path: Path, about: dict[str, Any]) -> int:
        written.append(path.name)
        return original(path, about)

    monkeypatch.setattr("leyden.training.checkpoints.finish_state", finish)
    words = ["trainer.epochs=1", "trainer.evaluation_epochs=0.5"]
    run(*overrides_of(tmp_path, "often", "checkpoint.every_minutes=1e-9", *words))
    assert written == [f"step-{update:08d}" for update in (1, 2, 3, 3, 4, 5, 6, 6)]  # before an evaluation and after it
    assert [path.name for path in (tmp_path / "often" / "checkpoints").iterdir()] == ["step-00000006"]
    written.clear()
    run(*overrides_of(tmp_path, "never", "checkpoint.every_minutes=null", *words))
    assert written == ["step-00000003", "step-00000006"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing is done to."""
    folder = tmp_path_factory.mktemp("runs")
    run(*overrides_of(folder, "whole", EACH))
    return folder / "whole"


def test_a_full_disk_leaves_the_checkpoint_before(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        calls: list[Path] = []

        def flush(path: Path) -> None:
            calls.append(path)
            if path.name == saved_states.STATE and sum(one.name == saved_states.STATE for one in calls) == 5:
                raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(saved_states, "flush", flush)
        with pytest.raises(TrainingError) as caught:
            run(*overrides_of(tmp_path, "full", EACH))
    folder = tmp_path / "full"
    assert str(caught.value.faults[0]).startswith("The checkpoint after update 4 cannot be written to ")
    assert f"{folder / 'checkpoints' / 'step-00000003'} is whole" in caught.value.faults[0]
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000003"]
    run(f"resume={folder}")
    assert_same_bits(whole, folder)


def test_a_worker_that_dies_ends_the_run_and_not_what_it_has_saved(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = os.getpid()
    with monkeypatch.context() as patch:
        original = Collator.passes

        def passes(self: Collator, samples: Any) -> Any:
            if os.getpid() != here and any(sample.number == 9 for sample in samples):
                os.kill(os.getpid(), signal.SIGKILL)
            return original(self, samples)

        patch.setattr(Collator, "passes", passes)
        with pytest.raises(TrainingError, match="A process that builds batches has ended"):
            run(*overrides_of(tmp_path, "killed", EACH, "trainer.number_of_workers=1"))
    run(f"resume={tmp_path / 'killed'}")
    assert_same_bits(whole, tmp_path / "killed")


@pytest.mark.slow
def test_the_command_ends_with_the_codes_of_shells(tmp_path: Path) -> None:
    """A process with a worker; the signal comes to the whole group, as from a terminal."""
    words = overrides_of(
        tmp_path, "real", "trainer.epochs=100000", "checkpoint.every_minutes=null", "trainer.number_of_workers=1",
        "trainer.evaluation_epochs=100000",
    )  # fmt: skip

    def wait_for(update: int) -> None:
        log = tmp_path / "real" / "metrics.csv"
        while not (log.exists() and f"\n{update}," in log.read_text(encoding="utf-8")):
            assert process.poll() is None
            time.sleep(0.05)

    process = ForkedPython(
        [sys.executable, str(ROOT / "train.py"), *words], cwd=tmp_path, capture_output=True, start_new_session=True
    )
    wait_for(3)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert not left_of(process.pid)
    assert "Traceback" not in said
    assert "To go on from there: python train.py resume=" in said
    assert json.loads((tmp_path / "real" / "manifest.json").read_text(encoding="utf-8"))["status"] == "stopped"
