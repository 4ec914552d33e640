"""The commands that the documents and notebooks show, and tables that they can read."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pandas as pd

Blocks = Callable[..., list[str]]

PROGRAMS = r"train\.py|predict\.py|-m leyden\.\w+"
COMMAND = re.compile(rf"^(?:\.venv/bin/)?python ((?:{PROGRAMS})(?: .*)?)$")
NAMED_TABLE = re.compile(r"`(?P<name>[\w.]+\.csv)`[^`\n]*\n+```csv\n(?P<rows>.*?)^```$", re.MULTILINE | re.DOTALL)
ROWS = 12  # of a table that a page does not show


def lines_of(texts: Mapping[str, str], blocks: Blocks, notebooks: Path) -> Iterator[str]:
    """Every line of a code block, of documents by their path and of the notebooks in a folder."""
    everything = list(texts.values())
    for notebook in sorted(notebooks.glob("*.ipynb")):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        everything += ["\n" + "".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    for text in everything:
        for block in blocks(text):
            yield from (line.strip() for line in block.splitlines())


def commands_of(lines: Iterator[str]) -> list[list[str]]:
    """The words of each command, without `python`; `-m leyden.compare` is one word."""
    found = [shlex.split(match[1], comments=True) for line in lines if (match := COMMAND.match(line))]
    return [[" ".join(words[:2]), *words[2:]] if words[0] == "-m" else words for words in found]


def tables_of(text: str) -> dict[str, str]:
    """The csv tables that a page shows, each behind its name, by that name."""
    return {match["name"]: match["rows"] for match in NAMED_TABLE.finditer(text)}


def write_table(path: Path, columns: dict[str, list[str]]) -> None:
    frame = pd.DataFrame(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)


def make_tables(arguments: list[str], folder: Path) -> list[Path]:
    """Make the tables that a command names, with every column that it names, twelve rows each."""
    columns: dict[str, list[str]] = {}
    for argument in arguments:
        key, _, value = argument.partition("=")
        for name in value.strip("[]").split(",") if key.endswith("_column") else ():
            columns[name] = [f"{name} number {row}" for row in range(ROWS)]
            if key == "dataset.parent_id_column":
                columns[name] = [""] * ROWS
            if "problem=classification" in arguments and key == "dataset.answer_column":
                columns[name] = [f"class {row % 5}" for row in range(ROWS)]
    if "dataset=text" in arguments:
        columns = {"text": [f"A text that has the number {row}." for row in range(ROWS)]}
    if "dataset=auto" in arguments and "problem=dpo" in arguments:
        columns = {name: [f"{name} number {row}" for row in range(ROWS)] for name in ("prompt", "chosen", "rejected")}
    columns = columns or {"question": [f"Question {row}?" for row in range(ROWS)]}
    paths = [folder / argument.partition("=")[2] for argument in arguments]
    tables = [path for path in paths if path.suffix in {".csv", ".parquet", ".jsonl"}]
    for table in tables:
        write_table(table, columns)
    return tables
