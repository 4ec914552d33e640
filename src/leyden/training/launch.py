"""How processes that torchrun started agree before they train: rank 0 decides, the others follow or end with it.

They meet in the launcher's key-value store, which is there before any process group and reaches every host; no shared
disk is needed. Lightning opens its process group in the same store afterwards, under other keys.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from functools import cache
from typing import Any

from torch.distributed import DistNetworkError, DistStoreError
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from leyden.settings.errors import LeydenError, TrainingError
from leyden.settings.torchrun import is_one_of_several, launched

PATIENCE = timedelta(minutes=30)  # for others to prepare: torch's own limit for a group to come together
LEAVING = timedelta(seconds=5)  # for others to hear that this is the end
LOST = (DistNetworkError, DistStoreError)


class Meeting:
    """What ranks say to each other between their start and the training.

    Each calls the methods of its side in order: rank 0 `share`, `gather`, `start`, the others `settings`, `ready`.
    `end` may come at any time on rank 0; what the others wait for then raises `Ended`.

    Args:
        store: where every rank reads and writes.
        rank: this process.
        world: processes.
    """

    def __init__(self, store: Store, rank: int, world: int) -> None:
        self._store, self._rank, self._world = store, rank, world
        self._started = False

    def share(self, settings: str, requested_seed: int, checkpoint: str | None = None) -> None:
        """Rank 0: give the resolved settings, as the text of a saved config, and where to go on from, to all."""
        self._say("settings", {"text": settings, "seed": requested_seed, "checkpoint": checkpoint})

    def gather(self) -> None:
        """Rank 0: wait until every rank has prepared.

        Raises:
            TrainingError: a rank could not, or does not answer.
        """
        faults: list[str] = []
        for rank in range(1, self._world):
            said = self._hear(f"ready/{rank}")
            faults += [f"rank {rank} on {said['host']}: {fault}" for fault in said["faults"] if fault not in faults]
        if faults:
            raise TrainingError(faults)

    def start(self) -> None:
        """Rank 0: let every rank train."""
        self._started = True
        self._say("verdict", {})

    def end(self, code: int) -> None:
        """Rank 0: this is over; whoever has not started training ends with this code, and does so now.

        After a training that ended well there is nobody left to tell.
        """
        if self._started and not code:
            return
        with suppress(*LOST):  # whoever does not hear it ends with the launcher
            self._say("over", {"code": code})
            if not self._started:
                for key in ("settings", "verdict"):
                    if not self._store.check([key]):
                        self._say(key, {"code": code})
            self._store.wait([f"gone/{rank}" for rank in range(1, self._world)], LEAVING)

    def settings(self) -> tuple[str, int, str | None]:
        """Later ranks: the settings of rank 0, the seed that was asked for, and the checkpoint to go on from.

        Raises:
            Ended: rank 0 has ended.
        """
        said = self._hear("settings")
        return said["text"], said["seed"], said["checkpoint"]

    def ready(self, error: LeydenError | None = None) -> None:
        """Later ranks: say that this one has prepared, or why it cannot, and wait for all.

        Raises:
            Ended: there will be no training.
        """
        self._say(f"ready/{self._rank}", {"host": socket.gethostname(), "faults": error.faults if error else []})
        self._hear("verdict")

    def is_over(self) -> bool:
        """Later ranks, after a fault: whether rank 0 has one too, and so has told it."""
        try:
            self._store.wait(["over"], LEAVING)
        except DistNetworkError:
            return True
        except DistStoreError:
            return False
        return True

    def leave(self) -> None:
        """Later ranks: rank 0 need not wait for this one."""
        with suppress(*LOST):
            self._say(f"gone/{self._rank}", {})

    def _say(self, key: str, content: Mapping[str, Any]) -> None:
        self._store.set(key, json.dumps(content))

    def _hear(self, key: str) -> dict[str, Any]:
        try:
            self._store.wait([key], PATIENCE)
            said: dict[str, Any] = json.loads(self._store.get(key))
        except DistStoreError as error:
            raise TrainingError(f"No word ({key}) in {PATIENCE} from another process of this run.") from error
        except DistNetworkError as error:
            raise Ended(None) from error
        if "code" in said:
            raise Ended(said["code"])
        return said


class Ended(Exception):
    """Rank 0 has ended before the training.

    Args:
        code: its exit code; None: it is gone without a word.
    """

    def __init__(self, code: int | None) -> None:
        self.code = code
        super().__init__(f"rank 0 has ended with code {code}")


@cache
def meeting() -> Meeting | None:
    """Where this process meets the others that torchrun started; None where it is alone. The first call connects."""
    process = launched()
    if process is None or not is_one_of_several():
        return None
    store, rank, world = next(iter(rendezvous("env://", timeout=PATIENCE)))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Meeting(PrefixStore(f"leyden/{attempt}", store), rank, world)
