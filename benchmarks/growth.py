"""`python -m benchmarks.growth KEY=VALUE…`: how time and memory grow with tokens, vocabulary and rows; plotted."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.growth_data import measure
from benchmarks.growth_report import END, START, panels, tables
from benchmarks.growth_updates import Point, measure_apart, points_of_updates, points_of_vocabulary
from benchmarks.machine import describe
from benchmarks.options import ROOT, OptionError, split_words
from benchmarks.plot import draw
from benchmarks.report import put_into
from benchmarks.rounds import say

PARTS = ("updates", "vocabulary", "rows")
PLOT = "growth.svg"


@dataclass(frozen=True)
class GrowthOptions:
    """What is measured.

    Attributes:
        part: `updates`, tokens of an update; `vocabulary`, logits that are never held; `rows`, of a table, to the first
            update. Parts that are left out stay as they were measured before.
        sizes: tokens per update; the first one is the length of a row where there are several in an update.
        vocabularies: of tiny models.
        rows: of tables.
        backbone: of `updates`.
        updates: of each training; the first one is not counted, so at least two.
        threads: of the arithmetic. With one, processor seconds are work and not waiting.
        output: folder of `growth.json`.
        document: Markdown page whose results are replaced, with the plot beside it; empty: none.
    """

    part: tuple[str, ...] = PARTS
    sizes: tuple[int, ...] = (512, 1024, 2048, 4096)
    vocabularies: tuple[int, ...] = (8192, 32_768, 65_536, 131_072)
    rows: tuple[int, ...] = (1000, 10_000, 100_000, 1_000_000)
    backbone: str = "llama"
    updates: int = 2
    threads: int = 1
    output: Path = ROOT / "outputs" / "growth"
    document: str = ""


def read_growth_options(words: Sequence[str]) -> GrowthOptions:
    """Options from words such as `part=rows` and `rows=1000,10000`.

    Raises:
        OptionError: an unknown key, or a value that is not allowed, with what is.
    """
    values = {key: _value(key, text) for key, text in split_words(words, GrowthOptions).items()}
    options = replace(GrowthOptions(), **values)
    wrong = [part for part in options.part if part not in PARTS]
    if wrong:
        raise OptionError(f"part={wrong[0]} is not allowed. Allowed: {', '.join(PARTS)}.")
    if options.updates < 2:  # noqa: PLR2004  # the first is not counted
        raise OptionError(f"updates={options.updates}: the first update is not counted, so give 2 or more.")
    if "updates" in options.part and len(set(options.sizes)) == 1:
        raise OptionError(f"sizes={options.sizes[0]}: growth is seen between two sizes, so give 2 or more.")
    return options


def _value(key: str, text: str) -> Any:
    if key == "part":
        return tuple(text.split(","))
    if key == "output":
        return Path(text).expanduser().absolute()
    if key in ("backbone", "document"):
        return text
    try:
        numbers = tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise OptionError(f"{key}={text} is not a whole number, or several with commas between them.") from error
    if min(numbers) < 1:
        raise OptionError(f"{key}={text}: each must be above 0.")
    if key in ("updates", "threads"):
        return numbers[0]
    return tuple(sorted(numbers))


def measured(part: str, options: GrowthOptions) -> Iterator[dict[str, Any]]:
    """The numbers of a part, one after the other."""
    if part == "rows":
        with tempfile.TemporaryDirectory() as folder:
            for rows in options.rows:
                yield from measure(Path(folder), rows, threads=options.threads)
        return
    points = (
        points_of_updates(options.sizes, options.sizes[0], options.backbone)
        if part == "updates"
        else points_of_vocabulary(options.sizes, options.vocabularies)
    )
    known: dict[Point, dict[str, Any]] = {}  # a point may stand in both series
    for grows, point in points:
        if point not in known:
            known[point] = measure_apart(point, options.updates, options.threads)
        yield {"grows": grows, **known[point]}


def main(words: Sequence[str]) -> int:
    """Measure, write JSON, page and plot; the exit code is 0, or 2 for wrong options."""
    try:
        options = read_growth_options(words)
    except OptionError as error:
        say(str(error))
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "growth.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for part in options.part:
        numbers = []
        for one in measured(part, options):
            say(json.dumps(one))
            numbers.append(one)
        found[part] = {"measured": datetime.now(UTC).date().isoformat(), "threads": options.threads,
                       "machine": describe(), "numbers": numbers}  # fmt: skip
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = tables(found)
    print(text, end="")
    if options.document:
        put_into(ROOT / options.document, text, (START, END))
        (ROOT / options.document).with_name(PLOT).write_text(draw(panels(found)), encoding="utf-8")
    say(f"JSON is in {path}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
