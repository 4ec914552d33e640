"""How Lightning writes the state of a training: straight into the file that it is told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO


class StraightIO(TorchCheckpointIO):
    """Writes where it is told, with one copy of the state in memory.

    Lightning's own collects the whole file in memory and puts it into the folder for temporary files first, which may
    be on another disk and keeps it after a kill. A checkpoint here is renamed once it is whole, so that is not needed.
    """

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: str | Path, storage_options: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Write the state."""
        with Path(path).open("wb") as file:
            torch.save(dict(checkpoint), file)
