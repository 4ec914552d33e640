"""L2: the number of a process stands before what it says; that all speak, or one, is seen in test_processes.py."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from leyden.artifacts.folder import RunFolder
from leyden.artifacts.run_log import RunLog


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
