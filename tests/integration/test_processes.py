"""Two CPU processes against one: the same rows, cut in two, give the same weights and numbers."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from tests.integration.process_runs import ROOT, assert_same_run, numbers, overrides_of, train, write_rows
from tests.integration.stopped_runs import assert_same_bits, run, stopped

from leyden.settings.errors import TrainingError

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
    whole = ["trainer=cpu", "trainer.batch_size=4", "backbone.attention_implementation=auto"]
    for job, name in enumerate(EXPERIMENTS):
        one = train(table, tmp_path / name, f"experiment={name}", *common, *whole, extra=conf)
        assert_same_run(one, tmp_path / "two" / str(job))
        if name == "pairs":
            manifests = [json.loads((run / "manifest.json").read_text()) for run in (one, tmp_path / "two" / str(job))]
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


def workers() -> dict[int, int]:
    """Processes that train for a job of this one: local rank by number."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            variables = dict(line.partition(b"=")[::2] for line in (path / "environ").read_bytes().split(b"\0"))
        except OSError:  # it has ended meanwhile, or is none of ours
            continue
        if b"leyden.artifacts.worker" in words and int(variables.get(b"LEYDEN_TEST", b"0")) == os.getpid():
            found[int(path.name)] = int(variables.get(b"LOCAL_RANK", b"0"))
    return found


def once_at(folder: Path, update: int, act: Callable[[], None]) -> None:
    """Do something as soon as a run has logged an update."""

    def watch() -> None:
        log = folder / "metrics.csv"
        while not (log.exists() and f"\n{update}," in log.read_text(encoding="utf-8")):
            time.sleep(0.02)
        act()

    threading.Thread(target=watch, daemon=True).start()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_two_processes_stop_together_and_one_does_not_outlive_the_other(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal, then the death of a process, then on to the end: the same bits as without either."""
    monkeypatch.setenv("LEYDEN_TEST", str(os.getpid()))
    words = [
        "trainer.batch_size=1", "trainer.epochs=3", "checkpoint.every_minutes=1e-9", "lora.dropout=0.1",
        "dataset.answer_column=output", "generation.max_length_inference=3", *DDP,
    ]  # fmt: skip
    run(*overrides_of(table, tmp_path / "whole", *words))
    cut = tmp_path / "cut"
    once_at(cut, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert stopped(*overrides_of(table, cut, *words)).code == 143
    assert json.loads((cut / "manifest.json").read_text(encoding="utf-8"))["status"] == "stopped"
    assert not workers()

    def kill_the_second() -> None:
        os.kill(next(number for number, rank in workers().items() if rank == 1), signal.SIGKILL)

    once_at(cut, 9, kill_the_second)
    with pytest.raises(TrainingError, match="The worker processes ended with code"):
        run(f"resume={cut}")
    assert not workers()
    run(f"resume={cut}")
    assert_same_bits(tmp_path / "whole", cut)
