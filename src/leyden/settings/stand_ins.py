"""Legal values in the place of refused ones: what is wrong elsewhere is then found in the same go."""

from __future__ import annotations

import operator
import types
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from leyden.settings.wording import fields_of

_NUMBERS = (1, 0, 0.5, 1_000_000)


def repaired(tree: dict[str, Any], refused: Iterable[str], model: type[BaseModel]) -> dict[str, Any]:
    """A copy of a settings tree with a stand-in for each refused key, and without those that are no settings."""
    fields = dict(fields_of(model))
    copy = _copied(tree)
    for key in refused:
        *groups, name = key.split(".")
        place = copy
        for group in groups:
            inner = place.get(group)
            place = inner if isinstance(inner, dict) else place.setdefault(group, {})
        if key in fields:
            place[name] = stand_in(fields[key].annotation, fields[key].metadata)
        else:
            place.pop(name, None)
    return copy


def stand_in(annotation: Any, metadata: Iterable[Any] = ()) -> Any:
    """Some value that an annotation of the schema admits."""
    origin, arms = get_origin(annotation), get_args(annotation)
    value: Any = False if annotation is bool else "x"
    if origin is Annotated:
        value = stand_in(arms[0], [part for bound in arms[1:] for part in getattr(bound, "metadata", [bound])])
    elif origin in (Union, types.UnionType):
        value = None if type(None) in arms else stand_in(arms[0], metadata)
    elif origin is Literal:
        value = arms[0]
    elif origin is list:
        value = [stand_in(arms[0])]
    elif origin is dict:
        value = {"x": stand_in(arms[1])} if any(getattr(part, "min_length", 0) for part in metadata) else {}
    elif annotation in (int, float):
        value = next(annotation(number) for number in _NUMBERS if _within(number, list(metadata)))
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        needed = {field.alias or name: field for name, field in annotation.model_fields.items() if field.is_required()}
        value = {name: stand_in(field.annotation, field.metadata) for name, field in needed.items()}
    return value


def _within(number: float, bounds: list[Any]) -> bool:
    tests = {"gt": operator.gt, "ge": operator.ge, "lt": operator.lt, "le": operator.le}
    limits = [(test, getattr(bound, name, None)) for bound in bounds for name, test in tests.items()]
    return all(limit is None or test(number, limit) for test, limit in limits)


def _copied(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, dict) else value for key, value in tree.items()}
