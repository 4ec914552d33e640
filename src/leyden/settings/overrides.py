"""The command line: what it says, in which variants, and which of its words name nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Quote, QuotedString
from hydra.errors import HydraException
from pydantic.fields import FieldInfo

from leyden.settings.base import Verbatim
from leyden.settings.wording import complete, is_open, nearest, siblings


@lru_cache(maxsize=4096)
def parsed(text: str) -> Override:
    """An override by Hydra's grammar, each text once in a process: the parser takes longer than composing does.

    Raises:
        HydraException: it cannot be read.
    """
    return OverridesParser.create().parse_override(text)


def read_overrides(texts: Iterable[str]) -> tuple[list[Override], list[str]]:
    """Parse arguments by Hydra's grammar; return those that can be read, and one sentence for each other one."""
    found, faults = [], []
    for text in texts:
        try:
            found.append(parsed(text))
        except HydraException as error:
            if "=" not in text:
                faults.append(f"{text}: this is no setting. Write key=value, such as lora.r=8.")
            else:
                cause = " ".join(str(error).split("\nSee ")[0].split())
                faults.append(
                    f"{text}: this cannot be read ({cause}). Close every bracket and quote; put a value with signs "
                    "other than letters and digits in two pairs of quotes, such as \"key='<|a|>'\"."
                )
    return found, faults


def with_texts(arguments: Iterable[str], fields: Mapping[str, FieldInfo]) -> list[str]:
    """The arguments with the values of free texts in quotes, so that Hydra reads no list, number or reference there.

    So is a path that begins with a home, `~/rows.csv`, which Hydra cannot read. A value that stands in quotes already,
    and `null`, stay as they are.

    Args:
        arguments: of the command line.
        fields: of the schema, by key.
    """
    texts = {key for key, field in fields.items() if any(isinstance(part, Verbatim) for part in field.metadata)}
    found = []
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if sign and (key in texts or value.startswith("~")) and value != "null" and not _is_quoted(argument):
            # a reference has its dollar escaped, and the backslashes in front of it, which count there alone
            plain = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", value)
            argument = f"{key}={QuotedString(plain, Quote.single).with_quotes()}"
        found.append(argument)
    return found


def typed_keys(overrides: Iterable[Override]) -> frozenset[str]:
    """The keys that were given a value: `lora.r=8` gives `lora.r`, `~optimizer.eps` gives none."""
    return frozenset(override.key_or_group for override in overrides if not override.is_delete())


def variants(overrides: Sequence[Override]) -> list[list[str]]:
    """The command line with every sweep at its first value, and again for each other one; of an interval, its ends."""
    choices = [_values(override) for override in overrides]
    first = [values[0] for values in choices]
    others = [
        [*first[:place], value, *first[place + 1 :]] for place, values in enumerate(choices) for value in values[1:]
    ]
    return [first, *others]


def sizes(overrides: Iterable[Override]) -> list[int]:
    """How many values each sweep lists; 1 where it gives a range of numbers."""
    found = [override for override in overrides if override.is_sweep_override() and override.is_discrete_sweep()]
    return [len(_values(override)) for override in found]


def misfits(overrides: Iterable[Override], folders: Sequence[Path], fields: Mapping[str, FieldInfo]) -> dict[str, str]:
    """Overrides that name no setting, no group or no file of a group: text to sentence.

    Args:
        overrides: without sweeps.
        folders: of the config groups.
        fields: the settings there are, by key.
    """
    found = {str(override.input_line): _misfit(override, folders, fields) for override in overrides}
    return {text: sentence for text, sentence in found.items() if sentence}


def choices_of(folders: Iterable[Path], group: str) -> list[str]:
    """The files of a config group that are meant to be chosen."""
    files = [file for folder in folders for file in (folder / group).glob("*.yaml")]
    return sorted({file.stem for file in files if not file.stem.startswith("_")})


def keys_of_choices(folders: Iterable[Path], group: str) -> dict[str, list[str]]:
    """The keys at the top of each file of a config group."""
    return {
        choice: re.findall(r"^(\w+):", (folder / group / f"{choice}.yaml").read_text(encoding="utf-8"), re.MULTILINE)
        for folder in folders
        for choice in choices_of([folder], group)
    }


def is_group(folders: Iterable[Path], key: str) -> bool:
    """Whether a key names a folder of config files."""
    return any((folder / key).is_dir() for folder in folders)


def as_list(override: Override) -> str:
    """A sweep of values written as one list, for those who meant a list."""
    return f"{override.get_key_element()}=[{override.get_value_string()}]"


def _is_quoted(argument: str) -> bool:
    try:
        override = parsed(argument)
    except HydraException:
        return False
    return not override.is_sweep_override() and override.get_value_string()[:1] in ("'", '"')


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.input_line or ""]
    value = override.value()
    if isinstance(value, IntervalSweep):
        return [f"{override.get_key_element()}={end}" for end in (value.start, value.end)]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _misfit(override: Override, folders: Sequence[Path], fields: Mapping[str, FieldInfo]) -> str:
    key, text = override.key_or_group, str(override.input_line)
    if key.split(".")[0].split("/")[0] == "hydra" or override.is_sweep_override():
        return ""
    if is_group(folders, key) and not isinstance(override.value(), dict):
        return _wrong_choice(override, folders)
    fault = ""
    if "/" in key:
        fault = f"{text}: {key} is no group of settings."
    elif override.is_delete():
        if not _is_removable(key, fields):
            fault = f"{text}: this setting cannot be taken away. Leave it at its default, or give it a value."
    elif key not in fields and not is_open(key, fields) and not _fits_a_choice(override, folders, fields):
        fault = f"{key} is not a setting.{nearest(key, complete(fields)) or siblings(key, fields)}"
    elif key in fields and (override.is_add() or override.is_force_add()) and not is_open(key, fields):
        fault = f"{text}: {key} is there already. Leave out the plus sign."
    return fault


def _fits_a_choice(override: Override, folders: Sequence[Path], fields: Mapping[str, FieldInfo]) -> bool:
    """Whether a key may be handed on, in a group whose files do so or not: it is added, or stands in one of them."""
    key = override.key_or_group
    group, _, name = key.rpartition(".")
    there = keys_of_choices(folders, group.replace(".", "/")).values()
    return is_open(key, fields, always=False) and (override.is_add() or any(name in names for names in there))


def _is_removable(key: str, fields: Mapping[str, FieldInfo]) -> bool:
    """Whether a key may go: it stands beside a `_target_`, as what that is handed, and the schema can do without it."""
    handed_on = f"{key.rpartition('.')[0]}._target_" in fields
    return handed_on and (not fields[key].is_required() if key in fields else is_open(key, fields, always=False))


def _wrong_choice(override: Override, folders: Sequence[Path]) -> str:
    group, value = override.key_or_group, override.value()
    there = choices_of(folders, group)
    allowed = f"Allowed: {', '.join(there)}." if there else f"There is no file in conf/{group} yet."
    if override.is_delete() or override.is_add() or override.is_force_add():
        return f"{override.input_line}: choose a file of conf/{group} by {group}=NAME. {allowed}"
    names = value if isinstance(value, list) else [value]
    if names and all(str(name) in there for name in names):
        return ""
    near = nearest(str(value), there) if isinstance(value, str) or value is None else ""
    hint = " A hub id or path goes into backbone.name." if group == "backbone" and "/" in str(value) else ""
    return f"{group}={override.get_value_string()} does not exist.{near} {allowed}{hint}"
