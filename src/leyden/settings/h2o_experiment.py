"""The new experiment file: what our config groups have, its text, and a trial of it before anything is written."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from leyden.settings.checks import check
from leyden.settings.composition import compose_config
from leyden.settings.errors import ConfigError
from leyden.settings.read import validate
from leyden.settings.schema import Settings
from leyden.settings.wording import fields_of, is_open, show

CONFIG = "train"
FIELDS = dict(fields_of(Settings))
NOT_THERE = object()
_PLAIN = re.compile(r"[A-Za-z_/][\w./-]*")
_HEAD = """\
# @package _global_
# From the H2O LLM Studio experiment {name}, by `python -m leyden.import_h2o`: what differs from Leyden's defaults.
"""


@dataclass(frozen=True)
class Trial:
    """What a run would say of an experiment file.

    Attributes:
        refused: sentences about values that the schema does not admit, by key.
        mend: everything else that stands in the way of a run here.
    """

    refused: Mapping[str, str]
    mend: tuple[str, ...]


def composed(choices: Mapping[str, str], folder: Path) -> DictConfig:
    """The settings that some choices make.

    Args:
        choices: files by group.
        folder: of the config groups.

    Raises:
        ConfigError: a file is not there, or they do not go together.
    """
    config, faults = compose_config(CONFIG, [f"{group}={name}" for group, name in choices.items()], folder)
    if config is None or faults:
        raise ConfigError(faults)
    return config


def tree_of(config: DictConfig, *, resolve: bool = True) -> dict[str, Any]:
    """A config as plain containers; without `resolve`, references to other keys stay as they stand."""
    tree = OmegaConf.to_container(config, resolve=resolve, throw_on_missing=False)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def at(tree: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; NOT_THERE if there is none."""
    found: Any = tree
    for part in key.split("."):
        found = found.get(part, NOT_THERE) if isinstance(found, dict) else NOT_THERE
    return found


def is_setting(key: str, tree: Mapping[str, Any]) -> bool:
    """Whether a key is in the config groups and the schema knows it."""
    return at(tree, key) is not NOT_THERE and (key in FIELDS or is_open(key, FIELDS, always=False))


def same(one: Any, other: Any) -> bool:
    """Equal, where true is not 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def experiment_text(name: str, choices: Mapping[str, str], settings: Mapping[str, Any]) -> str:
    """The text of an experiment file.

    Args:
        name: of the old file, for its head.
        choices: files by group, each an override of the defaults list.
        settings: values by dotted key.
    """
    order = {key: place for place, key in enumerate(FIELDS)}
    tree: dict[str, Any] = {}
    for key in sorted(settings, key=lambda key: order.get(key, len(order))):
        *groups, last = key.split(".")
        place = tree
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = _escaped(settings[key])
    defaults = "".join(f"  - override /{group}: {choices[group]}\n" for group in sorted(choices, key=_room))
    body = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return f"{_HEAD.format(name=name)}defaults:\n{defaults}\n{body}"


def try_out(text: str, settings: Mapping[str, Any], base: DictConfig, folder: Path) -> Trial:
    """Compose an experiment file from a scratch folder and check it as `train.py` would.

    Args:
        text: of the file.
        settings: what it should set, by dotted key.
        base: what the choices make without those.
        folder: of the config groups.

    Raises:
        ConfigError: it does not compose, or something comes out otherwise than it went in.
    """
    with tempfile.TemporaryDirectory(prefix="leyden-") as scratch:
        name = Path(scratch).name
        (Path(scratch) / "experiment").mkdir()
        (Path(scratch) / "experiment" / f"{name}.yaml").write_text(text, encoding="utf-8")
        config, faults = compose_config(CONFIG, [f"experiment={name}"], folder, Path(scratch))
    if config is None or faults:
        raise ConfigError(faults)
    if changed := list(_changed(config, settings, base)):
        raise ConfigError(changed)
    checked, refused = validate(config, Settings)
    found = [] if checked is None else check(checked)
    others = [sentence for key, sentence in refused.items() if key not in settings]
    about = [re.compile(rf"(?<![\w.]){re.escape(key)}(?![\w.])") for key in refused]
    return Trial(refused, (*others, *(fault for fault in found if not any(key.search(fault) for key in about))))


def _room(group: str) -> tuple[int, str]:
    """Groups in the order of the schema, a group before those inside it."""
    names = [key for key in FIELDS if "." not in key]
    first = group.split("/")[0]
    return (names.index(first) if first in names else len(names)), group


def _changed(config: DictConfig, settings: Mapping[str, Any], base: DictConfig) -> Iterator[str]:
    """What a config has otherwise than its choices and settings want it."""
    tree = tree_of(config)
    for key, value in settings.items():
        if not same(at(tree, key), value):
            yield f"{key} became {show(at(tree, key))} instead of {show(value)}."
    raw, wanted = tree_of(config, resolve=False), tree_of(base, resolve=False)
    for key in sorted({*_leaves(raw), *_leaves(wanted)}):
        set_here = any(key == name or key.startswith(f"{name}.") for name in settings)
        if not set_here and not same(at(raw, key), at(wanted, key)):
            yield f"{key} became {show(at(raw, key))} instead of {show(at(wanted, key))}."


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of everything that is no group; an empty group counts as a value."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _escaped(value: Any) -> Any:
    """Keep OmegaConf from reading `${…}` in a text of the user as a reference."""
    if isinstance(value, dict):
        return {key: _escaped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_escaped(inner) for inner in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


class _Dumper(yaml.SafeDumper):
    """Lists on one line; text in quotes wherever a reader could take it for something else."""


def _list(dumper: yaml.SafeDumper, value: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=not any(map(_nested, value)))


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    style = None if _PLAIN.fullmatch(value) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


def _nested(value: Any) -> bool:
    return isinstance(value, dict | list)


_Dumper.add_representer(list, _list)
_Dumper.add_representer(str, _text)
