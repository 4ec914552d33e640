"""What is counted, kept and shown in a training."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.trainer.states import TrainerFn

from leyden.problem.metrics import Metric, perplexity
from leyden.training import callbacks, progress
from leyden.training.callbacks import History, Point, ProgressDisplay
from leyden.training.progress import Bars, Display, Lines, Silence, make_display
from leyden.training.used_memory import peak_memory_gib


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock.monotonic)
    return clock


def test_a_line_every_tenth_with_numbers_and_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    display = Lines()
    with display.phase("train", 40):
        for done in range(1, 41):
            clock.now += 2.0
            display.advance(1, {"loss": 1 / done, "lr": 1e-4, "tokens/s": 1234.5})
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "train     4/40  8 s, 72 s left  loss 0.25  lr 0.0001  tokens/s 1234"
    assert lines[-1].startswith("train     40/40  80 s, 0 s left")


def test_a_slow_phase_is_never_quiet_for_long(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    display = Lines()
    display.start("predict", 1000)
    for _ in range(4):
        clock.now += 16.0
        display.advance(1)
    assert len(capsys.readouterr().err.splitlines()) == 4


@pytest.mark.parametrize("make", [Lines, Bars, Silence])
@pytest.mark.parametrize("total", [0, 1, 3])
def test_any_number_of_units_is_shown_without_a_fault(
    make: type[Display], total: int, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    display = make()
    display.advance(1)  # before any phase
    display.stop()
    with display.phase("evaluate", total):
        display.advance(0)
        for _ in range(total + 2):  # more than was announced
            display.advance(1, {"loss": float("nan")})
    display.start("train", 2)
    with display.phase("inside", 1):
        display.advance(1, {})
    display.stop()
    display.stop()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert not re.search(r"-\d", shown.err), "negative time left"
    assert bool(shown.err) is (make is not Silence)


def test_bars_show_their_numbers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    display = Bars()
    with display.phase("train", 4):
        display.advance(2, {"loss": 0.125})
        display.advance(2)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "4/4" in shown.err
    assert "loss 0.125" in shown.err


@pytest.mark.parametrize(
    ("columns", "shown", "hidden"),
    [(60, "loss", "perplexity"), (80, "perplexity", "tokens/s"), (40, "120/2000", "loss")],
)
def test_a_narrow_terminal_shows_whole_numbers_or_none(
    columns: int, shown: str, hidden: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with (display := Bars()).phase("evaluate", 2000):
        display.advance(120, {"loss": 0.6931, "perplexity": 12.34, "lr": 1e-4, "tokens/s": 12345, "peak GiB": 0.61})
    drawn = capsys.readouterr().err.strip("\n")
    assert shown in drawn
    assert hidden not in drawn
    assert "…" not in drawn
    assert max(map(len, drawn.splitlines())) <= columns
    assert len(drawn.splitlines()) == 1


def test_the_run_goes_on_when_nobody_reads_its_lines(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """As in `python train.py 2>&1 | head`: a real pipe, whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    said: list[str] = []
    monkeypatch.setattr(progress.log, "warning", said.append)
    with os.fdopen(writer, "w", buffering=1, errors="replace") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        with (display := Lines()).phase("train", 40):
            for _ in range(40):
                display.advance(1, {"loss": 1.0})
        with suppress(BrokenPipeError):
            stream.close()
    assert said == ["Nobody reads standard error any more. The run goes on without lines of progress."]


def test_a_phase_closes_when_its_block_fails() -> None:
    display = Bars()
    with pytest.raises(RuntimeError), display.phase("train", 4):
        raise RuntimeError
    assert display._progress is None


def test_the_display_follows_setting_and_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal, term, expected in ((True, "xterm", Bars), (True, "dumb", Lines), (False, "xterm", Lines)):
        monkeypatch.setenv("TERM", term)
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        assert type(make_display("auto")) is expected
        assert type(make_display("rich")) is Bars
        assert type(make_display("plain")) is Lines
        assert type(make_display("none")) is Silence
        assert type(make_display("rich", quiet=True)) is Silence


def test_the_best_evaluation_is_the_earliest_of_equals_and_never_nan() -> None:
    history = History(Metric("perplexity", "min", perplexity))
    assert history.best() is None
    for step, value in enumerate([float("nan"), 5.0, 3.0, 3.0, float("nan"), 4.0]):
        history.points.append(Point(step, 10 * step, {"validation/perplexity": value}))
    best = history.best()
    assert best is not None
    assert best.step == 2


class Shown(Silence):
    def __init__(self) -> None:
        self.events: list[Any] = []

    def start(self, name: str, total: int) -> None:
        self.events.append((name, total))

    def advance(self, units: int, numbers: Any = None) -> None:
        self.events.append(numbers or units)

    def stop(self) -> None:
        self.events.append("stop")


def test_an_update_is_shown_once_however_many_batches_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "peak_memory_gib", lambda: 2.0)
    history, shown = History(Metric("perplexity", "min", perplexity)), Shown()
    display = ProgressDisplay(shown, history, updates=2)
    trainer: Any = SimpleNamespace(global_step=0, state=SimpleNamespace(fn=TrainerFn.FITTING), num_val_batches=[3])
    module: Any = None
    display.on_train_start(trainer, module)
    for step in (0, 0, 1, 1, 2):
        trainer.global_step = step
        history.points.append(Point(step, step, {"validation/perplexity": 10.0 - step}))
        history.latest = {"train/loss": 1.0 - step / 4, "train/learning_rate": 0.5, "train/tokens_per_second": 7.0}
        display.on_train_batch_end(trainer, module, None, None, 0)
    display.on_validation_start(trainer, module)  # inside the training the bar just waits
    display.on_validation_batch_end(trainer, module, None, None, 0)
    display.on_train_end(trainer, module)
    trainer.state.fn = TrainerFn.VALIDATING
    display.on_validation_start(trainer, module)
    display.on_validation_batch_end(trainer, module, None, None, 0)
    display.on_validation_end(trainer, module)
    assert shown.events == [
        ("train", 2),
        {"loss": 0.75, "perplexity": 9.0, "lr": 0.5, "tokens/s": 7.0, "peak GiB": 2.0},
        {"loss": 0.5, "perplexity": 8.0, "lr": 0.5, "tokens/s": 7.0, "peak GiB": 2.0},
        "stop",
        ("evaluate", 3),
        1,
        "stop",
    ]


def test_peak_memory_is_that_of_this_process() -> None:
    assert 0.05 < peak_memory_gib() < 100
