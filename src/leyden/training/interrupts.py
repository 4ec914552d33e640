"""Signals that end a run: the first one after the update at hand and a checkpoint, the second one at once."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from leyden.settings.stops import EXIT, SIGNALS

log = logging.getLogger(__name__)

SAME = 0.5  # seconds: what sends a signal to all processes and to their parent, which hands it on, means one


class Stopped(SystemExit):
    """The run ends because of a signal; its exit code is 130 or 143.

    Args:
        signum: of the signal.
        checkpoint: the newest one, to go on from; None where there is none.
    """

    def __init__(self, signum: int, checkpoint: Path | None = None) -> None:
        super().__init__(EXIT + signum)
        self.signum, self.checkpoint = signum, checkpoint


@dataclass
class Interrupts:
    """What signals have come, and what they do.

    While the training waits for the end of an update, the first one is only noted; elsewhere it ends the run where it
    is. The second one ends the process at once.

    Attributes:
        received: number of the first signal.
        waiting: note the first one only.
    """

    received: int | None = None
    waiting: bool = False
    _first: float = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Have the signals of this process come here, in the block; only a main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {signum: signal.signal(signum, self._receive) for signum in SIGNALS}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def wait(self, *, on: bool = True) -> None:
        """Note a signal only, or let it end the run where it is."""
        self.waiting = on
        if not on and self.received is not None:
            self.end(None)

    def end(self, checkpoint: Path | None) -> NoReturn:
        """End the run because of the signal that was received, here or by another process of it.

        Raises:
            Stopped: always.
        """
        self.waiting = False
        raise Stopped(self.received or signal.SIGTERM, checkpoint)

    def _receive(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.received is not None:
            if time.monotonic() - self._first < SAME:
                return
            log.warning("%s again: this ends at once.", signal.Signals(signum).name)
            os._exit(EXIT + signum)
        self.received, self._first = signum, time.monotonic()
        if not self.waiting:
            log.warning("%s: this ends here.", signal.Signals(signum).name)
            raise Stopped(signum)
        log.warning(
            "%s: the update at hand is finished and a checkpoint written, then this ends. Once more ends it at once.",
            signal.Signals(signum).name,
        )
