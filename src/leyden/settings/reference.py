"""The page docs/settings.md as text: of each group, the choices there are and a table of its keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from leyden.settings.base import OpenGroup
from leyden.settings.config_files import ConfigFile, read_config_file, read_group, read_sweep
from leyden.settings.h2o_rules import LOSSES, METRICS, OPTIMIZERS, PROBLEMS
from leyden.settings.overrides import choices_of
from leyden.settings.reference_facts import MOST_VALUES, NONE, Facts, choices, foreign, gather, plain, type_of, written
from leyden.settings.schema import ExportSettings, PredictSettings
from leyden.settings.wording import fields_of, groups_in

KEYS = ("key", "type and range", "default", "meaning", "in H2O LLM Studio")
WORDS: dict[str, Sequence[Mapping[str, str]]] = {
    "problem": [PROBLEMS],
    "problem/loss": [*LOSSES.values()],
    "metric": [*METRICS.values()],
    "optimizer": [OPTIMIZERS],
}
INTRODUCTION = """\
# Settings

Every key of `train.py` and, at the end, of `predict.py`. Search for its full name, such as `lora.r`. This page is made
by `make docs` from the code and from `conf`: change those, not the page.

- `KEY=VALUE` sets a key, and `GROUP=NAME` chooses a file of `conf/GROUP`: `python train.py problem=dpo lora.r=8`. A
  value with signs other than letters and digits goes into two pairs of quotes:
  `"dataset.text_prompt_start='<|user|>'"`.
- **Default** is what holds for a table of your own, `dataset=table`, with the default choice of every other group;
  what another choice makes of it follows. `null` is no value, `''` is empty text.
- **In H2O LLM Studio** is the name in an experiment file of that program, with its section; – where it has none. How
  such a file becomes one of Leyden, and what is not mapped: [Experiments of H2O LLM Studio](h2o.md)."""
KNOWN_TABLES = """\
### Known tables

What a dataset brings for a problem, where `conf/dataset/columns` has a file for the two."""
EXPERIMENTS = """\
## experiment

Named differences, chosen by `experiment=NAME`; nothing is chosen by default."""
SWEEPS = """\
## sweep

Searches over settings, chosen by `sweep=NAME`; nothing is chosen by default. How to search, and how to make a space of
your own: [Sweeps](sweeps.md)."""
PREDICTION = """\
## predict.py

Keys of `python predict.py run=outputs/NAME dataset.path=new.csv`. `run` must be set, and one of `dataset.path`,
`prompt` and `mode=chat` ([Chat](chat.md)). `prompt` and `system` are taken as they are typed. Below `dataset`,
`tokenizer` and `generation`, `null` stands for what the run was trained with."""

EXPORT = """\
## leyden.export

Keys of `python -m leyden.export run=outputs/NAME merge=true`; `run` must be set. What is checked:
[Export](export.md)."""


def settings_page(folder: Path) -> str:
    """The page in Markdown; the same code and files give the same text.

    Args:
        folder: of the config groups.

    Raises:
        ConfigError: a file of a group does not compose.
    """
    facts = gather(folder)
    titles = ["Root", *facts.groups, "experiment", "sweep", "predict.py", "leyden.export"]
    parts = [INTRODUCTION, "Contents: " + " · ".join(f"[{title}](#{_anchor(title)})" for title in titles)]
    parts += ["## Root", _keys(facts, "")]
    for group in facts.groups:
        parts += _group(facts, group)
    experiments = read_group(folder, "experiment")
    parts += [EXPERIMENTS, _table(("choice", "what it is"), [(f"`{file.name}`", file.words) for file in experiments])]
    parts += [SWEEPS, *_sweeps(folder)]
    parts += [PREDICTION, _table(KEYS, _prediction(facts, read_config_file(folder, "predict")))]
    fields = dict(fields_of(ExportSettings))
    rows = [
        (f"`{key}`", type_of(fields[key]), written(value), str(fields[key].description), NONE)
        for key, value in read_config_file(folder, "export").values.items()
    ]
    parts += [EXPORT, _table(KEYS, rows)]
    return "\n\n".join(parts) + "\n"


def _group(facts: Facts, group: str) -> Iterator[str]:
    """Heading, choices and keys of a group."""
    path = group.replace("/", ".")
    model, repeated = _model(facts.fields[path])
    yield f"## {group}"
    yield (model.__doc__ or "").partition("\n")[0]
    if any(file.words for file in facts.groups[group]):
        yield _chosen(facts, group)
        yield _choices(facts, group)
    if repeated:
        yield f"Several at once are a list, `{group}=[A,B]`. NAME below is that of any of them."
    if any(issubclass(kind, OpenGroup) for kind in groups_in(facts.fields[path].annotation)):
        inner = f"{path}.NAME" if repeated else path
        yield f"What `_target_` names may have further keys: `+{inner}.KEY=VALUE` hands one on as it is."
    yield _keys(facts, group, f"{path}.NAME." if repeated else "")
    if group == "dataset" and facts.tables:
        yield KNOWN_TABLES
        yield _table(("choices", "what it is", "values"), list(_known_tables(facts)))


def _chosen(facts: Facts, group: str) -> str:
    """Which file a group has by default, and with which choices it has another."""
    others = [
        f"`{file.brings[group]}` with {choices(other, [file.name])}"
        for other, files in facts.groups.items()
        for file in files
        if file.brings.get(group, facts.chosen[group]) != facts.chosen[group]
    ]
    name = foreign(group)
    words = [f"Default: {'; '.join([choices(group, [facts.chosen[group]]), *others])}."]
    if facts.base(group) != facts.chosen[group]:
        words.append(f"The defaults of the keys are those of {choices(group, [facts.base(group)])}.")
    return " ".join(words + ([f"In H2O LLM Studio: {name}."] if name != NONE else []))


def _choices(facts: Facts, group: str) -> str:
    """The files of a group: what each is, what comes with it, and its name in H2O LLM Studio."""
    many = [
        key for key in facts.keys_of(group) if len(facts.others(key)) > MOST_VALUES and not key.endswith("_target_")
    ]
    rows = []
    for file in facts.groups[group]:
        brought = [choices(other, [name]) for other, name in file.brings.items()]
        shown = [_own(facts, key, group, file) for key in facts.own_keys(group, file)]
        shown += [f"`{_below(key, group)}={plain(file.values[key])}`" for key in many if key in file.values]
        words = [word for table in WORDS.get(group, ()) for word, name in table.items() if name == file.name]
        names = ", ".join(f"`{word}`" for word in dict.fromkeys(words))
        rows.append((f"`{file.name}`", file.words, ", ".join([*brought, *shown]) or NONE, names or NONE))
    heads = ("choice", "what it is", "comes with", "in H2O LLM Studio")
    return _table(heads, rows) if group in WORDS else _table(heads[:3], [row[:3] for row in rows])


def _own(facts: Facts, key: str, group: str, file: ConfigFile) -> str:
    """A key that not every file of a group has; with its comment, unless that is the meaning of the key anyway."""
    comment = file.comments.get(key) if key in facts.fields else None
    return f"`{_below(key, group)}`" + (f" ({comment})" if comment else "")


def _below(key: str, group: str) -> str:
    return key.removeprefix(f"{group.replace('/', '.')}.")


def _keys(facts: Facts, group: str, repeated: str = "") -> str:
    """The keys of a group; those of the schema below another beginning, if each of several files has them."""
    keys = facts.keys_of(group)
    names = [repeated + _below(key, group) if repeated and key in facts.fields else key for key in keys]
    rows = [
        (f"`{n}`", facts.kind(k), facts.default(k), facts.meaning(k), foreign(k))
        for n, k in zip(names, keys, strict=True)
    ]
    return _table(KEYS, rows)


def _known_tables(facts: Facts) -> Iterator[Sequence[str]]:
    for (dataset, problem), file in facts.tables.items():
        values = [f"`{key}={plain(value)}`" for key, value in file.values.items()]
        yield f"`dataset={dataset} problem={problem}`", file.words, ", ".join(values)


def _sweeps(folder: Path) -> Iterator[str]:
    """The spaces that are searched, and the keys of every search."""
    files = [read_sweep(folder, name) for name in choices_of([folder], "sweep")]
    spaces = [", ".join(f"`{key}={plain(value)}`" for key, value in file.values.items()) for file in files]
    rows = [(f"`{file.name}`", file.words, space) for file, space in zip(files, spaces, strict=True)]
    yield _table(("choice", "what it is", "what it searches"), rows)
    common = read_sweep(folder, "_optuna")
    own = []
    for key, value in common.values.items():
        comment = common.comments.get(key) or common.comments[key.rpartition(".")[0]]
        own.append((f"`{key}`", written(value), f"{comment}."))
    yield _table(("key", "default", "meaning"), own)


def _prediction(facts: Facts, file: ConfigFile) -> Iterator[Sequence[str]]:
    """The keys of a prediction; one without words of its own has type, range and meaning of the training's."""
    fields = dict(fields_of(PredictSettings))
    for key, value in file.values.items():
        own = fields[key].description
        kind = type_of(fields[key]) if own else type_of(facts.fields[key], nullable=True)
        yield f"`{key}`", kind, written(value), own or facts.meaning(key), foreign(key)


def _model(field: FieldInfo) -> tuple[type[BaseModel], bool]:
    """The schema of a group, and whether the group may have it several times, by name."""
    return next(groups_in(field.annotation)), get_origin(field.annotation) is dict


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
