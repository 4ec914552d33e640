"""Compose a config with Hydra and say in one sentence what is wrong with an override."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from leyden.settings.choices import composed
from leyden.settings.overrides import choices_of, is_group, keys_of_choices, parsed
from leyden.settings.paths import user_path
from leyden.settings.wording import ELSEWHERE, nearest

OmegaConf.register_new_resolver("home", lambda path: str(user_path(str(path))), replace=True)
OmegaConf.register_new_resolver("first", lambda *values: next((v for v in values if v is not None), None), replace=True)
UNFIT = (HydraException, OmegaConfBaseException, YAMLError, ValueError)


def compose_config(
    name: str, overrides: Sequence[str], folder: Path, extra: Path | None = None
) -> tuple[DictConfig | None, list[str]]:
    """Compose a config; overrides that do not go with the choices made are left out and described.

    Args:
        name: the primary config.
        overrides: as typed, without sweeps.
        folder: the folder of the config groups.
        extra: a second folder to search, such as that of a saved run; the primary config may stand there.

    Returns:
        The config of the overrides that fit (None when nothing can be composed), and one sentence per misfit.
    """
    remaining, faults = list(overrides), list[str]()
    folders = [folder.absolute(), *([extra.absolute()] if extra else [])]
    main = next((place for place in folders if (place / f"{name}.yaml").is_file()), folder.absolute())
    search = [f"hydra.searchpath=[file://{place}]" for place in folders if place != main]
    with _apart(), initialize_config_dir(str(main), version_base="1.3"):
        while True:
            try:
                if folders == [main]:
                    return composed(name, remaining, main), faults
                return compose(name, [*remaining, *search]), faults
            except UNFIT as error:
                faults.append(fault_of(error, folders, remaining))
                refused = _refused(str(error), remaining)
                if not refused:
                    return None, faults
                remaining = [text for text in remaining if text not in refused]


@contextmanager
def _apart() -> Iterator[None]:
    """Let Hydra compose while it runs a job: it would refuse, as it has one configuration at a time."""
    one = GlobalHydra.instance()
    outer, one.hydra = one.hydra, None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = outer  # composing may have put another instance there


def search_space(name: str, overrides: Sequence[str], folder: Path, extra: Path | None = None) -> list[str]:
    """What a sweeper will vary by itself, written as overrides; nothing where the command line does not compose.

    Args:
        name: the primary config.
        overrides: as typed, without sweeps.
        folder: of the config groups.
        extra: a second folder to search.
    """
    search = [f"hydra.searchpath=[file://{extra.absolute()}]"] if extra else []
    with initialize_config_dir(str(folder.absolute()), version_base="1.3"):
        try:
            config = compose(name, [*overrides, *search], return_hydra_config=True)
        except UNFIT:
            return []
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    return [f"{key}={value}" for key, value in params.items()]


def fault_of(error: Exception, folders: Sequence[Path], overrides: Sequence[str] = ()) -> str:
    """One sentence for an error of Hydra, OmegaConf or a YAML file: the setting, what is wrong, what goes.

    Args:
        error: as it was raised.
        folders: of the config groups.
        overrides: that were composed.
    """
    text = str(error)
    if match := re.search(r"Could not override '([^']+)'", text):
        return _homeless(match.group(1), folders, overrides)
    if match := re.search(r"Could not append to config. An item is already at '([^']+)'", text):
        return f"{match.group(1)} is there already. Leave out the plus sign."
    if match := re.search(r"Could not find '([^']+)'|Cannot find primary config '([^']+)'", text):
        group, _, choice = (match.group(1) or match.group(2)).rpartition("/")
        if group.startswith("hydra/"):
            return f"{group}={choice} is not there. Those that do not come with Hydra: pip install -e '.[sweep]'."
        choices = choices_of(folders, group)
        setting = f"{group}={choice}" if group else f"--config-name {choice}"
        return f"{setting} does not exist.{nearest(choice, choices)} Allowed: {', '.join(choices) or 'none yet'}."
    cause = error.__cause__ or error
    if full_key := getattr(cause, "full_key", None):
        return f"{full_key}: {_line(cause)}."
    where = re.search(r"In '([^']+)'", text)
    prefix = f"{where.group(1)}.yaml: " if where else ""
    return f"{prefix}{' '.join(str(cause).split())}"


def _homeless(key: str, folders: Sequence[Path], overrides: Sequence[str]) -> str:
    """Words for a setting that other choices have: `lora.r` with `lora=none`, `problem.loss.gamma` with `dpo`."""
    group, _, name = key.rpartition(".")
    path = group.replace(".", "/")
    if is_group(folders, key):
        return f"{key}: this cannot be set as a whole here. Set its keys one by one: {key}.KEY=VALUE."
    keys = keys_of_choices(folders, path) if group else {}
    typed = next((text for text in overrides if text.startswith(f"{key}=")), f"{key}=…")
    if typed.startswith(f"{key}={{"):
        return f"{typed}: write its keys one by one, each with a plus sign if it is new: +{key}.KEY=VALUE."
    chosen = next((text for text in overrides if text.split("=")[0] == path), None)
    homes = [f"{path}={choice}" for choice, names in keys.items() if name in names]
    if homes:
        there = f"has no effect with {chosen}" if chosen else f"is not a setting of this choice of {path}"
        return f"{key} {there}; it belongs to {', '.join(homes)}. Choose that, or leave it out."
    near = nearest(key, _keys_of(path, group, folders))
    if near and name in ELSEWHERE:
        return f"{key} is not a setting here.{near}"
    if not near and (choice := nearest(name, choices_of(folders, path) if group else [])):
        near = choice.replace("mean ", f"mean {path}=")
    return f"{key} is not a setting here.{near} To hand it on as it is, write a plus sign before it: +{typed}"


def _keys_of(path: str, group: str, folders: Sequence[Path]) -> list[str]:
    """Every key that the files of a group bring, as it is typed, and the groups inside the group."""
    found = [f"{group}.{inner.name}" for place in folders for inner in (place / path).glob("*/") if group]
    for place in folders:
        for choice in choices_of([place], path) if group else []:
            text = (place / path / f"{choice}.yaml").read_text(encoding="utf-8")
            package = re.search(r"^# @package ([\w.]+)$", text, re.MULTILINE)
            prefix = package.group(1) if package else group
            names = re.findall(r"^(\w+):", text, re.MULTILINE)
            found += [f"{prefix}.{name}" for name in names if name != "defaults" and prefix != "_global_"]
    return found


def _refused(message: str, overrides: Sequence[str]) -> list[str]:
    """The overrides that a message of Hydra is about."""
    found = []
    for text in overrides:
        key = parsed(text).key_or_group
        if f"'{key}'" in message or f"override {text}" in message or f"'{text}'" in message:
            found.append(text)
    return found


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0].rstrip(".")
