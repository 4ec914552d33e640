"""One prompt and the chat with trained runs: the answers of an evaluation, in a real terminal, as documented."""

from __future__ import annotations

import io
import os
import pty
import re
import runpy
import select
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console
from tests.effects.small_runs import CONF, Columns, predicted, trained, write_table

from leyden.artifacts import opened as opened_model
from leyden.artifacts.chat import Chat
from leyden.artifacts.chat_input import talk_in_terminal
from leyden.artifacts.chat_screen import Screen
from leyden.artifacts.opened import open_model, trained_problem
from leyden.artifacts.predict import predict
from leyden.backbone.answer_text import AnswerText
from leyden.backbone.generate import generate_texts
from leyden.settings.composition import compose_config
from leyden.settings.errors import ConfigError
from leyden.settings.overrides import with_texts
from leyden.settings.read_predict import read_predict
from leyden.settings.schema import PredictSettings
from leyden.settings.wording import fields_of

TABLE: Columns = {
    "p": ["Hello?", "And then?", "So what?", "Why?", "Why not?", "Hm, who's [that]?"],
    "a": ["Hello there.", "Then it ends.", "So be it.", "Because.", "No reason.", "Me, of course."],
    "w": ["No.", "No!", "Nope.", "Nah.", "Never.", "Not."],
    "s": ["Be kind.", "", "", "Be brief.", "", ""],
    "i": [0, 1, 2, 3, 4, 5],
    "of": [None, 0, 1, None, 3, None],
    "k": ["up", "down", "left", "up", "down", "left"],
    "b": [1, 0, 1, 0, 1, 0],
    "c": [1, 1, 0, 0, 1, 0],
    "n": [1.0, 2.0, 4.0, 8.0, 16.0, 32.0],
    "m": [6.0, 5.0, 4.0, 3.0, 2.0, 1.0],
}
DIALOGUE = ["dataset.system_column=s", "dataset.id_column=i", "dataset.parent_id_column=of"]
KINDS = {
    "causal_lm": ["lora=none"],
    "text": ["dataset.prompt_column=[]"],
    "dpo": ["problem=dpo", "dataset.rejected_answer_column=w"],
    "seq2seq": ["problem=seq2seq"],
    "classification": ["problem=classification", "dataset.answer_column=k"],
    "yes_or_no": ["problem=classification", "dataset.answer_column=b"],
    "labels": ["problem=classification", "dataset.answer_column=[b,c]"],
    "regression": ["problem=regression", "dataset.answer_column=n"],
    "targets": ["problem=regression", "dataset.answer_column=[n,m]"],
}
Made = Callable[[str], Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dialogues with system texts, learned well enough that adapter and base differ and answers are letters."""
    return trained(
        tmp_path_factory.mktemp("dialogue"), TABLE, *DIALOGUE, "trainer.epochs=40", "optimizer.learning_rate=0.01",
        "trainer.batch_size=6", "trainer.evaluation_epochs=40", "generation.max_length_inference=16",
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """An untrained run of each kind, made when it is first asked for."""
    runs: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in runs:
            folder = tmp_path_factory.mktemp(kind)
            runs[kind] = trained(folder, TABLE, *KINDS[kind], "trainer.epochs=0", "generation.max_length_inference=16")
        return runs[kind]

    return make


def asked(run: Path, *overrides: str) -> tuple[Any, Any, Any]:
    texts = with_texts([f"run={run}", *overrides], dict(fields_of(PredictSettings)))
    config, faults = compose_config("predict", texts, CONF)
    assert not faults, faults
    assert config is not None
    return read_predict(config)


def chat_with(run: Path, *overrides: str) -> Chat:
    wanted, settings, folder = asked(run, "mode=chat", *overrides)
    opened = open_model(settings, trained_problem(settings, folder), folder, None)
    return Chat(opened, wanted.generation.num_history, wanted.system)


def answered(chat: Chat, question: str, *, base: bool = False) -> str:
    return chat.answer(chat.asked(question), lambda text: False, base=base)  # noqa: ARG005


def talked(chat: Chat, *lines: str, width: int) -> str:
    written, typed = io.StringIO(), iter(lines)

    def ask() -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    talk_in_terminal(chat, Screen(Console(file=written, width=width, highlight=False)), ask)
    return written.getvalue()


def test_a_chat_answers_as_evaluation_and_prediction_do_token_for_token(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated = pd.read_csv(run / "predictions.csv", keep_default_na=False)
    tokens: list[list[int]] = []
    whole = AnswerText.whole

    def recorded(self: AnswerText, ids: list[int]) -> str:
        kept = [token for token in ids if token not in (257, 260)]  # without what fills a batch up
        tokens.append(kept)
        return whole(self, ids)

    monkeypatch.setattr(AnswerText, "whole", recorded)
    table = predicted(run, write_table(tmp_path / "new.jsonl", TABLE), f"output={tmp_path / 'out'}")
    of_table = {tuple(ids) for ids in tokens}
    for rows in ([0, 1, 2], [3, 4], [5]):
        chat = chat_with(run, *([] if not TABLE["s"][rows[0]] else [f"system={TABLE['s'][rows[0]]}"]))
        for row in rows[:-1]:
            chat.keep(TABLE["p"][row], TABLE["a"][row])
        tokens.clear()
        answer = answered(chat, TABLE["p"][rows[-1]])
        assert answer == table["prediction"][rows[-1]] == evaluated["prediction"][rows[-1]]
        assert tuple(tokens[-1]) in of_table
        assert answer
    assert len(of_table) >= 2, "the answers do not differ, so that equal ones show little"


def test_adapter_and_base_answer_beside_each_other_from_one_copy_of_the_weights(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    load = opened_model.load_predictor
    monkeypatch.setattr(
        opened_model, "load_predictor", lambda *given, **named: loads.append(1) or load(*given, **named)
    )
    chat = chat_with(run)
    plain = answered(chat, "Hello?")
    base = answered(chat, "Hello?", base=True)
    assert answered(chat, "Hello?") == plain != base
    untrained = chat_with(run)
    untrained.predictor.model.unload()  # type: ignore[operator]
    untrained.predictor.__dict__["model"] = untrained.predictor.model.base_model.model  # type: ignore[union-attr]
    assert answered(untrained, "Hello?") == base
    loads.clear()
    chat = chat_with(run, "generation.max_length_inference=8")
    lines = ["/compare", "Hello?", "Why?", "/compare", "Why not?"]
    wide = [line.rstrip() for line in talked(chat, *lines, width=100).splitlines()]
    assert loads == [1]
    assert sum(line.split() == ["adapter", "base"] for line in wide) == 2
    assert [turn.question for turn in chat.turns] == ["Hello?", "Why?", "Why not?"]
    assert chat.turns[0].answer == answered(chat_with(run, "generation.max_length_inference=8"), "Hello?")
    narrow = talked(chat, *lines[:2], width=60)
    assert re.search(r"^adapter\n[^\n]+\nbase\n[^\n]+\n", narrow, re.MULTILINE)


def test_a_run_without_an_adapter_says_why_it_cannot_compare(made: Made) -> None:
    with pytest.raises(ConfigError, match=r"there is no adapter: the run trained all weights \(lora=none\)"):
        chat_with(made("causal_lm")).compare()


def test_a_run_without_system_texts_takes_none(made: Made) -> None:
    chat = chat_with(made("causal_lm"))
    with pytest.raises(ConfigError, match=r"was trained without dataset\.system_column"):
        chat.set_system("be kind")
    chat.set_system("")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "text"])
def test_a_prompt_gives_what_a_table_gives(
    made: Made, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, prompt = made(kind), str(TABLE["p"][5])
    table = predicted(run, write_table(tmp_path / "new.jsonl", {"p": [prompt]}), f"output={tmp_path / 'out'}")
    capsys.readouterr()
    predict(*asked(run, f"prompt={prompt}"))
    out, err = capsys.readouterr()
    assert "Samples" in err
    row = {name: table[name][0] for name in table.columns if name.startswith(("prediction", "probability_"))}
    if kind in ("causal_lm", "dpo", "seq2seq"):
        assert out == f"{row['prediction']}\n"
        assert answered(chat_with(run), prompt) == row["prediction"]
        return
    found = [line.split("\t") for line in out.splitlines()]
    if kind in ("classification", "yes_or_no"):
        assert found.pop(0) == [str(row["prediction"])]
    elif kind == "regression":
        assert [[float(cell) for cell in line] for line in found] == [[pytest.approx(row["prediction_n"], rel=1e-5)]]
        return
    elif kind == "targets":
        assert {name: float(cell) for name, cell in found} == pytest.approx(
            {name.removeprefix("prediction_"): cell for name, cell in row.items()}, rel=1e-5
        )
        return
    else:
        assert [found.pop(0), found.pop(0)] == [[name, str(row[f"prediction_{name}"])] for name in "bc"]
    chances = [(name, float(value)) for name, value in found]
    expected = {name.removeprefix("probability_"): cell for name, cell in row.items() if "probability" in name}
    assert dict(chances) == pytest.approx(expected, rel=1e-5)
    assert [chance for _, chance in chances] == sorted((chance for _, chance in chances), reverse=True)


def test_a_model_of_texts_goes_on_with_one(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    run = made("text")
    capsys.readouterr()
    predict(*asked(run, "prompt=Once upon"))
    out, err = capsys.readouterr()
    _, settings, _ = asked(run, "prompt=x")
    opened = open_model(settings, trained_problem(settings, run), run, None)
    wanted, stops = settings.generation, opened.template.stops
    prompts = [opened.tokenizer("Once upon", add_special_tokens=False)["input_ids"]]  # no frame, as in training
    assert [out] == [f"{text}\n" for text in generate_texts(
        opened.load().model, opened.tokenizer, prompts, wanted, stops, batch_size=1)]  # fmt: skip
    assert "left out" not in err
    predict(*asked(run, f"prompt={'a' * 50}", "tokenizer.max_length=10"))
    assert "the first 40 of its 50 tokens are left out (tokenizer.max_length=10)" in capsys.readouterr().err


def test_a_system_text_is_read_before_the_prompt(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat = chat_with(run, "system=Be kind.")
    assert "Be kind." in str(chat.opened.tokenizer.decode(chat.asked("Why?").conversation(0, answered=False).history))
    predict(*asked(run, "prompt=Why?", "system=Be kind."))
    assert capsys.readouterr().out == f"{answered(chat, 'Why?')}\n"


class Session:
    """`predict.py` in a terminal of its own, forked from this process."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        self.terminal, inner = pty.openpty()
        self.process = get_context("fork").Process(target=self._command, args=(arguments, inner, cwd))
        self.process.start()
        os.close(inner)
        self.seen = ""

    def _command(self, arguments: Sequence[str], terminal: int, cwd: Path) -> None:
        """Be `predict.py` in a session whose terminal this is."""
        os.close(self.terminal)
        os.login_tty(terminal)
        os.chdir(cwd)
        os.environ["TERM"] = "xterm"
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
        sys.argv = [str(CONF.parent / "predict.py"), *arguments]
        runpy.run_path(sys.argv[0], run_name="__main__")

    def until(self, pattern: str, timeout: float = 120) -> str:
        """Read until this is seen; what was read up to its end, which is not seen again."""
        end = time.monotonic() + timeout
        while not (match := re.search(pattern, self.seen)):
            assert time.monotonic() < end, f"{pattern!r} was not seen in {self.seen!r}"
            if select.select([self.terminal], [], [], 0.5)[0]:
                self.seen += os.read(self.terminal, 4096).decode(errors="replace")
        found, self.seen = self.seen[: match.end()], self.seen[match.end() :]
        return found

    def shows(self, pattern: str, timeout: float) -> bool:
        """Whether it is seen in this time."""
        try:
            self.until(pattern, timeout)
        except AssertionError:
            return False
        return True

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())


def test_a_session_in_a_terminal(run: Path, tmp_path: Path) -> None:
    session = Session(f"run={run}", "mode=chat", "generation.max_length_inference=1000",
                      "generation.min_length_inference=1000", cwd=tmp_path)  # fmt: skip
    try:
        session.until(r"/help lists the commands\. Ctrl-C stops an answer, Ctrl-D ends\.")
        session.until("> ")
        session.type("Hello?\n")
        session.until(r"Hello\?\r\n")
        first = session.until(r"\S{3}")  # the answer has begun, and has 990 tokens to go
        session.type("\x03")
        answer = first + session.until(r"Stopped\.")
        assert len(answer) < 900
        assert "\x1b" not in re.sub(r"\x1b\[(\?2004[hl]|[0-9;]*m)", "", answer)  # readline's and rich's own
        session.until("> ")
        session.type("/rest\n")
        session.until(r"Did you mean /reset\?")
        session.until("> ")
        session.type("\x1b[A\n")  # arrow up: the last line again
        session.until(r"Did you mean /reset\?")
        session.until("> ")
        for _ in range(60):  # Python notes a signal between the prompt and its wait for a line with the next one only
            session.type("\x03")
            if session.shows("> ", 0.5):
                break
        else:
            pytest.fail("Ctrl-C gives no new prompt")
        session.type("\x04")
        session.process.join(60)
        assert session.process.exitcode == 0
    finally:
        session.process.kill()
        session.process.join()
        os.close(session.terminal)


def test_every_command_of_the_page_runs(
    run: Path, documents: dict[str, str], code_blocks: Callable[..., list[str]], run_here: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    lines = [line for block in code_blocks(documents["docs/chat.md"]) for line in block.splitlines()]
    found = [re.search(r"python (predict\.py [^|)]*)", line) for line in lines]
    assert len(found) >= 6
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "NAME").symlink_to(run)
    for match in found:
        assert match is not None
        typed = [word.replace("run=owner/model", "run=tiny:llama") for word in shlex.split(match[1])]
        short = [] if any("max_length_inference" in word for word in typed) else ["generation.max_length_inference=4"]
        monkeypatch.setattr(sys, "stdin", io.StringIO("How do I pay?\nAnd by card?\n"))
        done = run_here([*typed, *short], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
