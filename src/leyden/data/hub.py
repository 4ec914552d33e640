"""Datasets of the hub, through the optional `datasets` package; no code of theirs is run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from leyden.data.files import SHOWN, File
from leyden.data.readers import arrow_rows
from leyden.settings.errors import ConfigError, DataError
from leyden.settings.locations import HUB_SYNTAX, HubTable, hub_table


def read_hub(name: str, source: str) -> tuple[pd.DataFrame, File, tuple[str, ...]]:
    """The rows of a dataset of the hub, downloaded once into the hub's own cache.

    Args:
        name: `hub:owner/name[:config][/split][@revision]`; without a split it is `train`.
        source: `setting=name`, for messages.

    Returns:
        The rows, what they were read from, and notes.

    Raises:
        ConfigError: the name is written otherwise, or the package is not installed.
        DataError: there is no such dataset, config, split or revision, or the hub cannot be reached.
    """
    wanted = hub_table(name)
    if wanted is None:
        raise ConfigError(f"{source} names no dataset of the hub. Write it {HUB_SYNTAX}; the split is train.")
    frame, sha256, notes = load(wanted, source)
    return frame, File(Path(name), "hub", sha256), tuple(f"{name}: {note}" for note in notes)


def load(wanted: HubTable, source: str) -> tuple[pd.DataFrame, str, list[str]]:
    """The rows of a dataset that the `datasets` package can find: of the hub, or a folder laid out like one.

    Returns:
        The rows with the types of the dataset, the SHA-256 of their content, and notes.

    Raises:
        ConfigError: the package is not installed.
        DataError: the dataset cannot be loaded.
    """
    if find_spec("datasets") is None:
        raise ConfigError(f'{source} needs the package datasets. Install the extra: pip install "leyden[hub]".')
    import datasets

    try:
        rows = datasets.load_dataset(
            wanted.path, wanted.config, split=wanted.split, revision=wanted.revision, streaming=False
        )
        content = rows.with_format("arrow")[:]
    except datasets.exceptions.DatasetNotFoundError:
        raise DataError(
            f"{source}: the hub has no such dataset or revision, or it is private. Check the name; for a private one "
            "log in first (hf auth login)."
        ) from None
    except (ConnectionError, TimeoutError) as error:
        raise DataError(
            f"{source}: the hub cannot be reached ({_why(error)}). Check the network and HF_HUB_OFFLINE, or name a "
            "file instead."
        ) from None
    except (datasets.exceptions.DatasetsError, pa.ArrowException, OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{source} cannot be loaded: {_why(error)}. Name a config and a split that it has.") from None
    frame, _ = arrow_rows(content, source)
    return frame, _sha256(content), _class_notes(rows.features)


def _class_notes(features: Any) -> list[str]:
    """What the class numbers of a column mean, which the hub stores beside the rows."""
    notes = []
    for column, feature in features.items():
        if names := getattr(feature, "names", None):
            meant = ", ".join(f"{number} is {name!r}" for number, name in enumerate(names[:SHOWN]))
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            notes.append(f"column {column!r} holds class numbers: {meant}{more}.")
    return notes


@dataclass
class _Digest:
    """A file that keeps nothing but the hash of what is written into it."""

    sha256: Any = field(default_factory=hashlib.sha256)
    closed: bool = False

    def write(self, content: Any) -> int:
        self.sha256.update(content)
        return len(content)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self.closed = True


def _sha256(table: pa.Table) -> str:
    digest = _Digest()
    plain = table.replace_schema_metadata(None).combine_chunks()
    with pa.PythonFile(digest, mode="w") as file, pa.ipc.new_stream(file, plain.schema) as stream:
        stream.write_table(plain)
    return str(digest.sha256.hexdigest())


def _why(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")[:200] if str(error).strip() else type(error).__name__
