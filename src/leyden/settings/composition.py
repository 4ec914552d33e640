"""Compose a config with Hydra and say in one sentence what is wrong with an override."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leyden.settings.wording import nearest, show


def compose_config(
    name: str, overrides: Sequence[str], folder: Path, extra: Path | None = None
) -> tuple[DictConfig | None, list[str]]:
    """Compose a config; overrides that cannot be applied are left out and described.

    Args:
        name: the primary config.
        overrides: as typed, without sweeps.
        folder: the folder of the config groups.
        extra: a second folder to search, such as that of a saved run.

    Returns:
        The config of the overrides that fit (None when nothing can be composed), and one sentence per misfit.
    """
    remaining, faults = list(overrides), []
    search = [f"hydra.searchpath=[file://{extra}]"] if extra else []
    known: list[str] = []
    with initialize_config_dir(str(folder.absolute()), version_base="1.3"):
        while True:
            try:
                config = compose(name, [*remaining, *search])
            except (HydraException, OmegaConfBaseException) as error:
                known = known or _keys(compose(name, search))
                faults.append(fault_of(error, folder, known))
                culprit = _culprit(str(error), remaining)
                if culprit is None:
                    return None, faults
                remaining.remove(culprit)
                continue
            added = [text for text in remaining if text.startswith("+") and not text.startswith(("++hydra", "+hydra"))]
            faults += [f"{text}: keys cannot be added to the settings. Leave out the plus sign." for text in added]
            return config, faults


def fault_of(error: Exception, folder: Path, known: Sequence[str] = ()) -> str:
    """One sentence for an error of Hydra or OmegaConf: the setting, what is wrong, the nearest legal name."""
    text = str(error)
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match.group(1)
        return f"{key} is not a setting here.{nearest(key, known) or _siblings(key, known)}"
    if match := re.search(r"Could not find '([^']+)'|Cannot find primary config '([^']+)'", text):
        group, _, choice = (match.group(1) or match.group(2)).rpartition("/")
        choices = _choices(folder, group)
        setting = f"{group}={choice}" if group else choice
        return f"{setting} does not exist.{nearest(choice, choices)} Allowed: {', '.join(choices)}."
    cause = error.__cause__ or error
    return " ".join(str(cause).splitlines()[0].split())


def _choices(folder: Path, group: str) -> list[str]:
    files = (folder / group).glob("*.yaml")
    return sorted(file.stem for file in files if not file.stem.startswith("_"))


def _siblings(key: str, known: Sequence[str]) -> str:
    group = key.rpartition(".")[0]
    names = [name for name in known if name.rpartition(".")[0] == group]
    return f" {group or 'The root'} has: {', '.join(n.rpartition('.')[2] for n in names)}." if names else ""


def _keys(config: DictConfig) -> list[str]:
    plain = OmegaConf.to_container(config, resolve=False)

    def walk(tree: object, prefix: str) -> list[str]:
        if not isinstance(tree, dict):
            return [prefix]
        inner = [key for name, value in tree.items() for key in walk(value, f"{prefix}.{name}".lstrip("."))]
        return [prefix, *inner] if prefix else inner

    return walk(plain, "")


def _culprit(message: str, overrides: Sequence[str]) -> str | None:
    """The override that a message of Hydra is about."""
    parser = OverridesParser.create()
    for text in overrides:
        override = parser.parse_override(text)
        key = override.key_or_group
        value = override.value()
        names = (f"'{key}'", f"'{key}/{value}'", f"override {text}", f" {text}", f"{key}={show(value)}")
        if any(name in message for name in names):
            return text
    return None
