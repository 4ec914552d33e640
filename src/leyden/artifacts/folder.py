"""The run folder: its name, its creation, and the files that everything else writes into."""

from __future__ import annotations

import logging
import logging.handlers
import re
import shutil
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from leyden.settings.errors import ConfigError
from leyden.settings.locations import TINY, WHEEL
from leyden.settings.read import dump
from leyden.settings.schema import Settings

HYDRA = {"output_subdir": None, "run": {"dir": "."}}
OVERRIDES = [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}]
HEADER = "# The settings of this run. Repeat it: python train.py --config-dir THIS_FOLDER --config-name config\n"
FORMAT = "%(asctime)s %(levelname)s %(message)s"


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

    def write_config(self, settings: Settings) -> None:
        """Write the settings so that `train.py --config-dir FOLDER --config-name config` repeats the run."""
        tree = {"defaults": ["_self_", *OVERRIDES], **dump(settings), "hydra": HYDRA}
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)
        (self.path / "config.yaml").write_text(HEADER + text, encoding="utf-8")


def default_name(settings: Settings, now: datetime | None = None) -> str:
    """`<problem>-<backbone>-<UTC date and time>`."""
    problem = settings.problem.target.rpartition(".")[2].lower().replace("causallm", "causal_lm")
    backbone = settings.backbone.name.removeprefix(WHEEL).removeprefix(TINY)
    last = re.sub(r"[^A-Za-z0-9.]+", "-", backbone.rstrip("/").rpartition("/")[2].removesuffix(".gguf")).strip("-")
    return f"{problem}-{last}-{(now or datetime.now(UTC)):%Y%m%d-%H%M%S}"


def plan_folder(settings: Settings, job_folder: Path | None = None) -> RunFolder:
    """Where the run will live; nothing is written yet.

    Args:
        settings: of the run.
        job_folder: the folder of this job inside a sweep.

    Raises:
        ConfigError: a folder of that name is there and may not be replaced.
    """
    name = settings.experiment_name or default_name(settings)
    if job_folder is not None and _is_run(job_folder.parent):
        raise ConfigError(
            f"experiment_name={job_folder.parent.name!r}: {job_folder.parent} is a run, so no sweep goes into it. "
            "Choose another experiment_name."
        )
    path = job_folder or Path(settings.output_directory).expanduser() / name
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        ours = path.is_dir() and _is_run(path)
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
    return RunFolder(path)


def create_folder(folder: RunFolder, settings: Settings) -> None:
    """Make the folder, empty but for the settings; an earlier run in it goes only if `overwrite` says so.

    Raises:
        ConfigError: the place cannot be written to, or another run took it while this one was prepared.
    """
    try:
        if folder.path.exists() and settings.overwrite:
            shutil.rmtree(folder.path)
        elif folder.path.exists():
            folder.path.rmdir()  # fails unless it is empty
        folder.path.mkdir(parents=True)
        folder.write_config(settings)
    except OSError as error:
        raise ConfigError(
            f"output_directory={settings.output_directory!r}: {folder.path} cannot be made: {error}. Name another "
            "folder or another experiment_name."
        ) from error


def _is_run(path: Path) -> bool:
    config = path / "config.yaml"
    return config.is_file() and config.read_bytes().startswith(HEADER.encode())


class RunLog:
    """Says every log line on the terminal, and keeps it for `train.log` until the run folder is there.

    Args:
        quiet: say and keep nothing.
        rank: number of this process, put before every line where all of them speak; None: one speaks alone.
    """

    def __init__(self, *, quiet: bool = False, rank: int | None = None) -> None:
        self._logger = logging.getLogger("leyden")
        self._memory = logging.handlers.MemoryHandler(100_000, flushLevel=logging.CRITICAL + 1)
        self._file: logging.FileHandler | None = None
        self._console = logging.StreamHandler(sys.stderr)
        self._prefix = "" if rank is None else f"[{rank}] "
        self._console.setFormatter(_ConsoleFormat(self._prefix))
        self._quiet = quiet

    def __enter__(self) -> RunLog:
        """Begin to listen."""
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        if not self._quiet:
            self._logger.addHandler(self._console)
            self._logger.addHandler(self._memory)
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the file."""
        for handler in (self._console, self._memory, self._file):
            if handler is not None:
                self._logger.removeHandler(handler)
                handler.close()

    def open(self, path: Path) -> None:
        """Write what was said so far, and all that follows, to a file."""
        if self._quiet:
            return
        self._file = logging.FileHandler(path, encoding="utf-8")
        self._file.setFormatter(logging.Formatter(self._prefix + FORMAT))
        self._memory.setTarget(self._file)
        self._memory.flush()
        self._logger.removeHandler(self._memory)
        self._logger.addHandler(self._file)


class _ConsoleFormat(logging.Formatter):
    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return self._prefix + level + record.getMessage()
