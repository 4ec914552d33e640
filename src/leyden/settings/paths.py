"""Paths as people write them."""

from __future__ import annotations

import os
from pathlib import Path


def user_path(name: str | Path) -> Path:
    """A path with the home for `~` and `~name`; of a user that is not there it stays as it is, and is not found.

    What would be written there is refused (`leyden.settings.locations.folder_faults`). `Path.expanduser` raises.
    """
    return Path(os.path.expanduser(name))
