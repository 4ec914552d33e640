"""Faults in words: which setting, which value, what is allowed, what to do."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from leyden.settings.base import OpenGroup

_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    list: "a list such as [a,b]",
}
_SHOWN = 80
_INNER = re.compile(r"\.(_target_|scores|metrics|recommended(\..*)?)$")  # of YAML files, not of the command line
_PLURAL = re.compile(r"\b(row|sample|token|turn|cell|answer|label|update|prediction|evaluation|run|folder|text)s\b")
_BOUNDS = (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most"))
ELSEWHERE = {  # what other programs call it
    "rank": "r", "lora_rank": "r", "lora_r": "r", "lora_alpha": "alpha", "lora_dropout": "dropout",
    "lr": "learning_rate", "max_lr": "learning_rate", "decay": "weight_decay", "wd": "weight_decay",
    "warmup": "warmup_epochs", "warmup_ratio": "warmup_epochs", "warmup_steps": "warmup_epochs",
    "num_train_epochs": "epochs", "max_epochs": "epochs", "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "grad_accumulation", "accumulate_grad_batches": "grad_accumulation",
    "max_grad_norm": "gradient_clip", "gradient_clip_val": "gradient_clip", "gpus": "devices",
    "num_workers": "number_of_workers", "patience": "early_stopping_patience", "val_size": "validation_size",
    "max_seq_length": "max_length", "max_new_tokens": "max_length_inference", "torch_dtype": "dtype",
    "model": "name", "model_name": "name", "attn_implementation": "attention_implementation",
}  # fmt: skip


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean X?` for the closest legal name, or nothing when none is close.

    A key is sought in its own group first, then by its last word in every group; before that by what other programs
    call it.
    """
    group, _, word = name.rpartition(".")
    here = ELSEWHERE.get(word, word)
    names = sorted((key for key in known if key != name and not _INNER.search(key)), key=lambda key: key.count("."))
    own = {key.rpartition(".")[2]: key for key in names if key.rpartition(".")[0] == group}
    words = {key.rpartition(".")[2]: key for key in reversed(names)}
    if here != word and (same := own.get(here) or words.get(here)):
        return f" Did you mean {same}?"
    same = words.get(word)
    for table, cutoff in ((own, 0.6), ({word: same} if same else {}, 1.0), (words, 0.75)):
        if close := difflib.get_close_matches(word, list(table), n=1, cutoff=cutoff):
            return f" Did you mean {table[close[0]]}?"
    return ""


def complete(fields: Mapping[str, FieldInfo]) -> list[str]:
    """The keys that can be typed as they are: of a group of named members, such as `metric`, nothing below it can."""
    open_groups = tuple(f"{key}." for key, field in fields.items() if get_origin(field.annotation) is dict)
    return [key for key in fields if not key.startswith(open_groups)]


def siblings(key: str, fields: Mapping[str, FieldInfo]) -> str:
    """List what there is beside a key: ` lora has: r, alpha, …`."""
    group = key.rpartition(".")[0]
    while group and group not in fields:
        group = group.rpartition(".")[0]
    names = [
        name.rpartition(".")[2]
        for name in fields
        if name.rpartition(".")[0] == group and not name.endswith("._target_")
    ]
    return f" {group or 'The root'} has: {', '.join(names)}."


def is_open(key: str, fields: Mapping[str, FieldInfo], *, always: bool = True) -> bool:
    """Whether a key stands in a group that hands further keys on, such as `optimizer`.

    Args:
        key: dotted.
        fields: of the schema.
        always: whichever file of the group is chosen; false: with one of them, as in `lora`.
    """
    group = key.rpartition(".")[0]
    while group:
        if group in fields:
            annotation = fields[group].annotation
            kinds = [issubclass(kind, OpenGroup) for kind in groups_in(annotation)]
            return get_origin(annotation) is dict or (bool(kinds) and (all(kinds) if always else any(kinds)))
        group = group.rpartition(".")[0]
    return False


def allowed(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Say which values an annotation admits: `a whole number, at least 1`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *bounds = get_args(annotation)
        extra = [part for bound in bounds for part in getattr(bound, "metadata", [bound])]
        return allowed(inner, [*extra, *metadata])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys("null" if arm is type(None) else allowed(arm) for arm in get_args(annotation)))
    if origin is Literal:
        words = [str(value) for value in get_args(annotation)]
        return words[0] if len(words) == 1 else "one of " + ", ".join(words)
    if origin is list:
        return f"a list such as [a,b], each {allowed(get_args(annotation)[0])}"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "a group of keys"
    words = [_NAMES.get(annotation, str(annotation))]
    limits = [(word, getattr(part, name, None)) for part in metadata for name, word in _BOUNDS]
    words += [f"{word} {limit}" for word, limit in limits if limit is not None]
    if any(getattr(m, "min_length", 0) for m in metadata):
        words.append("not empty")
    return ", ".join(words)


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of a settings tree with its field, groups before their members: `lora`, `lora.r`, …."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        yield key, field
        for group in groups_in(field.annotation):
            yield from fields_of(group, f"{key}.")


def groups_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The groups of keys that an annotation admits, itself or as one of several kinds of value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for arm in get_args(annotation):
        yield from groups_in(arm)


def faults_of(error: ValidationError, model: type[BaseModel]) -> dict[str, str]:
    """Turn pydantic's errors into one sentence per setting, by its key and in the order of the schema."""
    fields = dict(fields_of(model))
    sentences: dict[str, str] = {}
    for item in error.errors(include_url=False):
        location = [str(part) for part in item["loc"] if not str(part).startswith("<")]  # which kind of a group
        key = ".".join(location)
        while key and key not in fields and item["type"] != "extra_forbidden":
            key = key.rpartition(".")[0]
        sentences.setdefault(key, _sentence(key, item["type"], item["input"], fields))
    return sentences


def _sentence(key: str, kind: str, value: Any, fields: dict[str, FieldInfo]) -> str:
    if kind == "extra_forbidden":
        return f"{key} is not a setting.{nearest(key, complete(fields)) or siblings(key, fields)}"
    field = fields[key]
    may_be = allowed(field.annotation, field.metadata)
    about = f" ({field.description.rstrip('.')})" if field.description else ""
    if kind == "missing" or value == "???":
        return f"{key} is not set{about}. Set {key}=…: {may_be}."
    takes_text = str in (field.annotation, *get_args(field.annotation)) and isinstance(value, bool | int | float)
    cure = f" For text put it in two pairs of quotes: \"{key}='{show(value)}'\"." if takes_text else ""
    return f"{key}={show(value)} is not allowed{about}. Allowed: {may_be}.{cure}"


def counted(count: int, what: str) -> str:
    """A number with what is counted: `1,200 rows that were cut`, `1 row that was cut`."""
    noun = _PLURAL.sub(r"\1", what, count=1) if count == 1 else what
    return f"{count:,} {noun}"


def show(value: Any) -> str:
    """Write a value the way the command line takes it, shortened to 80 characters."""
    text = {True: "true", False: "false", None: "null"}.get(value) if isinstance(value, bool | None) else None
    text = text or (repr(value) if isinstance(value, str) else str(value))
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
