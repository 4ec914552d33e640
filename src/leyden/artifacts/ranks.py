"""`train.py` under torchrun: rank 0 is the command that was typed, the other ranks train with the settings it sends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import yaml

from leyden.settings.command import report
from leyden.settings.errors import USER_FAULT, LeydenError, TrainingError
from leyden.settings.torchrun import Launched, launched

if TYPE_CHECKING:
    from leyden.training.launch import Meeting
    from leyden.training.saved_states import SavedState


def run_ranks(command: Callable[[], int]) -> int:
    """Run the command, under torchrun on rank 0 with the others following; return the exit code.

    Faults of the command are printed by rank 0 alone, and end every rank with code 2.

    Args:
        command: checks the command line and trains; returns the exit code.
    """
    process = launched()
    if process is None or process.world == 1:
        return command()
    code = follow(process) if process.rank else _lead(command)
    if code:
        # the launcher kills what is slow to end, and taking the libraries down can be slow; all is closed by now
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _lead(command: Callable[[], int]) -> int:
    code = 1
    try:
        code = command()
    finally:
        from leyden.training.launch import meeting  # late: a refused config is told before torch is loaded

        if (others := meeting()) is not None:
            _keep_code()
            others.end(code)
    return code


def follow(process: Launched) -> int:
    """Train as one of the later ranks: with rank 0's settings, writing nothing; return the exit code."""
    from leyden.training.launch import Ended, meeting

    os.environ.setdefault("TQDM_DISABLE", "1")
    others = meeting()
    assert others is not None
    try:
        _train(others, process.rank)
    except Ended as end:
        _keep_code()
        if end.code is None and process.host and not process.local_rank:
            report(TrainingError("This process ends because rank 0 has ended; its terminal says why."))
        return USER_FAULT if end.code is None else end.code
    except LeydenError as error:
        _keep_code()
        if not others.is_over():
            report(type(error)(f"rank {process.rank}: {fault}" for fault in error.faults))
        return USER_FAULT
    finally:
        others.leave()
    return 0


def _keep_code() -> None:
    """This process is about to end: do not let the launcher, which has seen another one end, change its exit code."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _train(others: Meeting, rank: int) -> None:
    text, requested_seed, checkpoint = others.settings()
    from omegaconf import DictConfig

    from leyden.artifacts.folder import RunFolder
    from leyden.artifacts.job import finish_job
    from leyden.artifacts.preparation import prepared
    from leyden.artifacts.run_log import RunLog
    from leyden.settings.read import parse
    from leyden.settings.schema import Settings
    from leyden.training.interrupts import Interrupts

    settings = parse(DictConfig(yaml.safe_load(text)), Settings)
    # what later ranks may have to convert is needed while they train, and by nobody afterwards
    run_log = RunLog(quiet=not settings.log_all_ranks, rank=rank)
    interrupts = Interrupts()
    with TemporaryDirectory(prefix="leyden-") as scratch, interrupts.listening(), run_log:
        folder = RunFolder(Path(scratch))
        with ExitStack() as stack:
            try:
                start = _start(checkpoint)
                material = stack.enter_context(prepared(settings, folder))
            except LeydenError as error:
                others.ready(error)
                raise
            others.ready()
            finish_job(settings, material, folder, requested_seed, interrupts, start)


def _start(checkpoint: str | None) -> list[SavedState]:
    """The checkpoint that rank 0 goes on from, as this process sees it.

    Raises:
        TrainingError: it is not there or not whole here.
    """
    from leyden.training.saved_states import DamagedError, read_state

    if checkpoint is None:
        return []
    try:
        return [read_state(Path(checkpoint))]
    except DamagedError as error:
        raise TrainingError(
            f"{checkpoint} cannot be read here: {error}. Going on with several hosts needs the run folder on a disk "
            "that all of them reach."
        ) from error
