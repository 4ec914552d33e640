"""Two CPU processes against one: the same rows, cut in two, give the same weights and numbers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from tests.integration.forked_workers import descendants, forked_workers, is_alive  # noqa: F401  a fixture
from tests.integration.process_runs import ROOT, assert_same_run, numbers, overrides_of, train, write_rows
from tests.integration.stopped_runs import assert_same_bits, run, stop_after, stopped
from tests.reliability.children import work_of

from leyden.artifacts.folder import RunFolder, status_of
from leyden.artifacts.workers import run_workers
from leyden.data.batches import Batch
from leyden.settings.errors import TrainingError
from leyden.training.interrupts import Interrupts
from leyden.training.module import FineTuner

RunCli = Callable[..., CompletedProcess[str]]
TEXTS = ["dataset.answer_column=output", "lora.dropout=0", "generation.max_length_inference=3"]
SPOKEN = re.compile(r"^(?:\[(\d)\] )?(?:\S+ \S+ INFO )?validation: \d+ rows?", re.MULTILINE)
DDP = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def workers_find_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.csv")


# Pairs: one validation row leaves a rank without, and the last of thirteen training rows leaves one idle.
EXPERIMENTS = {
    "tokens": "dataset: {validation_size: 0.2}\noptimizer: {learning_rate: 0.1}\n",
    "pairs": (
        "defaults: [override /problem: dpo]\ntrainer: {gradient_clip: 0.5}\noptimizer: {learning_rate: 0.05}\n"
        "log_all_ranks: true\n"
        "dataset: {validation_size: 0.08, rejected_answer_column: rejected}\n"
        "backbone: {attention_implementation: sdpa}\n"
    ),
}


@pytest.mark.usefixtures("forked_workers")
def test_a_sweep_of_two_processes_each_equals_single_processes(
    run_here: RunCli, table: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Effective batches of four: 4 x 1, and 2 processes x 2 rows in short passes; for pairs, packed against padded.

    The scores of the pairs' reference are computed by two processes and by one, and not read by either.
    """
    monkeypatch.setenv("LEYDEN_CACHE", str(tmp_path / "cache"))
    conf = tmp_path / "conf"
    (conf / "experiment").mkdir(parents=True)
    for name, text in EXPERIMENTS.items():
        (conf / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}", encoding="utf-8")
    # A large eps: without it AdamW turns the rounding of gradients near zero into steps of full size.
    common = ["optimizer.eps=0.01", *TEXTS]
    cut = ["trainer.batch_size=2", "trainer.grad_accumulation=1", "trainer.tokens_per_pass=30"]
    sweep = ["-m", "--config-dir", str(conf), f"experiment={','.join(EXPERIMENTS)}"]
    whole = ["trainer=cpu", "trainer.batch_size=4", "backbone.attention_implementation=auto"]
    for name in EXPERIMENTS:  # first: what they load is there in the processes that are forked
        train(table, tmp_path / name, f"experiment={name}", *common, *whole, extra=conf)
    capfd.readouterr()
    shutil.rmtree(tmp_path / "cache")
    done = run_here(["train.py", *sweep, *overrides_of(table, tmp_path / "two", *common, *DDP, *cut)])
    assert done.returncode == 0, done.stderr
    said = capfd.readouterr().err
    assert "Warning" not in done.stderr + said
    # L2: every process speaks and keeps a log where that is asked for, else the first one alone
    assert sorted(SPOKEN.findall(said)) == ["", "0", "1"]
    logs = [
        {path.name: SPOKEN.findall(path.read_text("utf-8")) for path in (tmp_path / "two" / job).glob("train*.log")}
        for job in ("0", "1")
    ]
    assert logs == [{"train.log": [""]}, {"train.log": ["0"], "train-rank1.log": ["1"]}]
    for job, name in enumerate(EXPERIMENTS):
        one, two = tmp_path / name, tmp_path / "two" / str(job)
        assert_same_run(one, two)
        if name == "pairs":
            manifests = [json.loads((run / "manifest.json").read_text()) for run in (one, two)]
            assert [manifest["reference_scores"]["computed"] for manifest in manifests] == [14, 14]
    rates = [numbers(tmp_path / "two" / job)[(1, 4, "train/learning_rate")] for job in ("0", "1")]
    assert rates == [0.1, 0.05]


def test_all_processes_give_up_together(table: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A rate that blows the weights up: no update can be applied any more, on both ranks; exit code 2."""
    bad = ["optimizer.learning_rate=1e30", "trainer.max_bad_steps=2", "trainer.epochs=5", "trainer.batch_size=1"]
    with pytest.raises(TrainingError, match="code 2"):
        train(table, tmp_path / "bad", *TEXTS, *DDP, *bad)
    said = capfd.readouterr().err
    assert "2 updates in a row could not be applied (trainer.max_bad_steps=2)" in said
    assert "Traceback" not in said
    line = next(line for line in said.splitlines() if "was not applied" in line)
    assert "of the training table" in line
    assert "lines " in line, "the rows of both ranks are named"


def once_at(folder: Path, update: int, act: Callable[[], None]) -> None:
    """Do something as soon as a run has logged an update."""

    def watch() -> None:
        log = folder / "metrics.csv"
        while not (log.exists() and f"\n{update}," in log.read_text(encoding="utf-8")):
            time.sleep(0.02)
        act()

    threading.Thread(target=watch, daemon=True).start()


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_processes_stop_together_and_none_outlives_another_or_what_started_it(
    table: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A signal, the death of a process, the death of the command, then on to the end: the same bits as without any."""
    words = [
        "trainer.batch_size=1", "trainer.epochs=4", "checkpoint.every_minutes=1e-9", "lora.dropout=0.1",
        "dataset.answer_column=output", "generation.max_length_inference=3", *DDP,
    ]  # fmt: skip
    others = descendants().keys()
    run(*overrides_of(table, tmp_path / "whole", *words))
    cut, how = tmp_path / "cut", "To go on from there: python train.py resume="
    once_at(cut, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert stopped(*overrides_of(table, cut, *words)).code == 143
    assert status_of(cut) == "stopped"
    assert not descendants(others)
    assert capfd.readouterr().err.count(how) == 1

    def kill_the_second() -> None:
        os.kill(next(pid for pid, parent in descendants(others).items() if parent != os.getpid()), signal.SIGKILL)

    once_at(cut, 9, kill_the_second)
    with pytest.raises(TrainingError, match="The worker processes ended with code"):
        run(f"resume={cut}")
    assert not descendants(others)
    assert capfd.readouterr().err.count(how) == 1

    command = os.fork()
    if not command:
        os._exit(work_of(lambda: run(f"resume={cut}")))
    there: list[int] = []

    def kill_the_command() -> None:
        there.extend(descendants(others))
        os.kill(command, signal.SIGKILL)

    once_at(cut, 14, kill_the_command)
    os.waitpid(command, 0)
    assert len(there) == 3
    latest = time.monotonic() + 20
    while any(map(is_alive, there)):
        assert time.monotonic() < latest
        time.sleep(0.02)
    assert status_of(cut) == "running", "they did not train to the end"
    run(f"resume={cut}")
    assert_same_bits(tmp_path / "whole", cut)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system ends it")
def test_a_worker_that_still_loads_ends_with_the_command(tmp_path: Path) -> None:
    """A real process, in the first moments of its start; it would wait for its settings for ever."""
    others = descendants().keys()
    os.mkfifo(tmp_path / "config.yaml")
    command = os.fork()
    if not command:
        os._exit(work_of(lambda: run_workers(RunFolder(tmp_path), 1, Interrupts(), goes_on=False)))
    latest = time.monotonic() + 20
    while not (workers := set(descendants(others)) - {command}):
        assert time.monotonic() < latest
    (worker,) = workers
    os.kill(command, signal.SIGKILL)
    os.waitpid(command, 0)
    while is_alive(worker):
        assert time.monotonic() < latest
        time.sleep(0.02)


@pytest.mark.usefixtures("forked_workers")
def test_other_numbers_of_processes_take_what_is_left_of_the_epoch(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process, two, one again, in the middle of epochs: each sample once in each, none again, none left out."""
    folder, taken = tmp_path / "run", tmp_path / "taken.jsonl"
    original = FineTuner.on_train_batch_start

    def on_train_batch_start(self: FineTuner, batch: list[Batch], batch_idx: int) -> None:
        with taken.open("a", encoding="utf-8") as file:
            samples = [int(sample) for part in batch for sample in part.samples]
            file.write(json.dumps([self.trainer.world_size, self.trainer.current_epoch, samples]) + "\n")
        original(self, batch, batch_idx)

    monkeypatch.setattr(FineTuner, "on_train_batch_start", on_train_batch_start)
    words = ["trainer=cpu", "trainer.batch_size=2", "dataset.answer_column=output", "generation.max_length_inference=3"]
    for update, more in ((2, overrides_of(table, folder, *words)), (6, [f"resume={folder}", *DDP])):
        with monkeypatch.context() as patch:
            stop_after(patch, update)
            stopped(*more)
    run(f"resume={folder}", "trainer.devices=1", "trainer.strategy=auto")
    rows = [json.loads(line) for line in taken.read_text(encoding="utf-8").splitlines()]
    assert [world for world, _, _ in rows] == [1] * 2 + [2] * 8 + [1] * 5
    for epoch in range(2):
        assert sorted(sample for _, of, samples in rows if of == epoch for sample in samples) == list(range(13))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["updates_done"] == manifest["updates"] == 11
    assert max(samples for _, samples, _ in numbers(folder)) == 26
    assert [resume["changes"]["trainer.devices"] for resume in manifest["resumes"]] == [[1, 2], [2, 1]]
