"""Configs composed from the choices of a command line, each set of choices once in a process.

What a file brings depends on the choices alone: values that are typed are set in the end, in a copy. A sweep is checked
with the files of each choice read once.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from leyden.settings.overrides import is_group, parsed

KEPT = 512  # sets of choices, of about 15 kB each


def composed(name: str, overrides: Sequence[str], folder: Path) -> DictConfig:
    """What `hydra.compose` makes of a command line, inside an initialised Hydra.

    Args:
        name: the primary config.
        overrides: as typed.
        folder: of the config groups, the only one that is searched.

    Raises:
        HydraException, OmegaConfBaseException, YAMLError, ValueError: as `hydra.compose` does.
    """
    try:
        read = [parsed(text) for text in overrides]
    except HydraException:
        return compose(name, list(overrides))  # which raises it with the text in its words
    if any(override.is_sweep_override() or override.key_or_group.startswith("hydra") for override in read):
        return compose(name, list(overrides))
    choices = [str(override.input_line) for override in read if _is_choice(override, folder)]
    config = pickle.loads(_of_choices(name, tuple(choices), _state(folder)))
    assert isinstance(config, DictConfig)
    values = [override for override in read if not _is_choice(override, folder)]
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    return config


@lru_cache(maxsize=KEPT)
def _of_choices(name: str, choices: tuple[str, ...], state: str) -> bytes:
    """The config, pickled: no object that garbage collection would go through."""
    del state  # of the files, for the cache alone
    return pickle.dumps(compose(name, list(choices)))


def _is_choice(override: Override, folder: Path) -> bool:
    """Whether it names a file of a group, as Hydra sees it: the others change values."""
    return is_group([folder], override.key_or_group) and not isinstance(override.value(), dict)


def _state(folder: Path) -> str:
    """Content hash of all files of a folder of config groups, and of where it is."""
    digest = hashlib.sha256(str(folder).encode())
    for file in sorted(folder.rglob("*.yaml")):
        content = file.read_bytes()
        digest.update(f"{file}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
