"""Composed config in, checked settings out; every fault of the config in one error."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from leyden.settings.base import Group
from leyden.settings.checks import check
from leyden.settings.errors import ConfigError
from leyden.settings.schema import Settings
from leyden.settings.wording import faults_of

Model = TypeVar("Model", bound=Group)


def read(config: DictConfig, explicit: frozenset[str] = frozenset()) -> Settings:
    """Turn the composed config into settings.

    Args:
        config: what Hydra composed.
        explicit: keys that the user typed, so that one without effect can be refused.

    Raises:
        ConfigError: all faults of types, values, combinations and missing files at once.
    """
    settings = parse(config, Settings)
    faults = check(settings, explicit)
    if faults:
        raise ConfigError(faults)
    return settings


def parse(config: DictConfig, model: type[Model]) -> Model:
    """Check types and ranges of a config against a schema, without the checks across groups.

    Raises:
        ConfigError: an interpolation that does not resolve, or any value that the schema does not admit.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or 'config'}: {str(error).splitlines()[0]}") from error
    plain = {str(key): value for key, value in dict(plain or {}).items() if key not in ("hydra", "defaults")}  # type: ignore[arg-type]
    missing = sorted(_missing(plain))
    try:
        settings = model.model_validate(_without_missing(plain))
    except ValidationError as error:
        raise ConfigError(faults_of(error, model)) from error
    if missing:
        raise ConfigError([f"{key} is not set. Set {key}=…" for key in missing])
    return settings


def saved_config(path: Path) -> dict[str, Any]:
    """The settings that a run has saved, as plain containers.

    Raises:
        ConfigError: there is no such file, or it holds no settings.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. Name a folder that train.py has written.") from error
    if not isinstance(tree, dict) or "dataset" not in tree:
        raise ConfigError(f"{path} holds no settings of a run. Name a folder that train.py has written.")
    return {key: value for key, value in tree.items() if key not in ("defaults", "hydra")}


def dump(settings: BaseModel) -> dict[str, Any]:
    """Plain containers of a settings tree, with the keys as they stand in YAML."""
    return settings.model_dump(by_alias=True)


def _missing(tree: Any, prefix: str = "") -> list[str]:
    if isinstance(tree, dict):
        return [key for name, value in tree.items() for key in _missing(value, f"{prefix}.{name}".lstrip("."))]
    return [prefix] if tree == "???" else []


def _without_missing(tree: Any) -> Any:
    """Drop unset values, so that the schema reports them as missing where it declares them."""
    if isinstance(tree, dict):
        return {name: _without_missing(value) for name, value in tree.items() if value != "???"}
    return tree
