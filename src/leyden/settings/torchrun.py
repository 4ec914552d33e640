"""How this process was started, alone or by torchrun as one of several: read from the environment, without torch."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Launched:
    """One of the processes that torchrun started.

    Attributes:
        rank: among the processes of all hosts; rank 0 decides, speaks and writes.
        world: processes on all hosts.
        local_rank: among the processes of this host.
        local_world: processes on this host.
        host: number of this host.
    """

    rank: int
    world: int
    local_rank: int
    local_world: int
    host: int


def launched() -> Launched | None:
    """What torchrun says of this process; None where it was not started by torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
    return Launched(*(int(os.environ[name]) for name in names))


def is_one_of_several() -> bool:
    """Whether torchrun started this process beside others."""
    process = launched()
    return process is not None and process.world > 1


def foreign_world() -> int:
    """Processes that another launcher than torchrun says it has started; 1 where there is none."""
    return 1 if launched() else int(os.environ.get("WORLD_SIZE", "1"))
