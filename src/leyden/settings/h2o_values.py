"""Values as H2O LLM Studio wrote them over the years, made plain: "None" for nothing, numbers as text, JSON in text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from leyden.settings.escapes import decode_escapes

Reader = Callable[[Any], Any]
NOTHING = (None, "", "None", "none", "null")
_WORDS = {"true": True, "yes": True, "false": False, "no": False}
_CONTROL = {"a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_FOREIGN = re.compile(r"\\([0-7]{2,3}|[abfv])|(\\[ntr\\'\"0xuU])|\\(?=.)", re.DOTALL)


def flag(value: Any) -> bool:
    """True or false, also as a word.

    Raises:
        ValueError: it is neither.
    """
    known = _WORDS.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(known, bool):
        raise ValueError("true or false")
    return known


def number(value: Any) -> float:
    """A finite number, also as text; YAML reads `1e-5`, without a point, as text.

    Raises:
        ValueError: it is none.
    """
    try:
        found = value if isinstance(value, int | float) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if isinstance(value, bool) or not math.isfinite(found):
        raise ValueError("a number")
    return found


def whole(value: Any) -> int:
    """A whole number, also as text or as 4.0.

    Raises:
        ValueError: it is none.
    """
    try:
        found = number(value)
    except ValueError:
        found = math.nan
    if found != found // 1:
        raise ValueError("a whole number")
    return int(found)


def text(value: Any) -> str:
    """Text; nothing is the empty text.

    Raises:
        ValueError: it is a list or a group.
    """
    if isinstance(value, list | dict):
        raise ValueError("text")
    return "" if value is None else str(value)


def name(value: Any) -> str | None:
    """One column, path or name, also as a list of one; None for nothing.

    Raises:
        ValueError: there are several.
    """
    found = names(value)
    if len(found) > 1:
        raise ValueError("one name")
    return found[0] if found else None


def names(value: Any) -> list[str]:
    """Names in a list; a single one is a list of one, nothing is an empty list.

    Raises:
        ValueError: it is a group, or a list that holds one.
    """
    found = value if isinstance(value, list) else [value]
    if any(isinstance(item, list | dict) for item in found):
        raise ValueError("a name or a list of names")
    return [str(item) for item in found if item not in NOTHING]


def columns(value: Any) -> str | list[str]:
    """Columns; a list of one becomes the bare name.

    Raises:
        ValueError: as `names`.
    """
    found = names(value)
    return found[0] if len(found) == 1 else found


def listed(value: Any) -> list[str]:
    """Names in a list, or in text with commas between them.

    Raises:
        ValueError: as `names`.
    """
    return [part.strip() for item in names(value) for part in item.split(",") if part.strip()]


def marker(value: Any) -> str:
    r"""Text with escapes. Those that H2O knows and Leyden does not, such as `\a` or `\d`, are written out.

    Raises:
        ValueError: a broken escape, which H2O could not read either.
    """
    found = _FOREIGN.sub(_rewritten, text(value))
    try:
        decode_escapes(found)
    except ValueError as error:
        raise ValueError(f"text with whole escapes ({error})") from error
    return found


def stop_strings(value: Any) -> str:
    """Stop strings with commas between them; H2O takes a backslash as it stands, Leyden as the start of an escape."""
    return ",".join(names(value)).replace("\\", "\\\\")


def group(value: Any) -> dict[str, Any]:
    """A mapping, also as a JSON object in text.

    Raises:
        ValueError: it is neither.
    """
    try:
        found = json.loads(value) if isinstance(value, str) and value not in NOTHING else value
    except json.JSONDecodeError:
        found = value
    if value in NOTHING:
        return {}
    if not isinstance(found, dict):
        raise ValueError("a JSON object")
    return found


def devices(value: Any) -> list[int]:
    """Numbers of GPUs; none of them is the CPU.

    Raises:
        ValueError: one is no whole number.
    """
    return [whole(item) for item in names(value)]


def one_of(*words: str) -> Reader:
    """A reader of a closed list of words, in any letter case; it returns the spelling given here."""
    known = {word.lower(): word for word in words}

    def read(value: Any) -> str:
        found = known.get(str(value).lower())
        if found is None:
            raise ValueError("one of " + ", ".join(words))
        return found

    return read


def some_of(*words: str) -> Reader:
    """A reader of a list whose entries are of a closed list of words, in lower case."""
    read = one_of(*words)
    return lambda value: [read(item).lower() for item in names(value)]


def branch(value: Any) -> str | None:
    """A branch of the hub; None for `main`, which is the default there."""
    found = name(value)
    return None if found == "main" else found


def sharding(value: Any) -> bool | str:
    """Whether DeepSpeed is on; older files name its stage here, or `NA`."""
    if isinstance(value, str) and value.lower() in ("zero2", "zero3"):
        return "ZeRO2" if value.lower() == "zero2" else "ZeRO3"
    return False if value in (*NOTHING, "NA") else flag(value)


def _rewritten(match: re.Match[str]) -> str:
    if code := match.group(1):
        return _CONTROL.get(code) or chr(int(code, 8))
    return match.group(2) or "\\\\"
