"""Jobs of a sweep in processes of their own: a signal to the command ends them in order, and none begins after it."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from omegaconf import DictConfig

from leyden.settings.stops import EXIT

RECORDS = ".jobs"  # folder inside that of a sweep: one file per job
ENDED = ".ended"  # file inside that of a sweep: the signal that has ended it
GLANCE = 0.1  # seconds between two looks at the jobs
_told: set[int] = set()


def on_this_machine(hydra: DictConfig) -> bool:
    """Whether a launcher starts processes here that a signal can be sent to."""
    kind = str(hydra.launcher.get("_target_", ""))
    return "joblib" in kind or kind.endswith("LocalLauncher")


def end_jobs(folder: Path, signum: int) -> None:
    """Hand a signal on to the jobs at hand and wait until they have ended; at the second one, kill them.

    Args:
        folder: of the sweep.
        signum: of the signal.
    """
    name = signal.Signals(signum).name
    if (folder / ENDED).exists():
        print(f"{name} again: the jobs are killed.", file=sys.stderr)
        for process in running(folder):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return
    folder.mkdir(parents=True, exist_ok=True)  # Hydra makes it a moment after it has said that the sweep begins
    (folder / ENDED).write_text(str(signum), encoding="utf-8")
    _told.clear()
    if jobs := len(running(folder)):
        print(
            f"{name}: jobs at hand finish their update and write a checkpoint ({jobs}), then this ends. Once more "
            "kills them.", file=sys.stderr,
        )  # fmt: skip
    while processes := running(folder):
        for process in processes - _told:
            _told.add(process)
            with suppress(ProcessLookupError):
                os.kill(process, signum)
        time.sleep(GLANCE)


def running(folder: Path) -> set[int]:
    """Processes that do a job of a sweep now."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (folder / RECORDS).glob("*.json")]
    return {process for record in records if (process := record.get("process")) and _is_there(process)}


def forget(folder: Path) -> None:
    """Take the processes out of the records that an earlier command has left: their numbers may be of others by now."""
    for path in (folder / RECORDS).glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.pop("process", None) is not None:
            draft = path.with_suffix(".forgotten")
            draft.write_text(json.dumps(record), encoding="utf-8")
            draft.replace(path)


def end_if_ended(folder: Path) -> None:
    """End this job where a signal has ended its sweep before it began.

    Raises:
        SystemExit: with the code of that signal.
    """
    with suppress(FileNotFoundError):
        raise SystemExit(EXIT + int((folder / ENDED).read_text(encoding="utf-8")))


def _is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, PermissionError):  # of another user: the job has ended, and its number is taken
        return False
    return True
