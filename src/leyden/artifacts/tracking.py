"""Trackers beside `metrics.csv`: they start before the training or end the run, and never end it later."""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger

from leyden.artifacts.continuation import sent_before
from leyden.artifacts.whole import write_whole
from leyden.data.sampler import Rank, TrainingSampler
from leyden.settings.errors import ConfigError
from leyden.settings.schema import Settings
from leyden.training.devices import world_size
from leyden.training.prepare import Material

log = logging.getLogger(__name__)

IDENTITIES = "trackers.json"  # what each tracker calls the run
PARTS = 1_000_000  # of the whole training, where an axis takes whole numbers only


@dataclass(frozen=True)
class Axis:
    """Where a number stands along the x axis of a tracker.

    Attributes:
        relative: as a share of the whole training instead of in samples.
        planned: samples of the whole training, of all processes; 0 without training.
    """

    relative: bool
    planned: int

    def at(self, samples: int) -> float:
        """Samples, or their share of all planned ones; 0 when none are planned."""
        return samples / max(1, self.planned) if self.relative else float(samples)

    def whole_at(self, samples: int) -> int:
        """The same for an axis of whole numbers: samples, or millionths of all planned ones."""
        return round(self.at(samples) * PARTS) if self.relative else samples


@dataclass(frozen=True)
class Place:
    """What every tracker of a run needs to know.

    Attributes:
        folder: of the run; all files of the trackers are in it.
        name: of the run.
        axis: where numbers stand along the x axis.
        known: how each tracker calls the run, by kind, from an earlier part of it.
        sent: step and name of the numbers that trackers have had from that part.
    """

    folder: Path
    name: str
    axis: Axis
    known: Mapping[str, str] = field(default_factory=dict)
    sent: frozenset[tuple[int, str]] = frozenset()


class Tracker(Logger):
    """A Lightning logger that cannot harm the run: what it raises while numbers are sent is said once.

    Lightning closes its loggers after every evaluation outside of the training; this one stays open until `stop`.

    Args:
        place: of the run, for all trackers the same.
    """

    kind: str

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        self.identity = place.known.get(self.kind)  # what the client calls the run; set when it is opened
        self.failure: str | None = None

    @property
    def name(self) -> str:
        """As it is chosen: `logger=NAME`."""
        return self.kind

    @property
    def version(self) -> str:
        """There is one per run."""
        return ""

    @property
    def state(self) -> str:
        """For the manifest: whether it got everything."""
        return self.failure or "complete"

    @abstractmethod
    def _open(self, config: Mapping[str, Any]) -> None:
        """Start the client and hand it the settings."""

    @abstractmethod
    def _send(self, values: Mapping[str, float], samples: int) -> None:
        """Hand on numbers that belong to the same number of samples."""

    @abstractmethod
    def _close(self, *, done: bool) -> None:
        """Send what is left and end."""

    def start(self, config: Mapping[str, Any]) -> None:
        """Start, with the resolved settings of the run.

        Raises:
            ConfigError: the client or its service refuses.
        """
        try:
            self._open(config)
        except Exception as error:
            raise ConfigError(
                f"logger={self.kind} cannot start: {_first_line(error)}. Mend its settings, key or connection, or "
                "leave it out."
            ) from error

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send the numbers of one update or evaluation, and the number of updates as `step`; each number once."""
        if self.failure is not None:
            return
        sent = self.place.sent if self.kind in self.place.known else frozenset()
        new = [name for name in metrics if name != "samples" and (step or 0, name) not in sent]
        if not new:
            return
        values = {name: float(metrics[name]) for name in new}
        try:
            self._send({**values, "step": float(step or 0)}, int(metrics.get("samples", 0)))
        except Exception as error:  # of any kind: whatever a client does, the run goes on
            self._give_up(error)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The settings were handed over at the start."""

    def stop(self, *, done: bool) -> None:
        """Send what is left and end.

        Args:
            done: the run came to its end.
        """
        try:
            self._close(done=done)
        except Exception as error:
            if self.failure is None:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.failure = (
            f"logger={self.kind} failed and was left out from there on ({type(error).__name__}: {_first_line(error)}); "
            "metrics.csv has every number."
        )
        log.warning("%s", self.failure)


@contextmanager
def running(trackers: Sequence[Tracker], config: Mapping[str, Any]) -> Iterator[None]:
    """Start the trackers, and stop those that did start whatever happens in the block.

    Raises:
        ConfigError: one of them cannot start.
    """
    started: list[Tracker] = []
    done = False
    try:
        for tracker in trackers:
            tracker.start(config)
            started.append(tracker)
        if known := {tracker.kind: tracker.identity for tracker in started if tracker.identity is not None}:
            write_whole(started[0].place.folder / IDENTITIES, json.dumps(known) + "\n")
        yield
        done = True
    finally:
        for tracker in started:
            tracker.stop(done=done)


def place_of(settings: Settings, material: Material, folder: Path) -> Place:
    """The place of a run: its name is that of its folder, in a sweep with the name of the sweep before it."""
    job = folder.name.isdigit() and folder.name != settings.experiment_name
    name = f"{folder.parent.name}-{folder.name}" if job else folder.name
    trainer = settings.trainer
    rank = Rank(0, world_size(trainer))
    samples = len(material.train.trees)
    epoch = TrainingSampler(samples, trainer.rows, 0, rank, drop_last=trainer.drop_last_batch).end(0)
    axis = Axis(settings.log_step_size == "relative", epoch * trainer.epochs)
    return Place(folder, name, axis, _known(folder / IDENTITIES), sent_before(folder))


def _known(path: Path) -> dict[str, str]:
    """What trackers have called the run; where that is damaged, they begin another one."""
    if not path.exists():
        return {}
    try:
        return {str(kind): str(name) for kind, name in json.loads(path.read_bytes()).items()}
    except (ValueError, AttributeError):
        log.warning("%s is damaged, so trackers do not go on with their part of the run but begin another.", path)
        return {}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
