"""What a resume refuses, passes over, and leaves as it is."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.stopped_runs import assert_same_bits, logged, run, stop_after, stopped, weights
from tests.integration.test_resume import overrides_of

from leyden.artifacts.lock import locked
from leyden.data.sampler import TrainingLoader
from leyden.settings.errors import ConfigError, TrainingError
from leyden.training.checkpoints import Checkpoints
from leyden.training.interrupts import Interrupts
from leyden.training.module import FineTuner
from leyden.training.saved_states import STATE, sealed, sha256


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint of each evaluation, in a folder where others are stopped."""
    folder = tmp_path_factory.mktemp("runs")
    run(*overrides_of(folder, "whole", "checkpoint=each_evaluation_epoch"))
    return folder / "whole"


@pytest.fixture(scope="module")
def halfway(whole: Path) -> Path:
    """The same run, stopped after its eighth update of twelve."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 8)
        stopped(*overrides_of(whole.parent, "halfway", "checkpoint=each_evaluation_epoch"))
    return whole.parent / "halfway"


@pytest.fixture
def cut(halfway: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(halfway, tmp_path / "cut")
    return tmp_path / "cut"


def test_settings_that_touch_the_numbers_cannot_change(whole: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run(f"resume={whole}", "optimizer.learning_rate=0.5", "trainer.batch_size=4", "trainer.epochs=9", "lora=dora")
    text = "\n".join(caught.value.faults)
    assert "optimizer.learning_rate=0.5 cannot change on the way: whole was started with " in text
    assert "trainer.batch_size=4 cannot change" in text
    assert "lora.use_dora=true cannot change" in text
    assert "trainer.epochs=9" not in text
    assert "trainer.epochs, " in text  # in the list of what may


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["experiment_name=x"], "experiment_name does not go with resume=FOLDER"),
        (["overwrite=true"], "overwrite=true does not go with resume"),
        (["experiment=simpo"], "experiment=simpo: a recipe sets many keys"),
    ],
)
def test_words_that_do_not_go_with_a_resume(more: list[str], words: str, whole: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        run(f"resume={whole}", *more)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Name a folder that train.py has written"):
        run(f"resume={tmp_path}")
    with pytest.raises(ConfigError, match="resume=auto looks for the run of an experiment_name"):
        run("resume=auto")


def test_a_finished_run_is_left_as_it_is(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.name != ".lock"}
    run(f"resume={whole}")
    run("resume=auto", *overrides_of(whole.parent, "whole", "checkpoint=each_evaluation_epoch"))
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.name != ".lock"} == before


def test_auto_starts_a_run_that_is_not_there_and_goes_on_with_one_that_is(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["resume=auto", *overrides_of(whole.parent, "auto", "checkpoint=each_evaluation_epoch")]
    with monkeypatch.context() as patch:
        stop_after(patch, 5, signal.SIGINT)
        assert stopped(*words).code == 130
    run(*words)
    assert_same_bits(whole, whole.parent / "auto")
    (resume,) = json.loads((whole.parent / "auto" / "manifest.json").read_text(encoding="utf-8"))["resumes"]
    assert (resume["after_update"], resume["changes"]) == (5, {})


def test_what_may_change_is_recorded(cut: Path) -> None:
    run(f"resume={cut}", "trainer.epochs=3", "trainer.evaluation_epochs=1.0")
    manifest = json.loads((cut / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["updates_done"] == manifest["updates"] == 18
    assert manifest["resumes"][0]["changes"] == {"trainer.epochs": [2, 3], "trainer.evaluation_epochs": [0.5, 1.0]}
    steps = sorted({int(step) for step, _, name, _ in logged(cut)[1:] if name == "validation/loss"})
    assert steps == [0, 3, 6, 12, 18]
    assert "epochs: 3" in (cut / "config.yaml").read_text(encoding="utf-8")


def test_a_damaged_checkpoint_is_named_and_passed_over(
    whole: Path, cut: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    newest = max((cut / "checkpoints").glob("step-*"))
    content = bytearray((newest / STATE).read_bytes())
    content[len(content) // 2] ^= 1
    (newest / STATE).write_bytes(content)
    capfd.readouterr()
    run(f"resume={cut}")
    said = capfd.readouterr().err
    assert f"{newest} is damaged and is passed over: {STATE} has another sha256 than manifest.json says." in said
    assert "The run goes on after update 6" in (cut / "train.log").read_text(encoding="utf-8")
    assert_same_bits(whole, cut)


def test_a_pickle_that_runs_code_is_not_read(cut: Path, tmp_path: Path) -> None:
    trap = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(trap),)

    newest = max((cut / "checkpoints").glob("step-*"))
    torch.save({"state_dict": {}, "x": Trap()}, newest / STATE)
    seal(newest)
    with pytest.raises(TrainingError, match="holds more than numbers and texts"):
        run(f"resume={cut}")
    assert not trap.exists()
    pickle.loads(pickle.dumps(Trap()))  # it would have run
    assert trap.exists()


def hold(folder: str, ready: Any) -> None:
    with locked(Path(folder)):
        ready.set()
        time.sleep(60)


def test_a_folder_in_use_is_refused_and_a_crash_leaves_no_lock(whole: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(str(whole), ready))
    process.start()
    assert ready.wait(20)
    for words in (f"resume={whole}",), (*overrides_of(whole.parent, "whole"), "overwrite=true"):
        with pytest.raises(ConfigError, match=rf"is in use by process {process.pid} on "):
            run(*words)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(20)
    run(f"resume={whole}")


@pytest.mark.parametrize("trap", ["estimated_stepping_batches", "no_loader_state"])
def test_rows_that_would_begin_anew_are_found(trap: str, cut: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning drops the loader's state where the optimizer asks for the number of updates, and without a word."""
    if trap == "no_loader_state":
        monkeypatch.setattr(TrainingLoader, "load_state_dict", lambda self, state: None)
    else:
        original = FineTuner.configure_optimizers

        def configure_optimizers(self: FineTuner) -> Any:
            assert self.trainer.estimated_stepping_batches
            return original(self)

        monkeypatch.setattr(FineTuner, "configure_optimizers", configure_optimizers)
    with pytest.raises(TrainingError, match=r"The rows would go on at None .* and the checkpoint is at \(1, 4\)"):
        run(f"resume={cut}")


def break_down(monkeypatch: pytest.MonkeyPatch, update: int) -> None:
    original = Checkpoints.on_train_batch_end

    def on_train_batch_end(self: Checkpoints, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == update:
            raise RuntimeError("the machine broke down")
        original(self, trainer, *rest)

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", on_train_batch_end)


def test_a_finished_run_that_is_prolonged_and_breaks_down_goes_on(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = overrides_of(whole.parent, "prolonged", "checkpoint=each_evaluation_epoch", "trainer.epochs=1")
    run(*words)
    folder = whole.parent / "prolonged"
    with monkeypatch.context() as patch:
        break_down(patch, 8)
        with pytest.raises(RuntimeError, match="the machine broke down"):
            run(f"resume={folder}", "trainer.epochs=2")
    assert json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["status"] == "running"
    run(f"resume={folder}")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["status"], manifest["updates_done"]) == ("done", 12)
    run(f"resume={folder}", "trainer.epochs=3")
    with pytest.raises(ConfigError, match="the run is in its epoch 3 already"):  # typed as at the start, and meant
        run("resume=auto", *words)
    run(f"resume={folder}")  # what was refused has changed nothing


def test_a_run_that_was_out_of_patience_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["trainer.early_stopping_patience=1", "trainer.early_stopping_min_delta=999", "trainer.epochs=3"]
    run(*overrides_of(tmp_path, "whole", *words))
    assert json.loads((tmp_path / "whole" / "manifest.json").read_text(encoding="utf-8"))["updates_done"] == 3
    with monkeypatch.context() as patch:
        patch.setattr("leyden.artifacts.job.save_predictions", fail)
        with pytest.raises(RuntimeError, match="no prediction"):
            run(*overrides_of(tmp_path, "cut", *words))
    run(f"resume={tmp_path / 'cut'}")
    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    run(f"resume={tmp_path / 'cut'}", "trainer.early_stopping_patience=2")
    assert json.loads((tmp_path / "cut" / "manifest.json").read_text(encoding="utf-8"))["updates_done"] == 6


def fail(*rest: Any) -> None:
    raise RuntimeError("no prediction")


def test_a_curve_that_was_laid_out_keeps_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        stopped(*overrides_of(tmp_path, "cycle", "schedule=one_cycle"))
    with pytest.raises(ConfigError, match="was laid out for 12 updates, and there would be 18"):
        run(f"resume={tmp_path / 'cycle'}", "trainer.epochs=3")


def test_weights_of_other_names_are_not_taken(cut: Path) -> None:
    """Lightning takes what fits, without a word."""
    newest = max((cut / "checkpoints").glob("step-*"))
    state = torch.load(newest / STATE, weights_only=True)
    name = next(iter(state["state_dict"]))
    state["state_dict"]["renamed"] = state["state_dict"].pop(name)
    torch.save(state, newest / STATE)
    seal(newest)
    with pytest.raises(TrainingError, match="2 names differ from the weights in training"):
        run(f"resume={cut}")


def seal(checkpoint: Path) -> None:
    """Write the size and hash of a checkpoint's state anew."""
    manifest = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"][STATE] = {"bytes": (checkpoint / STATE).stat().st_size, "sha256": sha256(checkpoint / STATE)}
    (checkpoint / "manifest.json").write_text(json.dumps(sealed(manifest)), encoding="utf-8")


def test_rows_that_have_changed_are_not_gone_on_with(whole: Path, cut: Path) -> None:
    table = whole.parent / "table.jsonl"
    before = table.read_text(encoding="utf-8")
    table.write_text(before.replace("question 3", "question 33"), encoding="utf-8")
    with pytest.raises(ConfigError, match="The train table has changed since the run was started"):
        run(f"resume={cut}")
    table.write_text(before, encoding="utf-8")
    run(f"resume={cut}")
    assert_same_bits(whole, cut)


def test_epochs_that_are_over_cannot_be_left_out(cut: Path) -> None:
    with pytest.raises(ConfigError, match="trainer.epochs=1: the run is in its epoch 2 already. Set at least 2"):
        run(f"resume={cut}", "trainer.epochs=1")


def test_a_run_that_kept_nothing_is_not_trained_anew_in_its_folder(tmp_path: Path) -> None:
    run(*overrides_of(tmp_path, "none", "checkpoint=disable", "trainer.epochs=1"))
    before = (tmp_path / "none" / "metrics.csv").read_bytes()
    with pytest.raises(ConfigError, match="was trained to its end and has no checkpoint to go on from"):
        run(f"resume={tmp_path / 'none'}", "trainer.epochs=2")
    assert (tmp_path / "none" / "metrics.csv").read_bytes() == before


def wait_for_signals(ready: Any) -> None:
    interrupts = Interrupts()
    with interrupts.listening():
        interrupts.wait()
        ready.set()
        time.sleep(60)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_it_at_once(signum: signal.Signals) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=wait_for_signals, args=(ready,))
    process.start()
    assert ready.wait(20)
    assert process.pid is not None
    os.kill(process.pid, signum)
    os.kill(process.pid, signum)  # right after the first: it has come twice on its way
    process.join(0.8)
    assert process.is_alive()
    os.kill(process.pid, signum)
    process.join(20)
    assert process.exitcode == 128 + signum
