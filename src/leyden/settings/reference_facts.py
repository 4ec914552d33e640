"""What docs/settings.md says of each key: its group, type, default, meaning, and its name in H2O LLM Studio."""

from __future__ import annotations

import re
import types
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from leyden.settings.config_files import ConfigFile, parameter_type, read_config_file, read_group
from leyden.settings.h2o_keys import TABLE
from leyden.settings.schema import Settings
from leyden.settings.wording import allowed, fields_of

NONE = "–"
OWN_TABLE = "table"  # the dataset whose defaults are shown: those of the others are for their own tables
MOST_VALUES = 3  # of one key besides its default; more are said with the choices
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


@dataclass(frozen=True)
class Facts:
    """The schema and the files of the config groups.

    Attributes:
        fields: of the schema by key.
        root: the primary config.
        groups: files of each group, in the order of the schema.
        chosen: the file that each group has by default.
        tables: what a dataset brings for a problem, by the names of both.
    """

    fields: Mapping[str, FieldInfo]
    root: ConfigFile
    groups: Mapping[str, Sequence[ConfigFile]]
    chosen: Mapping[str, str]
    tables: Mapping[tuple[str, str], ConfigFile]

    def base(self, group: str) -> str:
        """The file of a group whose values are shown as defaults; of the root, the primary config."""
        return OWN_TABLE if group == "dataset" else self.chosen[group] if group else self.root.name

    def group_of(self, key: str) -> str:
        """The group whose files give a key its value; empty for the root."""
        return max((group for group in self.groups if key.startswith(f"{_dotted(group)}.")), key=len, default="")

    def keys_of(self, group: str) -> list[str]:
        """The keys of a group, or of the root: those of the schema, then those that only files have."""
        parents = {key.rpartition(".")[0] for key in self.fields} | {_dotted(path) for path in self.groups}
        written = [key for file in self.groups.get(group, ()) for key in file.values]
        keys = dict.fromkeys([*(key for key in self.fields if key not in parents), *written])
        return [key for key in keys if self.group_of(key) == group and key not in parents]

    def own_keys(self, group: str, file: ConfigFile) -> list[str]:
        """The keys of a group that a file has and not every other one, those aside that leave the group out."""
        others = [other.values for other in self.groups[group] if other.values]
        return [key for key in self.keys_of(group) if key in file.values and not all(key in keys for keys in others)]

    def values(self, key: str) -> dict[str, Any]:
        """The value of a key in each file of its group that has it."""
        return {file.name: file.values[key] for file in self.groups.get(self.group_of(key), ()) if key in file.values}

    def others(self, key: str) -> dict[str, list[str]]:
        """Values of a key besides its default, as they are written, with the files that have them."""
        known, found = self.values(key), defaultdict[str, list[str]](list)
        base = self.base(self.group_of(key))
        for name, value in known.items():
            if base not in known or written(value) != written(known[base]):
                found[written(value)].append(name)
        return found

    def default(self, key: str) -> str:
        """The default of a key, what other choices make of it, and which of them have no such key."""
        group, known, others = self.group_of(key), self.values(key), self.others(key)
        base = self.base(group)
        known = known if group else {base: self.root.values[key]}
        reference = _REFERENCE.fullmatch(str(known.get(base)))
        own = [written(known[base])] if base in known else []
        parts = [self.default(reference.group(1))] if reference else own
        if len(others) > MOST_VALUES:
            parts.append("others with other choices")
        else:
            parts += [f"{value} with {choices(group, names)}" for value, names in others.items()]
        lacking = [file.name for file in self.groups.get(group, ()) if file.name not in known and file.values]
        if base in known and lacking and key in self.fields:
            parts.append(f"none with {choices(group, lacking)}")
        if datasets := sorted({dataset for (dataset, _), file in self.tables.items() if key in file.values}):
            parts.append(f"[for some problems otherwise](#known-tables) with {choices('dataset', datasets)}")
        return "; ".join(parts)

    def kind(self, key: str) -> str:
        """Type and range of a key: of the schema, else of the parameter that it fills, else of its value."""
        if key in self.fields:
            return type_of(self.fields[key])
        group = self.group_of(key)
        file = next(file for file in self.groups[group] if key in file.values)
        annotation = parameter_type(str(file.values.get(f"{_dotted(group)}._target_")), key.rpartition(".")[2])
        value = file.values[key]
        shown = types.GenericAlias(list, (type(value[0]),)) if isinstance(value, list) and value else type(value)
        return _kinds(shown if annotation is None else annotation)

    def meaning(self, key: str) -> str:
        """What a key is for: by the schema, by the keys that refer to it, by its comment, or by who is handed it."""
        field = self.fields.get(key)
        if field is not None and field.description:
            return field.description
        files = [self.root, *(file for group in self.groups.values() for file in group)]
        pairs = [(name, value) for file in files for name, value in file.values.items()]
        if users := dict.fromkeys(name for name, value in pairs if value == f"${{{key}}}"):
            return f"Default of {', '.join(f'`{name}`' for name in users)}."
        if comments := [file.comments[key] for file in files if key in file.comments]:
            return f"{comments[0].rstrip('.')}."
        group = self.group_of(key)
        targets = [file.values.get(f"{_dotted(group)}._target_") for file in files if key in file.values]
        return f"Handed to {', '.join(f'`{target}`' for target in dict.fromkeys(targets) if target)} as it is."


def gather(folder: Path) -> Facts:
    """Read the config groups that the schema has.

    Args:
        folder: of the config groups.

    Raises:
        ConfigError: a file does not compose.
    """
    fields = dict(fields_of(Settings))
    root = read_config_file(folder, "train")
    paths = [path for key in fields if (folder / (path := key.replace(".", "/"))).is_dir()]
    groups = {path: [_normal(file, path, fields) for file in read_group(folder, path)] for path in paths}
    first = next(file for file in groups["problem"] if file.name == root.brings["problem"])
    tables = {
        (file.name.removesuffix(f"_{problem.name}"), problem.name): file
        for file in read_group(folder, "dataset/columns")
        for problem in groups["problem"]
        if file.name.endswith(f"_{problem.name}")
    }
    return Facts(fields, root, groups, {**first.brings, **root.brings}, tables)


def foreign(key: str) -> str:
    """The names of a key, or of a group, in an experiment file of H2O LLM Studio."""
    rows = [row for row in TABLE if row.new == key]
    names = ["`problem_type`"] if key == "problem" else []
    names += [f"`{row.old}`" + (" (older versions)" if row.spec == "old" else "") for row in rows]
    return ", ".join(dict.fromkeys(names)) or NONE


def type_of(field: FieldInfo, *, nullable: bool = False) -> str:
    """Type and range of a field in words; with `nullable`, null goes too."""
    return _kinds(field.annotation, field.metadata, nullable=nullable)


def choices(group: str, names: Iterable[str]) -> str:
    """Files of a group as they are chosen, the group said once."""
    first, *rest = names
    return ", ".join(f"`{name}`" for name in (f"{group}={first}", *rest))


def written(value: Any) -> str:
    """A value in Markdown; what a file leaves to the user is named so."""
    return "must be set" if value == "???" else f"`{plain(value)}`"


def plain(value: Any) -> str:
    """A value as it stands in a file."""
    if isinstance(value, list):
        return f"[{', '.join(plain(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {plain(item)}' for key, item in value.items())}}}"
    words = {True: "true", False: "false", None: "null"}
    return words[value] if isinstance(value, bool | None) else str(value) or "''"


def _kinds(annotation: Any, metadata: Sequence[Any] = (), *, nullable: bool = False) -> str:
    """As `allowed`, with the alternatives kept apart where one of them has a comma."""
    union = get_origin(annotation) in (Union, types.UnionType)
    arms = ["null" if arm is type(None) else allowed(arm) for arm in get_args(annotation)] if union else []
    arms = (arms or [allowed(annotation, metadata)]) + (["null"] if nullable else [])
    return ("; or " if any("," in arm for arm in arms) else " or ").join(arms)


def _normal(file: ConfigFile, group: str, fields: Mapping[str, FieldInfo]) -> ConfigFile:
    """A file of a group from which several may be chosen, with the keys that all have as in the schema."""
    inner, outer = f"{_dotted(group)}.{file.name}.", f"{_dotted(group)}."
    names = {key: key.replace(inner, outer, 1) for key in file.values if key.startswith(inner)}
    own = {key: value for key, value in file.values.items() if key.startswith(outer)}
    values = {names[key] if names.get(key) in fields else key: value for key, value in own.items()}
    return replace(file, values=values)


def _dotted(group: str) -> str:
    return group.replace("/", ".")
