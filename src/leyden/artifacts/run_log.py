"""What is said during a run: on the terminal at once, and in `train.log` as soon as there is a folder for it."""

from __future__ import annotations

import logging
import logging.handlers
import sys
from collections.abc import Iterable
from pathlib import Path

from leyden.data.table import Note

FORMAT = "%(asctime)s %(levelname)s %(message)s"

log = logging.getLogger(__name__)


def say(lines: Iterable[str]) -> None:
    """Log what was found out about the data: warnings, and notes that are none."""
    for line in lines:
        log.log(logging.INFO if isinstance(line, Note) else logging.WARNING, "%s", line)


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
        self._silence = logging.NullHandler()
        self._quiet = quiet
        for handler in (self._console, self._memory):
            handler.addFilter(_OnceOfMetrics())

    def __enter__(self) -> RunLog:
        """Begin to listen."""
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        if self._quiet:
            self._logger.addHandler(self._silence)  # without any handler, Python itself would print warnings
        else:
            self._logger.addHandler(self._console)
            self._logger.addHandler(self._memory)
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the file."""
        for handler in (self._console, self._memory, self._silence, self._file):
            if handler is not None:
                self._logger.removeHandler(handler)
                handler.close()

    def open(self, path: Path) -> None:
        """Write what was said so far, and all that follows, to a file."""
        if self._quiet:
            return
        self._file = logging.FileHandler(path, encoding="utf-8")
        self._file.setFormatter(logging.Formatter(self._prefix + FORMAT))
        self._file.addFilter(_OnceOfMetrics())
        self._memory.setTarget(self._file)
        self._memory.flush()
        self._logger.removeHandler(self._memory)
        self._logger.addHandler(self._file)


class _OnceOfMetrics(logging.Filter):
    """Lets what a metric warns of through once: it would say the same at each evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[tuple[object, ...]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.endswith("_metrics"):
            return True
        key = (record.name, record.msg, *(record.args[:1] if isinstance(record.args, tuple) else ()))
        new = key not in self._said
        self._said.add(key)
        return new


class _ConsoleFormat(logging.Formatter):
    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return self._prefix + level + record.getMessage()
