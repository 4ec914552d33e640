"""A small share of `make reliability`: kills, faults and a short soak, in a process that forks its runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.forked_workers import run_forked
from tests.reliability.faults import KINDS, listed

ROOT = Path(__file__).resolve().parents[2]


COMMAND = [sys.executable, "-m", "tests.reliability"]


@pytest.mark.slow
def test_a_few_kills_and_faults_and_a_short_soak(tmp_path: Path) -> None:
    done = run_forked([*COMMAND, f"output={tmp_path}", "kills=1", "faults=2", "updates=60", "seed=11"], timeout=280)
    assert done.returncode == 0, done.stderr
    assert "| sft | 1 |" in done.stdout
    assert "| dpo | 1 |" in done.stdout
    assert "Data lost: none." in done.stdout
    assert "Both runs are bit-equal" in done.stdout
    assert not list(tmp_path.glob("run-*"))


def test_a_wrong_word_ends_the_command_before_it_loads_anything() -> None:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    done = subprocess.run(
        [*COMMAND, "kill=3"], cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "kill" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_list_of_a_seed_holds_every_kind_in_its_share() -> None:
    kinds = listed(3, 200)
    assert len(kinds) == sum(kind.share for kind in KINDS) == 200
    assert {kind.name: kinds.count(kind) for kind in KINDS} == {kind.name: kind.share for kind in KINDS}
    assert listed(3, 200) == kinds != listed(4, 200)


@pytest.mark.parametrize("word", ["kills", "kill=3", "seed=x"])
def test_options_that_are_none(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.options import OptionError
    from tests.reliability.options import read_options

    with pytest.raises(OptionError, match=word.partition("=")[0]):
        read_options([word])


def test_every_promise_names_tests_that_are_there_and_faults_that_are_injected() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    promises, _, rest = page.partition("## Numbers that cannot lie")
    rows = [line for line in promises.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    injected = {kind.inject.__name__ for kind in KINDS}
    for row in rows:
        named = re.findall(r"`([\w/]*\.py)?(?:::(\w+))?`", row)
        assert named, row
        file = ""
        for path, function in named:
            file = path or file
            text = (ROOT / file).read_text(encoding="utf-8")
            assert not function or f"def {function}(" in text, (file, function)
            assert not file.endswith("_faults.py") or function in injected, (file, function)
    there = {name for file in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)\(",
             file.read_text(encoding="utf-8"))}  # fmt: skip
    tables = [line for line in rest.partition("## How it is done")[0].splitlines() if line.startswith("| ")]
    named_later = [name for line in tables for name in re.findall(r"`(test_\w+)`", line)]
    assert len(named_later) > 30
    assert not set(named_later) - there
    for line in tables:
        assert "`test_" in line or line.split("|")[2].strip() in ("tests", "test"), line
