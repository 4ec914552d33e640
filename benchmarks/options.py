"""What a benchmark measures: `key=value` words of the command line, checked before anything starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.cases import ARMS, BACKBONES, CASES, DEFAULT_CASES

ROOT = Path(__file__).resolve().parent.parent


class OptionError(ValueError):
    """A word of the command line that does not go."""


@dataclass(frozen=True)
class Options:
    """One benchmark.

    Attributes:
        case: which cases, by name.
        arm: which programs take part; a case leaves out those that cannot do it.
        rounds: how often each program runs each case, in turn.
        backbone: `llama` is SmolLM2-135M-Instruct, `tiny` two random layers.
        threads: of the arithmetic, in each process.
        scale: share of each case's training rows; 0.5 halves them.
        cold: also measure a start of Leyden with an empty cache.
        data: folder of the public tables; the embedded helpdesk table where it is not there.
        output: folder of results and scratch files.
        document: Markdown page whose results are replaced; empty: none.
    """

    case: tuple[str, ...] = DEFAULT_CASES
    arm: tuple[str, ...] = ARMS
    rounds: int = 3
    backbone: str = "llama"
    threads: int = os.cpu_count() or 1
    scale: float = 1.0
    cold: bool = True
    data: Path = ROOT.parent / "shared" / "data"
    output: Path = ROOT / "outputs" / "benchmark"
    document: str = ""


def read_options(words: Sequence[str]) -> Options:
    """Options from words such as `case=sft,dpo` and `rounds=1`.

    Raises:
        OptionError: an unknown key, or a value that is not allowed, with what is.
    """
    values = {key: _value(key, text) for key, text in split_words(words, Options).items()}
    return checked(replace(Options(), **values))


def split_words(words: Sequence[str], kind: type[Any]) -> dict[str, str]:
    """`key=value` words as keys and values.

    Args:
        words: of a command line.
        kind: the dataclass whose fields are the keys.

    Raises:
        OptionError: a word of another form, or a key that is none.
    """
    known = sorted(field.name for field in fields(kind))
    found: dict[str, str] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or key not in known:
            raise OptionError(f"{word!r} is no option. Write KEY=VALUE with one of {', '.join(known)}.")
        found[key] = text
    return found


def checked(options: Options) -> Options:
    """The same options, if they can be measured here.

    Raises:
        OptionError: no round, no thread, no row, or a program that is not installed.
    """
    if options.rounds < 1 or options.threads < 1 or options.scale <= 0:
        raise OptionError(
            f"rounds={options.rounds} threads={options.threads} scale={options.scale}: each must be above 0."
        )
    wanted = [arm for arm in options.arm if arm.startswith("trl")]
    if wanted and find_spec("trl") is None:
        raise OptionError(
            f"arm={wanted[0]}: TRL is not installed. Run it as `make benchmark`, or leave it out: arm=leyden,trainer."
        )
    return options


def _value(key: str, text: str) -> Any:
    allowed = {"case": tuple(CASES), "arm": ARMS, "backbone": tuple(BACKBONES), "cold": ("true", "false")}
    words = tuple(text.split(",")) if key in ("case", "arm") else (text,)
    wrong = [word for word in words if key in allowed and word not in allowed[key]]
    if wrong:
        raise OptionError(f"{key}={wrong[0]} is not allowed. Allowed: {', '.join(allowed[key])}.")
    if key in ("case", "arm"):
        return words
    if key == "cold":
        return text == "true"
    made: dict[str, Callable[[str], Any]] = {
        "rounds": int, "threads": int, "scale": float, "data": _path, "output": _path
    }  # fmt: skip
    try:
        return made.get(key, str)(text)
    except ValueError as error:
        raise OptionError(f"{key}={text} is not a number.") from error


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()
