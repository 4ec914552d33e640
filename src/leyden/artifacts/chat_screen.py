"""Answers in a terminal: as they are written, or those of two models side by side."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from leyden.artifacts.chat import Chat
from leyden.artifacts.printable import printable
from leyden.data.dataset import TreeDataset

COLUMNS_FROM = 80  # characters that a terminal is wide, for two answers side by side


class Halt:
    """Whether the answer at hand is to end: set by Ctrl-C."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, text: str) -> bool:  # noqa: ARG002
        """Whether to end."""
        return self.asked


class Written:
    """Writes an answer while it grows.

    Args:
        console: where to.
        halt: ends the answer.
    """

    def __init__(self, console: Console, halt: Halt) -> None:
        self.console, self.halt, self.shown = console, halt, ""

    def __call__(self, text: str) -> bool:
        """Write what is new; true ends the answer."""
        if text.startswith(self.shown):
            self._write(text[len(self.shown) :])
            self.shown = text
        return self.halt(text)

    def finish(self, text: str) -> None:
        """Write the rest; where a tokenizer has taken back what was certain, the whole answer once more."""
        if not text.startswith(self.shown):
            self._write("\n")
            self.shown = ""
        self._write(text[len(self.shown) :] + "\n")

    def _write(self, text: str) -> None:
        self.console.file.write(printable(text))
        self.console.file.flush()


class Screen:
    """A terminal that a chat is shown in.

    Args:
        console: of `rich`; by default on standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)

    def say(self, text: str) -> None:
        """Say something that is no answer."""
        self.console.print(Text(printable(text), style="dim"))

    def answer(self, chat: Chat, question: str) -> None:
        """Show the answer while it is written, and keep it; one that was stopped is kept as far as it came."""
        trees = chat.asked(question)
        for remark in chat.remarks(trees):
            self.say(remark)
        with _stopped_by_interrupt() as halt:
            wide = chat.compares and self.console.width >= COLUMNS_FROM
            answers = self._beside(chat, trees, halt) if wide else self._below(chat, trees, halt)
        if halt.asked:
            self.say("Stopped." + ("" if answers[0] else " Nothing was written, so the question is not kept."))
        if answers[0] or not halt.asked:
            chat.keep(question, answers[0])

    def _below(self, chat: Chat, trees: TreeDataset, halt: Halt) -> list[str]:
        answers = []
        for name, base in chat.voices():
            if halt.asked:
                break
            if name:
                self.console.print(Text(name, style="bold"))
            written = Written(self.console, halt)
            answers.append(chat.answer(trees, written, base=base))
            written.finish(answers[-1])
        return answers or [""]  # Ctrl-C came before the first word

    def _beside(self, chat: Chat, trees: TreeDataset, halt: Halt) -> list[str]:
        texts = ["" for _ in chat.voices()]
        with Live(console=self.console, transient=True, auto_refresh=False) as live:
            for place, (_, base) in enumerate(chat.voices()):

                def follow(text: str, place: int = place) -> bool:
                    texts[place] = text
                    live.update(_columns(chat, texts), refresh=True)
                    return halt(text)

                if not halt.asked:
                    texts[place] = chat.answer(trees, follow, base=base)
        self.console.print(_columns(chat, texts))
        return texts


def _columns(chat: Chat, texts: list[str]) -> Table:
    table = Table(box=None, expand=True, padding=(0, 2, 0, 0))
    for name, _ in chat.voices():
        table.add_column(name, ratio=1, overflow="fold")
    table.add_row(*(Text(printable(text)) for text in texts))
    return table


@contextmanager
def _stopped_by_interrupt() -> Iterator[Halt]:
    """Inside, the first Ctrl-C asks the answer to end after its next token; a second one interrupts it at once."""
    halt = Halt()
    if threading.current_thread() is not threading.main_thread():  # there no signal can be caught
        yield halt
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if halt.asked:
            signal.default_int_handler(number, frame)
        halt.asked = True

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield halt
    finally:
        signal.signal(signal.SIGINT, before)
