"""What a run shows on a real terminal of 60 columns, and what a program reads from real pipes."""

from __future__ import annotations

import os
import pty
import re
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import pytest
from tests.effects.small_runs import results, trained

from leyden.settings.command import check_command
from leyden.settings.errors import ConfigError

STEERING = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\]8;[^\x1b]*\x1b\\)")
COLUMNS = 60
HOSTILE = "\x1b[2J[red]type"
ROWS = {
    "p": [f"question {number}" for number in range(8)],
    "a": [f"\x1b[31m[red]answer[/red] {number}" for number in range(8)],
}


@contextmanager
def written(ends: tuple[int, int]) -> Iterator[tuple[Callable[[], object], list[bytes]]]:
    """A stream into a pipe or terminal, and what comes out at its other end."""
    reader, writer = ends
    chunks: list[bytes] = []

    def read() -> None:
        with suppress(OSError):  # a terminal ends with an error
            while chunk := os.read(reader, 65536):
                chunks.append(chunk)

    thread = threading.Thread(target=read)
    thread.start()
    with os.fdopen(writer, "w", buffering=1, encoding="utf-8") as stream:
        yield stream, chunks  # type: ignore[misc]
    thread.join(20)
    os.close(reader)


def terminal() -> tuple[int, int]:
    reader, writer = pty.openpty()
    tty.setraw(writer)  # line ends stay as they are
    return reader, writer


def test_a_narrow_terminal_shows_a_bar_and_a_table_and_obeys_nothing_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    rows = {**ROWS, HOSTILE: [1, "one"] * 4}  # a warning names a column of several types
    with written(terminal()) as (stream, chunks), redirect_stdout(stream), redirect_stderr(stream):  # type: ignore[type-var]
        run = trained(tmp_path, rows, "trainer.progress=auto", "trainer.batch_size=1")
    shown = b"".join(chunks).decode()
    assert "\x1b[2J" not in shown, "the terminal was cleared by a name"
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", shown), "colour in spite of NO_COLOR"
    text = STEERING.sub("", shown)
    pieces = re.split(r"[\r\n]+", text)
    drawn = [one for one in pieces if re.match(r"\w+ .*\d/\d+ \d+:\d\d:\d\d|validation/\w+ +[\d-]", one)]
    assert sum(one.startswith("validation/") for one in drawn) >= 2
    assert any(re.match(r"train .* 8/8 .*loss \d", piece) for piece in drawn), drawn
    assert max(map(len, drawn)) <= COLUMNS
    assert f"{results(run)['validation/perplexity']:.4f}" in text
    assert f"model        {run}/model\n" in text, "a path stays whole"
    assert re.search(rf"\x1b\]8;[^;]*;file://{run}/model\x1b", shown), "a click opens it"
    assert f"  python predict.py run={run} mode=chat\n" in text
    assert r"\x1b[2J[red]type" in text, "the warning is shown as it was written"
    assert r"\x1b[2J[red]type" in (run / "train.log").read_text(encoding="utf-8")


def test_a_program_gets_names_and_values_and_no_word_besides(tmp_path: Path) -> None:
    with (
        written(os.pipe()) as (out, said), written(os.pipe()) as (err, warned),
        redirect_stdout(out), redirect_stderr(err),  # type: ignore[type-var]
    ):  # fmt: skip
        run = trained(tmp_path, ROWS, "trainer.progress=none")
    assert [line for line in b"".join(warned).decode().splitlines() if not line.startswith("warning: ")] == []
    found = dict(line.split("\t") for line in b"".join(said).decode().splitlines())
    assert {name: float(value) for name, value in found.items() if name.startswith("final/")} == {
        f"final/{name}": value for name, value in results(run).items()
    }
    assert (found["status"], found["run"], found["model"]) == ("done", str(run), f"{run}/model")
    assert Path(found["predictions"]).is_file()
    assert " INFO " in (run / "train.log").read_text(encoding="utf-8"), "the log keeps what was not said"


def test_the_short_name_of_the_display_is_answered_with_the_setting() -> None:
    from hydra._internal.utils import get_args_parser
    from tests.integration.test_sweeps import TRAIN

    with pytest.raises(ConfigError, match=r"progress is not a setting. Did you mean trainer.progress\?"):
        check_command(get_args_parser().parse_args(["progress=none"]), TRAIN)
