"""The settings of a run: what differs from the defaults, what they became, how to repeat it, and all of them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

from leyden.report.page import Section, fill
from leyden.report.run_files import Json, RunFiles
from leyden.settings.composition import compose_config
from leyden.settings.config_files import flat
from leyden.settings.overrides import is_group
from leyden.settings.read import dump, validate
from leyden.settings.read_predict import CONFIG_DIR
from leyden.settings.resuming import PLACE, by_key
from leyden.settings.schema import Settings
from leyden.settings.wording import fields_of

Flat = Mapping[str, Any]
TYPED, CHOSEN, FOUND = "typed", "choice", "found"
INNER = re.compile(r"\.(_target_|scores|metrics|recommended(\..*)?)$")  # of the files of choices, not of people
UNSET = "???"  # what a default is that has to be typed


@dataclass(frozen=True)
class Difference:
    """A setting that is not what it is without any word on the command line.

    Attributes:
        key: dotted.
        value: of the run.
        default: what it is otherwise; a dash where it is not there at all.
        why: who says so.
    """

    key: str
    value: str
    default: str
    why: str


def section(run: RunFiles) -> Section | None:
    """Settings, those that differ first; None where the run has none that can be read."""
    if run.config is None:
        return None
    manifest = run.manifest or {}
    values = dict(flat(dict(run.config)))
    found = _defaults(tuple(run.typed))
    body = fill(
        "configuration", choices=[text for text in run.typed if _is_choice(text)], known=isinstance(found, tuple),
        why_not="" if isinstance(found, tuple) else found,
        differences=list(differences(values, run.typed, *found)) if isinstance(found, tuple) else [],
        effective=list(_effective(manifest.get("effective") or {})), resumes=list(_changes(run.resumes)),
        command=manifest.get("command"), repeat=repeat(run), facts=list(_facts(manifest)),
        packages=(manifest.get("packages") or {}).items(),
        groups=[(name, list(rows)) for name, rows in groupby(_everything(values), key=lambda row: row[0])],
    )  # fmt: skip
    return Section("configuration", "Configuration", body)


def differences(values: Flat, typed: Sequence[str], plain: Flat, chosen: Flat) -> Iterator[Difference]:
    """Settings that are not the defaults, typed ones first, then those that choices brought.

    Args:
        values: of the run.
        typed: the overrides of its command line.
        plain: values without any override.
        chosen: values with the choices of the command line alone.
    """
    words, rows = by_key(typed), []
    for key, value in values.items():
        if key in PLACE or INNER.search(key) or (key in plain and _same(value, plain[key])):
            continue
        if any(key == word or key.startswith(f"{word}.") for word in words if not _is_choice(words[word])):
            why = TYPED
        elif key in chosen and _same(value, chosen[key]):
            why = CHOSEN
        else:
            why = FOUND
        rows.append(Difference(key, shown_value(value), _default(plain, key), why))
    yield from sorted(rows, key=lambda row: (TYPED, CHOSEN, FOUND).index(row.why))


def _default(plain: Flat, key: str) -> str:
    if key not in plain:
        return "–"
    return "has to be set" if plain[key] == UNSET else shown_value(plain[key])


def repeat(run: RunFiles) -> str:
    """The command that trains the same again."""
    folder, name = str(run.folder), f"experiment_name={run.name}-again"
    said = (run.manifest or {}).get("repeat")
    return str(said or f"python train.py --config-dir {shlex.quote(folder)} --config-name config {shlex.quote(name)}")


def shown_value(value: Any) -> str:
    """A setting as YAML has it, on one line."""
    if isinstance(value, str):
        return (
            value if value and value == value.strip() and "\n" not in value else json.dumps(value, ensure_ascii=False)
        )
    return json.dumps(value, ensure_ascii=False, default=str)


@cache
def _defaults(typed: tuple[str, ...]) -> tuple[Flat, Flat] | str:
    """The settings without any override, and with the choices of a command line alone; or why they are not known."""
    made: list[Flat] = []
    for overrides in ([], [text for text in typed if _is_choice(text)]):
        config, faults = compose_config("train", overrides, CONFIG_DIR)
        settings, refused = (None, {}) if config is None else validate(config, Settings)
        if settings is None or faults:
            return " ".join([*faults, *refused.values()])
        made.append({**dict(flat(dump(settings))), **dict.fromkeys(refused, UNSET)})  # those have a stand-in there
    return made[0], made[1]


def _is_choice(text: str) -> bool:
    """Whether an override names a file of a group: `problem=dpo`."""
    return is_group([CONFIG_DIR], text.lstrip("+~").partition("=")[0].partition("@")[0])


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _effective(found: Mapping[str, Json]) -> Iterator[tuple[str, str, str, str]]:
    for key, said in found.items():
        yield key, shown_value(said.get("requested")), shown_value(said.get("effective")), str(said.get("reason") or "")


def _changes(resumes: Sequence[Json]) -> Iterator[tuple[str, str, str, str]]:
    """What was changed when the run was gone on with: after which update, key, old and new value."""
    for one in resumes:
        for key, (old, new) in (one.get("changes") or {}).items():
            yield str(one.get("after_update")), key, shown_value(old), shown_value(new)


def _facts(manifest: Json) -> Iterator[tuple[str, str]]:
    """Where the run came from."""
    for name in ("leyden", "python", "platform", "git_commit", "processes", "threads"):
        if manifest.get(name) is not None:
            yield name.replace("_", " "), str(manifest[name])
    if seed := manifest.get("seed"):
        drawn = f", drawn for {seed['requested']}" if seed["requested"] != seed["effective"] else ""
        yield "seed", f"{seed['effective']}{drawn}"
    for part, table in (manifest.get("data") or {}).items():
        yield f"{part} table", f"{table['path']} (sha256 {table['sha256']})"


def _everything(values: Flat) -> Iterator[tuple[str, str, str, str]]:
    """All settings: group, key, value, and what the schema says of it."""
    said = {key: field.description or "" for key, field in fields_of(Settings)}
    rows = [(key.partition(".")[0] if "." in key else "run", key, shown_value(value)) for key, value in values.items()]
    for group, key, value in sorted(rows, key=lambda row: row[0] != "run"):
        yield group, key, value, said.get(key, "")
