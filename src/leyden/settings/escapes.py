r"""Escapes in markers and separators: `\n`, `\t`, `\uXXXX`, `\\` and the like; every other character stays as it is."""

from __future__ import annotations

import re

_SIMPLE = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"', "0": "\0"}
_LAST = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)
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
