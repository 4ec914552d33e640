"""The run folder: its name, its creation, and the files that everything else writes into."""

from __future__ import annotations

import glob
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from leyden.artifacts.lock import locked, refuse_if_locked
from leyden.artifacts.whole import write_whole
from leyden.data.cache import flush
from leyden.settings.errors import ConfigError
from leyden.settings.locations import TINY, WHEEL
from leyden.settings.paths import user_path
from leyden.settings.read import dump
from leyden.settings.resuming import AUTO, CONFIG, LOOKS, identity, is_look, signed, typed_lines
from leyden.settings.schema import Settings

HYDRA = {"output_subdir": None, "run": {"dir": "."}}
OVERRIDES = [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}]
HEADER = "# The settings of this run. Repeat it: python train.py --config-dir THIS_FOLDER --config-name config\n"
LONGEST_LABEL = 100  # characters of a checkpoint's name in that of a run
WORTHLESS = {*LOOKS, "base", "progress.json"}  # what a run has before it has trained or evaluated
# What the manifest says: its model is there; all is there; something of it is wrong; a signal ended it; it goes on.
SAVED, DONE, FAILED, STOPPED, RUNNING = "saved", "done", "failed", "stopped", "running"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder:
    """`outputs/NAME`, the only place a run writes to."""

    path: Path

    @property
    def model(self) -> Path:
        """The trained model, in the layout of transformers and peft."""
        return self.path / "model"

    @property
    def log(self) -> Path:
        """Everything that was said."""
        return self.path / "train.log"

    def log_of(self, rank: int) -> Path:
        """What another process than the first said, where every one keeps a log."""
        return self.path / f"train-rank{rank}.log" if rank else self.log

    @property
    def checkpoints(self) -> Path:
        """States of the training to go on from."""
        return self.path / "checkpoints"

    def write_config(self, settings: Settings, typed: Sequence[str] = ()) -> None:
        """Write the settings so that `train.py --config-dir FOLDER --config-name config` repeats the run.

        Args:
            settings: of the run.
            typed: the overrides of its command line, which a resume with the same command line compares.
        """
        tree = {"defaults": ["_self_", *OVERRIDES], **dump(settings), "resume": None, "hydra": HYDRA}
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)
        run = identity(self.path / CONFIG) or secrets.token_hex(8)
        write_whole(self.path / CONFIG, HEADER + signed(typed_lines(typed) + text, run))


def default_name(settings: Settings, now: datetime | None = None) -> str:
    """`<problem>-<backbone>-<UTC date and time>`."""
    problem = settings.problem.target.rpartition(".")[2].lower().replace("causallm", "causal_lm")
    backbone = settings.backbone.name.removeprefix(WHEEL).removeprefix(TINY)
    last = re.sub(r"[^A-Za-z0-9.]+", "-", backbone.rstrip("/").rpartition("/")[2].removesuffix(".gguf")).strip("-")
    return f"{problem}-{last[:LONGEST_LABEL]}-{(now or datetime.now(UTC)):%Y%m%d-%H%M%S}"


def plan_folder(settings: Settings, job_folder: Path | None = None) -> RunFolder:
    """Where the run will live; nothing is written yet.

    Args:
        settings: of the run.
        job_folder: the folder of this job inside a sweep.

    Raises:
        ConfigError: a folder of that name is there and may not be replaced.
    """
    if settings.resume not in (None, AUTO):
        refuse_if_locked(Path(settings.resume))
        return RunFolder(Path(settings.resume))
    name = settings.experiment_name or default_name(settings)
    if job_folder is not None and is_run(job_folder.parent):
        raise ConfigError(
            f"experiment_name={job_folder.parent.name!r}: {job_folder.parent} is a run, so no sweep goes into it. "
            "Choose another experiment_name."
        )
    path = job_folder or user_path(settings.output_directory) / name
    if path.exists() and is_look(path):
        refuse_if_locked(path)
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        ours = path.is_dir() and is_run(path)
        if ours and (settings.mode == "inspect" or settings.dry_run):
            raise ConfigError(
                f"experiment_name={path.name!r}: {path} is a run, which mode=inspect and dry_run=true do not replace, "
                "with overwrite=true neither. Choose another experiment_name."
            )
        if not settings.overwrite:
            raise ConfigError(
                f"experiment_name={path.name!r}: {path} is there already. Choose another experiment_name, or set "
                "overwrite=true to replace it."
            )
        if not ours:
            raise ConfigError(
                f"overwrite=true: {path} is no run folder (its config.yaml is missing or not ours), so it is "
                "left alone. Choose another experiment_name."
            )
        if faults := list(_read_from(dump(settings), path.resolve())):
            raise ConfigError(faults)
        refuse_if_locked(path)
    return RunFolder(path)


@contextmanager
def created_folder(folder: RunFolder, settings: Settings, typed: Sequence[str] = ()) -> Iterator[None]:
    """Make and lock the folder for a run; an earlier one in it goes, with `overwrite`, once the new one has its model.

    Until then it stands beside, as `.NAME.replaced`. A run that ends before it has trained puts it back.

    Raises:
        ConfigError: the place cannot be written to, or another run took it while this one was prepared.
    """
    aside = create_folder(folder, settings, typed)
    try:
        with locked(folder.path):
            yield
    finally:
        if aside is not None:
            _settle(folder.path, aside)


def create_folder(folder: RunFolder, settings: Settings, typed: Sequence[str] = ()) -> Path | None:
    """Make the folder, empty but for the settings; return where the earlier run was put that was in it.

    Raises:
        ConfigError: as `created_folder`.
    """
    aside = None
    try:
        if folder.path.exists() and is_look(folder.path):
            with locked(folder.path):
                shutil.rmtree(folder.path)
        elif folder.path.exists() and settings.overwrite:
            aside = _free_name(folder.path)
            with locked(folder.path):  # it may have been gone on with meanwhile
                folder.path.rename(aside)
        elif folder.path.exists():
            folder.path.rmdir()  # fails unless it is empty
        folder.path.parent.mkdir(parents=True, exist_ok=True)
        _forget_beginnings(folder.path)
        fresh = folder.path.with_name(f".{folder.path.name}.new-{os.getpid()}")
        fresh.mkdir()
        RunFolder(fresh).write_config(settings, typed)
        fresh.rename(folder.path)
        flush(folder.path.parent)
    except OSError as error:
        raise ConfigError(
            f"output_directory={settings.output_directory!r}: {folder.path} cannot be made: {error}. Name another "
            "folder or another experiment_name."
        ) from error
    return aside


def _forget_beginnings(path: Path) -> None:
    """Delete what runs have left that were killed while they made this folder."""
    for other in path.parent.glob(f".{glob.escape(path.name)}.new-*"):
        number = other.name.rpartition("-")[2]
        if number.isdigit() and not Path(f"/proc/{number}").exists() and Path("/proc").is_dir():
            shutil.rmtree(other, ignore_errors=True)


def status_of(folder: Path) -> str | None:
    """What the manifest of a run says of its end; None before it has one."""
    try:
        said = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return said.get("status") if isinstance(said, dict) else None


def _is_worthless(path: Path) -> bool:
    """Whether a run has not trained: it has written nothing but what stands before the training, or says so itself."""
    if status_of(path) == STOPPED:
        return not json.loads((path / "manifest.json").read_text(encoding="utf-8"))["updates_done"]
    return {file.name for file in path.iterdir()} <= WORTHLESS


def _settle(path: Path, aside: Path) -> None:
    """What becomes of the replaced run once the new one has ended, well or not."""
    if status_of(path) in (DONE, SAVED, FAILED):
        shutil.rmtree(aside)
    elif _is_worthless(path):
        shutil.rmtree(path)
        aside.rename(path)
        log.info("The run that was in %s is there again.", path)
    else:
        log.warning("The new run did not end; the one that it should replace is in %s.", aside)


def _free_name(path: Path) -> Path:
    """A name beside a folder; more than one is needed only where an earlier run was killed."""
    numbers = ("", *(f"-{number}" for number in range(2, 1000)))
    return next(one for n in numbers if not (one := path.with_name(f".{path.name}.replaced{n}")).exists())


def _read_from(tree: Any, folder: Path, key: str = "") -> Iterator[str]:
    """Faults of settings that name a file or folder inside the one that is to be replaced."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from _read_from(value, folder, f"{key}.{name}" if key else str(name))
    elif isinstance(tree, list):
        for value in tree:
            yield from _read_from(value, folder, key)
    elif isinstance(tree, str) and tree and key not in ("experiment_name", "output_directory"):
        try:
            found = user_path(tree)
            inside = found.exists() and found.resolve().is_relative_to(folder)
        except (OSError, RuntimeError, ValueError):  # no path: too long, with a null byte, of an unknown user
            return
        if inside:
            yield (
                f"overwrite=true would replace {folder.name}, and {key}={tree!r} is in it. Choose another "
                "experiment_name."
            )


def is_run(path: Path) -> bool:
    """Whether a folder holds the settings of a run."""
    config = path / CONFIG
    return config.is_file() and config.read_bytes().startswith(HEADER.encode())
