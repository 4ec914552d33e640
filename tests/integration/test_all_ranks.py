"""L2: with `log_all_ranks=true` every process speaks and keeps a log; else the first one alone."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest
from tests.effects.small_runs import Columns, settings_of

from leyden.artifacts.folder import RunFolder
from leyden.artifacts.job import run_job
from leyden.artifacts.run_log import RunLog

ROOT = Path(__file__).resolve().parents[2]
TABLE: Columns = {"p": [f"question {n}" for n in range(6)], "a": [f"answer {n}" for n in range(6)]}


@pytest.mark.slow
@pytest.mark.parametrize("every", [True, False])
def test_l2_two_processes_speak_or_one(
    every: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))
    ddp = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    run_job(settings_of(tmp_path, TABLE, *ddp, *(["log_all_ranks=true"] if every else [])))
    said, run = capfd.readouterr().err, tmp_path / "run"
    logs = {path.name: path.read_text(encoding="utf-8") for path in run.glob("train*.log")}
    line = re.compile(r"(?:\[(\d)\] )?(?:\S+ \S+ INFO )?validation: 6 rows", re.MULTILINE)
    assert sorted(line.findall(said)) == (["0", "1"] if every else [""])
    found = {name: line.findall(text) for name, text in logs.items()}
    assert found == ({"train.log": ["0"], "train-rank1.log": ["1"]} if every else {"train.log": [""]})


def test_l2_the_number_of_the_process_stands_before_each_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:

    for rank in (None, 0, 3):
        with RunLog(rank=rank) as run_log:
            run_log.open(RunFolder(tmp_path).log_of(rank or 0))
            logging.getLogger("leyden.test").warning("odd")
    assert capsys.readouterr().err.splitlines() == ["warning: odd", "[0] warning: odd", "[3] warning: odd"]
    assert re.fullmatch(r"\S+ \S+ WARNING odd\n\[0\] \S+ \S+ WARNING odd\n", (tmp_path / "train.log").read_text())
    assert re.fullmatch(r"\[3\] \S+ \S+ WARNING odd\n", (tmp_path / "train-rank3.log").read_text())
