"""What can be typed in a chat besides questions: lines that begin with a slash."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from leyden.artifacts.chat import Chat
from leyden.settings.errors import ConfigError
from leyden.settings.wording import counted

EMPTY = '""'  # what is typed for the empty text


class Leave(Exception):
    """The chat is to end."""


@dataclass(frozen=True)
class Command:
    """What a word does.

    Attributes:
        does: what it takes and does, for `/help`.
        run: given the chat and what stands behind the word; returns what to say.
        takes_text: whether anything may stand behind the word.
    """

    does: str
    run: Callable[[Chat, str], str]
    takes_text: bool = False


def is_command(line: str) -> bool:
    """Whether a line is a command: it begins with a slash, and not with two."""
    return line.startswith("/") and not line.startswith("//")


def question_of(line: str) -> str:
    """The question in a line that is no command; of two slashes at its beginning one is left out."""
    return line.removeprefix("/")


def run_command(chat: Chat, line: str) -> str:
    """Do what a command says; return what to say about it.

    Raises:
        ConfigError: there is no such command, or it cannot be done here.
        Leave: the chat is to end.
    """
    word, _, text = line[1:].partition(" ")
    command, text = COMMANDS.get(word), text.strip()
    if command is None:
        near = difflib.get_close_matches(word.lower(), COMMANDS, n=1)
        hint = f"Did you mean /{near[0]}?" if near else f"There are {', '.join(f'/{name}' for name in COMMANDS)}."
        raise ConfigError(f"/{word} is no command. {hint} A question that begins with a slash is typed with two.")
    if text and not command.takes_text:
        raise ConfigError(f"/{word} takes nothing behind it. Type /{word} alone.")
    return command.run(chat, text)


def _reset(chat: Chat, text: str) -> str:  # noqa: ARG001
    return f"Forgotten: {counted(chat.reset(), 'turns')}." + (" The system text stays." if chat.system else "")


def _system(chat: Chat, text: str) -> str:
    if text:
        chat.set_system("" if text == EMPTY else text)
    return f"System text: {chat.system}" if chat.system else "There is no system text."


def _compare(chat: Chat, text: str) -> str:  # noqa: ARG001
    if chat.compare():
        return "The base model answers, too: the same questions and history, the adapter switched off."
    return "The adapter answers alone."


def _help(chat: Chat, text: str) -> str:  # noqa: ARG001
    width = max(map(len, COMMANDS)) + 1
    lines = [f"{'/' + name:{width}}  {command.does}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "Ctrl-C stops an answer, Ctrl-D ends the chat. //text asks /text."])


def _quit(chat: Chat, text: str) -> str:
    raise Leave


COMMANDS = {
    "reset": Command("forget all turns; the system text stays", _reset),
    "system": Command(f"show the system text; set it to the TEXT behind it, or with {EMPTY} to none", _system, True),
    "compare": Command("let the base model answer beside the adapter; again: not any more", _compare),
    "help": Command("show this", _help),
    "quit": Command("end the chat", _quit),
}
