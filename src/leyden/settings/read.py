"""Composed config in, checked settings out; every fault of the config in one error."""

from __future__ import annotations

import re
from collections.abc import Iterable
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
from leyden.settings.stand_ins import repaired
from leyden.settings.wording import faults_of

Model = TypeVar("Model", bound=Group)


ADDED: dict[str, Any] = {"mode": "train", "dry_run": False}  # settings that runs of before do not have


def read(config: DictConfig, explicit: frozenset[str] = frozenset()) -> Settings:
    """Turn the composed config into settings.

    Args:
        config: what Hydra composed.
        explicit: keys that the user typed, so that one without effect can be refused.

    Raises:
        ConfigError: all faults of types, values, combinations and missing files at once.
    """
    settings, refused = validate(config, Settings)
    return accept(settings, refused, check(settings, explicit) if settings else [])


def parse(config: DictConfig, model: type[Model]) -> Model:
    """Check types and ranges of a config against a schema, without the checks across groups.

    Raises:
        ConfigError: an interpolation that does not resolve, or any value that the schema does not admit.
    """
    return accept(*validate(config, model))


def accept(settings: Model | None, refused: dict[str, str], found: Iterable[str] = ()) -> Model:
    """The settings, if nothing is wrong with them.

    Args:
        settings: from `validate`.
        refused: from `validate`.
        found: faults of further checks; one that is about a refused key is about its stand-in, and is left out.

    Raises:
        ConfigError: all faults.
    """
    about = [re.compile(rf"(?<![\w.]){re.escape(key)}(?![\w.])") for key in refused]
    faults = [*refused.values(), *(fault for fault in found if not any(key.search(fault) for key in about))]
    if faults or settings is None:
        raise ConfigError(faults)
    return settings


def validate(config: DictConfig, model: type[Model]) -> tuple[Model | None, dict[str, str]]:
    """Check types and ranges; a value that is refused gets a legal stand-in, so that the other ones can be checked on.

    Returns:
        The settings (None if even stand-ins leave them wrong), and one sentence per refused key.

    Raises:
        ConfigError: an interpolation that does not resolve.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or 'config'}: {str(error).splitlines()[0]}.") from error
    assert isinstance(plain, dict)
    tree = _without_missing({key: value for key, value in plain.items() if key not in ("hydra", "defaults")})
    try:
        return model.model_validate(tree), {}
    except ValidationError as error:
        refused = faults_of(error, model)
    try:
        return model.model_validate(repaired(tree, refused, model)), refused
    except ValidationError:
        return None, refused


def saved_config(path: Path) -> dict[str, Any]:
    """The settings that a run has saved, as plain containers.

    Raises:
        ConfigError: there is no such file, or it holds no settings.
    """
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. Name a folder that train.py has written.") from error
    if not isinstance(tree, dict) or "dataset" not in tree:
        raise ConfigError(f"{path} holds no settings of a run. Name a folder that train.py has written.")
    settings = {key: value for key, value in tree.items() if key not in ("defaults", "hydra")}
    return {**ADDED, **settings}


def dump(settings: BaseModel) -> dict[str, Any]:
    """Plain containers of a settings tree, with the keys as they stand in YAML."""
    return settings.model_dump(by_alias=True)


def _without_missing(tree: Any) -> Any:
    """Drop unset values, so that the schema reports them as missing."""
    if isinstance(tree, dict):
        return {name: _without_missing(value) for name, value in tree.items() if value != "???"}
    return tree
