"""Commands whose output nobody reads any more, as behind `| head -1`: they end quietly, with the code of a shell."""

from __future__ import annotations

import io
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.effects.small_runs import CONF
from tests.reliability.children import LONGEST, End, start

import leyden.artifacts.predict  # noqa: F401  loaded once, for all children
from leyden import compare, export, import_h2o, settings_page
from leyden.report import __main__ as report
from leyden.settings.stops import EXIT, ended_by_signals, unread

CLOSED = EXIT + signal.SIGPIPE
MODEL = ["run=tiny:llama", "generation.max_length_inference=2", "cache=off"]
SAID = ("Traceback", "Broken pipe", "BrokenPipe", "Exception ignored", "Error executing job")


@contextmanager
def closed_pipe() -> Iterator[int]:
    """The end to write to of a pipe whose other end is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def ended(work: Callable[[], object], log: Path) -> End:
    """How work ends in a process that writes into a closed pipe."""

    def unheard() -> None:
        with closed_pipe() as writer:
            os.dup2(writer, 1)
        sys.stdout = os.fdopen(os.dup(1), "w")
        sys.exit(work())  # type: ignore[arg-type]

    return start(unheard, log).wait(longest=LONGEST)


def script(name: str, *words: str) -> None:
    """What an entry file does."""
    sys.argv = [name, *words]
    runpy.run_path(str(CONF.parent / name), run_name="__main__")


def chat() -> None:
    sys.stdin = io.StringIO("Hello?\nAnd then?\n")
    script("predict.py", *MODEL, "mode=chat")


COMMANDS: dict[str, Callable[[], object]] = {
    "the settings of a job": lambda: script("train.py", "--cfg", "job", "backbone=tiny"),
    "the help of train.py": lambda: script("train.py", "--help"),
    "one prompt": lambda: script("predict.py", *MODEL, "prompt=Hello?"),
    "a chat": chat,
    "leyden.compare": lambda: compare.main(["--help"]),
    "leyden.report": lambda: report.main(["--help"]),
    "leyden.export": lambda: export.main(["--help"]),
    "leyden.import_h2o": lambda: import_h2o.main(["--help"]),
    "leyden.settings_page": lambda: settings_page.main(["--help"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_nobody_reads_ends_quietly(name: str, tmp_path: Path) -> None:
    end = ended(COMMANDS[name], tmp_path / "log")
    assert end.code == CLOSED, end.said
    assert not any(word in end.said for word in SAID), end.said


def test_python_itself_has_no_last_words_either() -> None:
    """The rest of the output is held back until the end of the process, which is here a whole one."""
    with closed_pipe() as writer:
        done = subprocess.run(
            [sys.executable, "-m", "leyden.compare", "--help"], stdout=writer, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (CLOSED, b"")


def test_a_connection_that_breaks_is_a_fault_like_any_other() -> None:
    for block in (ended_by_signals, unread):
        with pytest.raises(BrokenPipeError), block():
            raise BrokenPipeError


def test_what_is_said_of_something_done_is_not_worth_its_exit_code(tmp_path: Path) -> None:
    @ended_by_signals()
    def trained() -> int:
        with unread():
            print("done", flush=True)
        print("more")
        return 0

    assert ended(trained, tmp_path / "log").code == 0
