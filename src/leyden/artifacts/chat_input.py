"""Where the questions of a chat come from: a terminal, or lines of a pipe."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from typing import TextIO

from leyden.artifacts.chat import Chat
from leyden.artifacts.chat_commands import Leave, is_command, question_of, run_command
from leyden.artifacts.chat_screen import Screen
from leyden.artifacts.printable import printable
from leyden.settings.errors import DataError, LeydenError
from leyden.settings.wording import counted

log = logging.getLogger(__name__)

PROMPT = "> "


def talk(chat: Chat) -> None:
    """Talk in the terminal if there is one at both ends, else answer the lines of standard input."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        try:
            import readline  # noqa: F401, PLC0415  # editing and history of lines, where the platform has it
        except ImportError:
            log.info("Python has no readline here, so lines cannot be edited.")
        sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # refused as text, not by a crash
        chat.predictor  # noqa: B018  # load before Ctrl-C gives up a line alone and does not end the command
        signal.signal(signal.SIGINT, signal.default_int_handler)
        talk_in_terminal(chat, Screen(), lambda: input(PROMPT))
    else:
        talk_through_pipe(chat, sys.stdin)


def talk_in_terminal(chat: Chat, screen: Screen, ask: Callable[[], str]) -> None:
    """Answer until the end of the input or `/quit`; a fault of one line does not end the chat.

    Args:
        chat: the dialogue.
        screen: shows answers while they are written.
        ask: gives the next line; raises EOFError at the end, KeyboardInterrupt when a line is given up.
    """
    chat.predictor  # noqa: B018  # load before the first question
    screen.say("/help lists the commands. Ctrl-C stops an answer, Ctrl-D ends.")
    while True:
        try:
            line = ask().strip()
            check_text(line, "This line")
            if is_command(line):
                screen.say(run_command(chat, line))
            elif line:
                screen.answer(chat, question_of(line))
        except LeydenError as error:
            screen.say(" ".join(error.faults))
        except KeyboardInterrupt:
            screen.say("")
        except (EOFError, Leave):
            screen.say("")
            return


def talk_through_pipe(chat: Chat, lines: TextIO) -> None:
    """Answer one question per line, plainly, on standard output; what commands say goes to standard error.

    Args:
        chat: the dialogue.
        lines: of the questions; empty ones are left out.

    Raises:
        ConfigError, DataError, ModelError: a line is no question that can be answered, nor a command.
    """
    if hasattr(lines, "reconfigure"):
        lines.reconfigure(encoding="utf-8", errors="surrogateescape")
    empty = 0
    try:
        for number, line in enumerate((line.strip() for line in lines), start=1):
            check_text(line, f"Standard input: line {number}")
            if is_command(line):
                print(run_command(chat, line), file=sys.stderr)
            elif line:
                _print_answers(chat, question_of(line))
            else:
                empty += 1
    except Leave:
        pass
    if empty:
        log.info("Standard input: %s without text, which were left out.", counted(empty, "rows"))


def check_text(text: str, what: str) -> None:
    """Refuse what is no text.

    Raises:
        DataError: it holds bytes that are no UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{what} holds bytes that are no UTF-8. Write it as UTF-8.") from error


def _print_answers(chat: Chat, question: str) -> None:
    trees = chat.asked(question)
    for remark in chat.remarks(trees):
        log.warning("%s", remark)
    answers = []
    for name, base in chat.voices():
        answers.append(chat.answer(trees, lambda text: False, base=base))  # noqa: ARG005
        said = printable(answers[-1]) if sys.stdout.isatty() else answers[-1]
        print(f"{name}: {said}" if name else said, flush=True)
    chat.keep(question, answers[0])
