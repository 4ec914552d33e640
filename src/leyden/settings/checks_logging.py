"""Checks of the trackers: their packages, keys and axes, and that no setting holds a secret."""

from __future__ import annotations

import netrc
import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from leyden.settings.paths import user_path
from leyden.settings.schema import Settings
from leyden.settings.wording import show

WANDB_HOST = "https://api.wandb.ai"
NEPTUNE_PROJECT = re.compile(r"[^/\s]+/[^/\s]+")
SECRETS = (  # variables of the environment whose values no file may hold
    "WANDB_API_KEY", "NEPTUNE_API_TOKEN", "OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN",
    "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN",
)  # fmt: skip


def trackers(settings: Settings) -> Iterator[str]:
    """Faults of the trackers that show before anything is imported or sent."""
    logger = settings.logger
    for name in logger.chosen:
        if find_spec(name) is None:
            yield f"logger={name} needs the package {name}. Install the extra: pip install -e '.[{name}]'."
    if logger.wandb is not None and settings.log_step_size == "relative":
        yield (
            "log_step_size=relative does not go with logger=wandb, whose runs are counted in samples. Use "
            "log_step_size=absolute, or another logger."
        )
    if logger.wandb is not None and logger.wandb.mode == "online" and not _wandb_key():
        yield (
            "logger.wandb.mode=online needs a key, and neither WANDB_API_KEY nor the machine's `wandb login` has one. "
            "Set the variable, log in, or use logger.wandb.mode=offline."
        )
    if logger.neptune is not None and not NEPTUNE_PROJECT.fullmatch(logger.neptune.project):
        yield f"logger.neptune.project={show(logger.neptune.project)} names no project. Write it workspace/name."
    if logger.neptune is not None and logger.neptune.mode == "online" and not os.environ.get("NEPTUNE_API_TOKEN"):
        yield (
            "logger.neptune.mode=online needs a key, and NEPTUNE_API_TOKEN has none. Set the variable, or use "
            "logger.neptune.mode=offline."
        )
    if logger.mlflow is not None and urlsplit(logger.mlflow.tracking_uri or "").password:
        yield (
            "logger.mlflow.tracking_uri holds a password, which would stand in the run folder. Give it in "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )


def secrets(settings: Settings) -> Iterator[str]:
    """Settings that hold the value of a secret variable: they would stand in the run folder and go to trackers."""
    known = {value: name for name in SECRETS if len(value := os.environ.get(name, "")) > 3}  # noqa: PLR2004
    for key, text in _texts(settings.model_dump(by_alias=True)):
        for name in [name for value, name in known.items() if value in text]:
            yield f"{key} holds the value of {name}, which belongs in no file. Leave it to the environment."


def _texts(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a settings tree with its key."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from _texts(value, f"{key}.{name}" if key else str(name))
    elif isinstance(tree, list):
        for value in tree:
            yield from _texts(value, key)
    elif isinstance(tree, str):
        yield key, tree


def _wandb_key() -> bool:
    """Whether the client will find a key where it looks: in the environment, or in the netrc file of the login."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    names = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    path = next((path for name in names if (path := user_path(name)).is_file()), None)
    if path is None:
        return False
    try:
        found = netrc.netrc(path).authenticators(urlsplit(os.environ.get("WANDB_BASE_URL", WANDB_HOST)).netloc)
    except (OSError, netrc.NetrcParseError):
        return False
    return found is not None and bool(found[2])
