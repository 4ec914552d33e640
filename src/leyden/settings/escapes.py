r"""Escapes: `\n`, `\t`, `\uXXXX`, `\\` in markers are read; what steers a terminal is written as one."""

from __future__ import annotations

import re
import shlex

_SIMPLE = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"', "0": "\0"}
_LAST = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_PLAIN = re.compile(r"[\w./:*?@%+-]+", re.ASCII)  # what neither a shell's quotes nor Hydra's need to keep together
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|U([0-9a-fA-F]{8})|(.)|$)", re.DOTALL)


def decode_escapes(text: str) -> str:
    r"""Decode backslash escapes once, leaving other Unicode untouched (rule N14).

    Raises:
        ValueError: a lone trailing backslash, an escape that does not exist, or the number of no character.
    """

    def character(match: re.Match[str]) -> str:
        code = match.group(1) or match.group(2) or match.group(3)
        if code is not None:
            number = int(code, 16)
            if number > _LAST or number in _SURROGATES:
                raise ValueError(f"{match.group()} is no character")
            return chr(number)
        letter = match.group(4)
        if letter is None:
            raise ValueError("it ends in a lone backslash; write \\\\ for a backslash")
        if letter not in _SIMPLE:
            raise ValueError(f"\\{letter} is no escape; allowed are \\n \\t \\r \\0 \\xXX \\uXXXX \\UXXXXXXXX and \\\\")
        return _SIMPLE[letter]

    return _ESCAPE.sub(character, text)


def visible(text: str) -> str:
    r"""Text that a terminal shows and does not obey: control characters and marks of direction as escapes.

    Line ends and tabs stay. The one character 27 becomes the four characters `\x1b`.
    """
    return _STEERING.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def argument(key: str, value: str) -> str:
    """`key=value` as it is typed: quoted for Hydra where its grammar needs it, and then for the shell."""
    if not _PLAIN.fullmatch(value):
        escaped = re.sub(r"(\\*)(?='|$)", r"\1\1", value).replace("'", r"\'")
        value = f"'{escaped}'"
    return shlex.quote(f"{key}={value}")
