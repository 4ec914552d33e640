"""Names that stand for files: tables and checkpoints that come with an installed package."""

from __future__ import annotations

from importlib import metadata, resources
from pathlib import Path

EMBEDDED = "embedded:"
WHEEL = "wheel:"
TINY = "tiny:"


def table_path(name: str) -> Path:
    """Path of a table: `embedded:NAME` is one that comes with Leyden, everything else is a path."""
    if name.startswith(EMBEDDED):
        return Path(str(resources.files("leyden.data") / "embedded" / f"{name.removeprefix(EMBEDDED)}.csv"))
    return Path(name).expanduser()


def wheel_checkpoint(name: str) -> Path | None:
    """Path of the `.gguf` file in the installed distribution that `wheel:NAME` names; None when there is none."""
    try:
        files = metadata.files(name.removeprefix(WHEEL)) or []
    except metadata.PackageNotFoundError:
        return None
    paths = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    return next((path for path in paths if path.is_file()), None)
