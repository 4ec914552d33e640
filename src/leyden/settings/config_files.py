"""The files of the config groups as they are written: values, comments, what they bring, and the code they name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import GenericAlias
from typing import Any

import yaml
from omegaconf import OmegaConf

from leyden.settings.composition import compose_config
from leyden.settings.errors import ConfigError
from leyden.settings.overrides import choices_of

SPACE = "hydra.sweeper.params"
SOURCE = Path(__file__).resolve().parents[2]
Definition = ast.ClassDef | ast.FunctionDef
_TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool}
_PACKAGE = re.compile(r"# @package (\S+)\n")
_BROUGHT = re.compile(r"(?:override )?(/?)([\w/]+)(?:@\S+)?")


@dataclass(frozen=True)
class ConfigFile:
    """One choice of a config group.

    Attributes:
        name: as it is chosen.
        words: its first comment, else the first line of what the code says of its target; empty without either.
        values: by full key, references to other keys unresolved.
        comments: what stands beside a value in this very file, by full key.
        brings: files of other groups that it chooses, by group.
    """

    name: str
    words: str
    values: Mapping[str, Any]
    comments: Mapping[str, str]
    brings: Mapping[str, str]


def read_group(folder: Path, group: str) -> tuple[ConfigFile, ...]:
    """The files of a group that are meant to be chosen, by name.

    Args:
        folder: of the config groups.
        group: such as `problem/loss`.

    Raises:
        ConfigError: a file does not compose with those that it is built on.
    """
    return tuple(read_config_file(folder, f"{group}/{name}") for name in choices_of([folder], group))


def read_config_file(folder: Path, name: str) -> ConfigFile:
    """One file, without the files of other groups that it brings.

    Args:
        folder: of the config groups.
        name: path in it, without the ending; one without a group is a primary config, whose keys have no prefix.

    Raises:
        ConfigError: it does not compose with the files of its group that it is built on.
    """
    text = (folder / f"{name}.yaml").read_text(encoding="utf-8")
    group, _, stem = name.rpartition("/")
    package = match.group(1) if (match := _PACKAGE.match(text)) else group.replace("/", ".")
    prefix = "" if package == "_global_" or not package else f"{package}."
    tree = _plain(OmegaConf.create(text))
    defaults = tree.pop("defaults", [])
    tree.pop("hydra", None)
    if any(isinstance(entry, str) and entry != "_self_" for entry in defaults):
        config, faults = compose_config(name, [], folder)
        if config is None or faults:
            raise ConfigError(faults)
        values = dict(flat(_plain(config)))
    else:
        values = {f"{prefix}{key}": value for key, value in flat(tree)}
    words = _opening(text) or _first_line(str(tree.get("_target_", "")))
    comments = {f"{prefix}{key}": comment for key, comment in _comments(text)}
    return ConfigFile(stem, words, values, comments, dict(_brought(defaults, group)))


def read_sweep(folder: Path, name: str) -> ConfigFile:
    """A file of conf/sweep: what it searches, by the keys of the settings, and what it tells Hydra's sweeper.

    Args:
        folder: of the config groups.
        name: of the file.
    """
    text = (folder / "sweep" / f"{name}.yaml").read_text(encoding="utf-8")
    tree = OmegaConf.create(text)
    space = OmegaConf.select(tree, SPACE)  # its keys have dots of their own, which name settings
    values = dict(flat({"hydra": _plain(tree.hydra)})) if space is None else _plain(space)
    return ConfigFile(name, _opening(text), values, dict(_comments(text)), {})


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a tree with its dotted key; lists and empty groups are leaves."""
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def parameter_type(target: str, name: str) -> Any:
    """The type of a parameter of a function or class of Leyden, from its source; None when that does not say.

    Args:
        target: dotted path.
        name: of the parameter.
    """
    node = definition(target)
    if isinstance(node, ast.ClassDef):
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
        found = [item.annotation for item in fields if isinstance(item.target, ast.Name) and item.target.id == name]
    else:
        parameters = [*node.args.args, *node.args.kwonlyargs] if node else []
        found = [item.annotation for item in parameters if item.arg == name and item.annotation]
    return _type_of(found[0]) if found else None


@cache
def definition(target: str) -> Definition | None:
    """What a dotted path names, as a node of its source and without importing it; None outside of Leyden."""
    module, _, name = target.rpartition(".")
    path = (SOURCE / module.replace(".", "/")).with_suffix(".py")
    if not module.startswith("leyden.") or not path.is_file():
        return None
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    return next((node for node in nodes if isinstance(node, Definition) and node.name == name), None)


def _type_of(node: ast.expr) -> Any:
    """The type that an annotation is written as; None for one that no setting has."""
    if isinstance(node, ast.BinOp):
        arms = (_type_of(node.left), _type_of(node.right))
        return arms[0] | arms[1] if arms[0] is not None else None
    if isinstance(node, ast.Subscript):
        inner = _type_of(node.slice)
        return GenericAlias(list, (inner,)) if inner is not None else None
    return _TYPES.get(node.id) if isinstance(node, ast.Name) else None


def _plain(config: Any) -> dict[str, Any]:
    tree = OmegaConf.to_container(config, resolve=False)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def _opening(text: str) -> str:
    """The comment at the top of a file, on one line."""
    lines = _PACKAGE.sub("", text, count=1).splitlines()
    end = next((place for place, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line.lstrip("# ") for line in lines[:end])


def _first_line(target: str) -> str:
    node = definition(target)
    return (ast.get_docstring(node) or "").partition("\n")[0] if node else ""


def _comments(text: str) -> Iterator[tuple[str, str]]:
    """What stands behind a value on its line, with the dotted key inside the file."""
    lines = text.splitlines()

    def below(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, str]]:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else []:
            if isinstance(value, yaml.MappingNode):
                yield from below(value, f"{prefix}{key.value}.")
            behind = lines[value.end_mark.line][value.end_mark.column :] if value.end_mark.line < len(lines) else ""
            if key.start_mark.line == value.end_mark.line and (match := re.match(r"\s+# *(.+)", behind)):
                yield f"{prefix}{key.value}", match.group(1)

    yield from below(yaml.compose(text, Loader=yaml.SafeLoader), "")


def _brought(defaults: list[Any], group: str) -> Iterator[tuple[str, str]]:
    """Files of other groups in a defaults list: `override /metric@_global_.metric: auc`, or `loss: dpo` below."""
    for entry in defaults:
        for key, choice in entry.items() if isinstance(entry, dict) else ():
            match = _BROUGHT.fullmatch(key)
            if match and choice is not None and not match.group(2).startswith("hydra"):
                path = match.group(2) if match.group(1) or not group else f"{group}/{match.group(2)}"
                yield path, f"[{', '.join(choice)}]" if isinstance(choice, list) else str(choice)
