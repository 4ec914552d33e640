"""Text of tables and settings inside Markdown: it stays the text that it is, whatever it holds."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

UNSEEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}  # categories that are not seen, or turn what stands beside them around
SHOWN = 200  # characters of one text


def code(text: object) -> str:
    """A text as inline code on one line, shortened."""
    said = seen(str(text))
    said = said if len(said) <= SHOWN else said[: SHOWN - 1] + "…"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", said)), default=0))
    pad = " " if not said or said[0] in " `" or said[-1] in " `" else ""
    return f"{fence}{pad}{said}{pad}{fence}"


def block(text: str, language: str = "text") -> str:
    """A text of several lines as a block of code; line ends stay, what cannot be seen is written as an escape."""
    said = "\n".join(seen(line) for line in text.split("\n"))
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", said)), default=0))
    return f"{fence}{language}\n{said}\n{fence}"


def seen(text: str) -> str:
    """A text with everything that cannot be seen as an escape of Python, line ends among it."""
    return "".join(
        one.encode("unicode_escape").decode() if unicodedata.category(one) in UNSEEN or one in "\x85" else one
        for one in text
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are Markdown already, but for bars, which end a cell in code too."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def bullets(lines: Iterable[str]) -> str:
    """A list; lines are Markdown already."""
    return "\n".join(f"- {line}" for line in lines)
