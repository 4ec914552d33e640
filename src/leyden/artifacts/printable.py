"""Texts that others wrote, for a terminal: what would steer it becomes a sign that can be seen."""

from __future__ import annotations

import unicodedata

PICTURES, DELETE = 0x2400, 0x7F  # Unicode has a picture of each control character of ASCII
ORDER = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # turn lines around


def printable(text: str) -> str:
    r"""The text with each control character as a picture, `␛` for escape; line ends and tabs stay.

    Marks that change the direction of what follows, and control characters that have no picture, are written out as
    `\u202e`. A text in parts gives the same as the whole.
    """
    return "".join(map(_shown, text))


def _shown(sign: str) -> str:
    if sign in "\n\t" or (unicodedata.category(sign) not in ("Cc", "Cs") and sign not in ORDER):
        return sign
    if ord(sign) < ord(" "):
        return chr(PICTURES + ord(sign))
    return "\u2421" if ord(sign) == DELETE else f"\\u{ord(sign):04x}"
