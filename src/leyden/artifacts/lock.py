"""One process at a time writes into a run folder."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

from leyden.settings.errors import ConfigError
from leyden.settings.run_lock import LOCK, holding, said_in

log = logging.getLogger(__name__)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder.

    The system gives it up when the process ends, however it ends, so a crash leaves no lock behind. Processes that
    this one starts do not inherit it.

    Raises:
        ConfigError: another process holds it, with what is known of that process.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with holding(descriptor) if _take(descriptor, folder) else nullcontext():
            yield
    finally:
        os.close(descriptor)


def refuse_if_locked(folder: Path) -> None:
    """Refuse a folder that another process writes into.

    Raises:
        ConfigError: as `locked`.
    """
    if (folder / LOCK).exists():
        with locked(folder):
            return


def _take(descriptor: int, folder: Path) -> bool:
    """Lock the file, and say in it who did; false, after a warning, where its disk has no locks."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            log.warning("%s cannot be locked (%s): see to it that no second run writes there.", folder, error.strerror)
            return False
        raise ConfigError(
            f"experiment_name={folder.name!r}: {folder} is in use by {_holder(descriptor)}. Wait for its end, stop it, "
            "or choose another experiment_name."
        ) from error
    said = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(said).encode(), 0)
    return True


def _holder(descriptor: int) -> str:
    said = said_in(descriptor)
    if not {"pid", "host", "since"} <= set(said):
        return "another process"
    return f"process {said['pid']} on {said['host']}, since {said['since']}"
