"""What is put to the test: `key=value` words of the command line, checked before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.options import ROOT, OptionError, split_words


@dataclass(frozen=True)
class Options:
    """One round.

    Attributes:
        kills: moments at which runs of SFT are killed, and as many for DPO.
        faults: how many of the seeded list are injected.
        updates: of the soak; 0 leaves it out.
        seed: of every draw.
        only: number of the single fault to inject; -1: all.
        output: folder of the runs and the results; what went wrong stays there.
        document: Markdown page whose figures are replaced; empty: none.
    """

    kills: int = 20
    faults: int = 200
    updates: int = 500
    seed: int = 7
    only: int = -1
    output: Path = ROOT / "outputs" / "reliability"
    document: str = ""


def read_options(words: Sequence[str]) -> Options:
    """Options from words such as `kills=20` and `seed=7`.

    Raises:
        OptionError: an unknown key, or a value that is not allowed, with what is.
    """
    values: dict[str, object] = {}
    for key, text in split_words(words, Options).items():
        if key in ("output", "document"):
            values[key] = Path(text).expanduser().absolute() if key == "output" else text
        elif text.lstrip("-").isdigit():
            values[key] = int(text)
        else:
            raise OptionError(f"{key}={text} is not a whole number.")
    return replace(Options(), **values)
