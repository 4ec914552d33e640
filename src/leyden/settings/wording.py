"""Faults in words: which setting, which value, what is allowed, what to do."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

_NAMES: dict[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_BOUNDS = (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most"))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean X?` for the closest legal name, or nothing when none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]}?" if close else ""


def allowed(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Say which values an annotation admits: `a whole number, at least 1`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *bounds = get_args(annotation)
        extra = [part for bound in bounds for part in getattr(bound, "metadata", [bound])]
        return allowed(inner, [*extra, *metadata])
    if origin in (Union, types.UnionType):
        return " or ".join("null" if arm is type(None) else allowed(arm) for arm in get_args(annotation))
    if origin is Literal:
        return "one of " + ", ".join(str(value) for value in get_args(annotation))
    if origin is list:
        return f"a list, each {allowed(get_args(annotation)[0])}"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "a group of keys"
    words = [_NAMES.get(annotation, str(annotation))]
    words += [f"{word} {getattr(m, name)}" for m in metadata for name, word in _BOUNDS if getattr(m, name, None) is not None]
    if any(getattr(m, "min_length", 0) for m in metadata):
        words.append("not empty")
    return ", ".join(words)


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of a settings tree with its field, groups before their members: `lora`, `lora.r`, …."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        yield key, field
        for arm in (field.annotation, *get_args(field.annotation)):
            if isinstance(arm, type) and issubclass(arm, BaseModel):
                yield from fields_of(arm, f"{key}.")


def faults_of(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Turn pydantic's errors into one sentence per setting, in the order of the schema."""
    fields = dict(fields_of(model))
    sentences: dict[str, str] = {}
    for item in error.errors(include_url=False):
        location = [str(part) for part in item["loc"]]
        key = ".".join(location)
        while key and key not in fields and item["type"] != "extra_forbidden":
            key = key.rpartition(".")[0]
        sentences.setdefault(key, _sentence(key, item["type"], item["input"], fields))
    return list(sentences.values())


def _sentence(key: str, kind: str, value: Any, fields: dict[str, FieldInfo]) -> str:
    if kind == "extra_forbidden":
        siblings = [name for name in fields if name.rpartition(".")[0] == key.rpartition(".")[0]]
        return f"{key} is not a setting.{nearest(key, siblings) or nearest(key, fields)}"
    field = fields[key]
    may_be = allowed(field.annotation, field.metadata)
    about = f" ({field.description.rstrip('.')})" if field.description else ""
    if kind == "missing" or value == "???":
        return f"{key} is not set{about}. Set {key}=…: {may_be}."
    return f"{key}={show(value)} is not allowed{about}. Allowed: {may_be}."


def show(value: Any) -> str:
    """Write a value the way the command line takes it, shortened to 80 characters."""
    text = {True: "true", False: "false", None: "null"}.get(value) if isinstance(value, bool | None) else None
    text = text or (repr(value) if isinstance(value, str) else str(value))
    return text if len(text) <= 80 else text[:77] + "…"
