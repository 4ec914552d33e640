"""What an earlier start has found out and left in the cache: tables that were read, samples that were measured."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

import leyden
from leyden.data.cache import content_key, file_key
from leyden.data.dataset import TreeDataset
from leyden.data.files import opened
from leyden.data.fit import Fit, Stops
from leyden.data.kept import kept
from leyden.data.overlap import Overlap, overlap
from leyden.data.readers import READERS, hash_of
from leyden.data.rows import Part, read_parts, with_validation
from leyden.data.sources import Source
from leyden.data.texts import rows_with
from leyden.data.tokenization import control_tokens, tokenizer_key
from leyden.problem.base import Problem
from leyden.settings.errors import DataError, LeydenError
from leyden.settings.locations import table_path
from leyden.settings.schema import Settings

Found = TypeVar("Found")

# dataset settings that say how a text is written out, and nothing about which rows and texts there are
WRITING = frozenset({
    "text_system_start", "text_prompt_start", "text_answer_separator", "add_eos_token_to_system",
    "add_eos_token_to_prompt", "add_eos_token_to_answer", "mask_prompt_labels", "only_last_answer", "chat_template",
})  # fmt: skip
# those that say in which order the samples are drawn, once they are read
ORDERING = frozenset({"group_conversations"})


@dataclass(frozen=True)
class Tables:
    """The tables of a run, read and checked.

    Attributes:
        train: the training part.
        validation: the validation part.
        overlap: rows that stand in both, or twice in training.
        key: content hash of all they depend on; None where they cannot be found again: text files, hub, `cache=off`.
        found: whether an earlier start had read them.
    """

    train: Part
    validation: Part
    overlap: Overlap
    key: str | None
    found: bool = False


def read_tables(settings: Settings, problem: Problem) -> Tables:
    """The tables as an earlier start has left them in the cache, else read, checked, split and compared.

    They are found by the bytes of the files, the settings that decide what is read, and the code that reads.

    Raises:
        ConfigError, DataError: every fault of the tables.
    """
    hashes = _hashes(settings)
    key = None if hashes is None else _tables_key(settings, problem, hashes)

    def read() -> tuple[Part, Part, Overlap]:
        data, targets = settings.dataset, problem.targets
        train, validation = read_parts(data, targets=targets, num_classes=settings.problem.num_classes)
        if hashes is not None:
            _settle((train.source, validation.source), set(hashes.values()))
        shared = overlap(train, validation)
        if data.train_validation_data:
            train = with_validation(train, validation, data, targets)
        return train, validation, shared

    (train, validation, shared), found = _once("tables", key, read)
    return Tables(train, validation, shared, key, found)


def measured(  # noqa: PLR0913, PLR0917
    trees: TreeDataset, name: str, tables: Tables, settings: Settings, problem: Problem,
    stops: Stops,
) -> tuple[Fit, bool]:  # fmt: skip
    """How the samples of a part fit, as an earlier start has counted it, else counted by building each tree once.

    Args:
        trees: of the part.
        name: of the part.
        tables: that it is one of.
        settings: of the run.
        problem: builds the trees.
        stops: where generation stops, with the tokenizer of the run.

    Returns:
        The counts, and whether an earlier start had made them.
    """

    def measure() -> Fit:
        source, rows = trees.part.source, trees.part.rows
        return replace(trees.measure(stops), control_rows=rows_with(source.texts, control_tokens(tokenizer), rows))

    tokenizer = stops.tokenizer
    if tables.key is None or not _is_ours(problem):
        return measure(), False
    writes = tokenizer_key(tokenizer), tokenizer.chat_template, sorted(map(str, tokenizer.special_tokens_map.items()))
    data, problems = settings.dataset.model_dump(exclude=set(ORDERING)), settings.problem.model_dump()
    key = content_key(tables.key, name, repr(trees.limits), data, problems, writes, stops.strings)
    return _once("fits", key, measure)


def _is_ours(problem: Problem) -> bool:
    """Whether the code of a problem is part of the package, so that the key of the tables knows of its changes."""
    file = getattr(sys.modules.get(type(problem).__module__), "__file__", None)
    return file is not None and Path(leyden.__file__).parent in Path(file).parents


def _once(kind: str, key: str | None, make: Callable[[], Found]) -> tuple[Found, bool]:
    return (make(), False) if key is None else kept(kind, key, make)


def _settle(sources: Sequence[Source], hashes: set[str]) -> None:
    """Check that these are the bytes that will be looked for, and hash the texts once for all starts."""
    for source in sources:
        if not {file.sha256 for file in source.table.files} <= hashes:
            raise DataError(f"{source.table.path} was written while it was read. Start again when it is complete.")
        for texts in source.texts.values():
            texts.digest()


def _hashes(settings: Settings) -> dict[str, str] | None:
    """SHA-256 of each table, by its path; None where tables are not kept, or cannot be read, which reading will say."""
    data = settings.dataset
    names = [("dataset.train_dataframe", name) for name in data.train_tables]
    if data.validation_strategy == "custom":
        names.append(("dataset.validation_dataframe", str(data.validation_dataframe)))
    paths = [(setting, Path(table_path(name))) for setting, name in names]
    if settings.cache == "off" or any(path.suffix.lower() not in READERS for _, path in paths):
        return None
    hashes = {}
    with suppress(LeydenError):
        for setting, path in paths:
            with opened(path, f"{setting}={path}") as file:
                hashes[str(path)] = hash_of(file)
        return hashes
    return None


def _tables_key(settings: Settings, problem: Problem, hashes: Mapping[str, str]) -> str:
    reads: Mapping[str, object] = settings.dataset.model_dump(exclude={*WRITING, *ORDERING})
    versions = platform.python_version(), np.__version__, pd.__version__, pa.__version__
    code = _source_key(Path(leyden.__file__))
    return content_key(sorted(hashes.items()), reads, problem.targets, settings.problem.num_classes, code, versions)


@cache  # what a process has loaded stays the same
def _source_key(file: Path) -> str:
    """Content hash of the code of a package, or of a file: a change of it makes what it has found out a stranger."""
    files = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
    return content_key([file_key(one) for one in files])
