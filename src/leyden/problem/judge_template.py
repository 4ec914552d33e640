"""What a judge is asked: a template with slots that each row fills, and how a score is read from the reply."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from string import Formatter

from jinja2 import StrictUndefined, TemplateError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from leyden.settings.errors import ConfigError
from leyden.settings.paths import user_path

SETTING = "metric.gpt.template"
RANGES = {"general": (0.0, 1.0), "rag": (0.0, 1.0), "two_turn": (1.0, 10.0)}
"""The templates that come with Leyden, and the lowest and highest score of each."""

MARK = "SCORE:"

_OLD_SLOTS = {"_PROMPT": "prompt", "_TARGET_TEXT": "target", "_PREDICTED_TEXT": "prediction"}
_OLD_STYLE = re.compile(r"(?<!\{)\{(?:_PROMPT|_TARGET_TEXT|_PREDICTED_TEXT)\}(?!\})")
_TEXTS = ("prompt", "target", "prediction")
# What a column may contain in a trial: most filters take it, numbers and lists of words among them.
_TRIAL = "1"
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_QUOTED = 40


@dataclass(frozen=True)
class Case:
    """One row to judge.

    Attributes:
        prompt: the conversation up to the answer, all turns of it.
        target: what the answer should be; may be empty where there is no reference.
        prediction: the answer of the model.
        cells: the row of the table by column, for slots of templates.
    """

    prompt: str
    target: str
    prediction: str
    cells: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Template:
    """A template that is known to be sound.

    Attributes:
        columns: columns of the table that have a slot.
        fill: a row to the text that is sent.
    """

    columns: frozenset[str]
    fill: Callable[[Case], str]


def read_template(name: str) -> Template:
    """A template of Leyden, or a text file of the user.

    Slots are those of jinja: `{{ prompt }}`, `{{ target }}`, `{{ prediction }}`, and `{{ row['name'] }}` for a column
    of the table. A file with `{_PROMPT}`, `{_TARGET_TEXT}` or `{_PREDICTED_TEXT}` is one of H2O LLM Studio: its slots
    have single braces, `{name}` is a column, and `{{` is a brace.

    Args:
        name: one of `RANGES`, or the path of a UTF-8 file.

    Raises:
        ConfigError: no such file, not readable, a slot that does not exist, or none for the prediction.
    """
    text = _text_of(name)
    columns, seen, fill = _old_style(name, text) if _OLD_STYLE.search(text) else _jinja(name, text)
    if "prediction" not in seen:
        raise ConfigError(
            f"{SETTING}={name!r} has no slot for the answer to judge, so every row would get the same score. Put "
            "{{ prediction }} where it belongs."
        )
    return Template(columns, fill)


def read_score(reply: str, lowest: float, highest: float) -> float:
    """The number behind the last `SCORE:`: its first word, and of `8/10` what stands before the stroke.

    Args:
        reply: of the judge.
        lowest: of the scale.
        highest: of the scale; a number outside is a misunderstanding and no score.

    Raises:
        ValueError: there is no such number; says why.
    """
    _, mark, behind = reply.rpartition(MARK)
    if not mark:
        raise ValueError(f"no {MARK} in the reply")
    word = next(iter(behind.split()), "")
    number = word.partition("/")[0]
    if not _NUMBER.fullmatch(number):
        raise ValueError(f"no number behind {MARK}, but {word[:_QUOTED]!r}")
    score = float(number)
    if not lowest <= score <= highest:
        raise ValueError(f"{MARK} {number[:_QUOTED]} is outside {lowest:g} to {highest:g}")
    return score


def _text_of(name: str) -> str:
    if name in RANGES:
        return (resources.files("leyden.problem") / "judge_templates" / f"{name}.txt").read_text(encoding="utf-8")
    path = user_path(name)
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{SETTING}={name!r} is no file. Name one, or choose {', '.join(RANGES)}.") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{SETTING}={name!r} cannot be read as UTF-8 text: {error}. Name another file.") from error


def _jinja(name: str, text: str) -> tuple[frozenset[str], frozenset[str], Callable[[Case], str]]:
    # A sandbox, because templates are passed around; it keeps them away from Python, not from being slow.
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
    )
    try:
        tree = environment.parse(text)
        compiled = environment.from_string(text)
    except TemplateError as error:
        raise ConfigError(f"{SETTING}={name!r}, line {getattr(error, 'lineno', '?')}: {error}. Mend it.") from error
    names = meta.find_undeclared_variables(tree) - environment.globals.keys()
    unknown = sorted(names - {*_TEXTS, *_OLD_SLOTS, "row"})
    if unknown:
        raise ConfigError(
            [
                f"{SETTING}={name!r}: there is no slot {{{{ {slot} }}}}. Slots are {', '.join(_TEXTS)}, and "
                f"{{{{ row[{slot!r}] }}}} for a column of the table."
                for slot in unknown
            ]
        )
    columns = frozenset(_columns_read(tree))

    def fill(case: Case) -> str:
        texts = {slot: getattr(case, slot) for slot in _TEXTS}
        return compiled.render(row=dict(case.cells), **texts, **{old: texts[new] for old, new in _OLD_SLOTS.items()})

    try:
        fill(Case(_TRIAL, _TRIAL, _TRIAL, dict.fromkeys(columns, _TRIAL)))
    except Exception as error:  # a template may fail in any way, and says why in its own words
        raise ConfigError(f"{SETTING}={name!r} cannot be filled: {error}. Mend it.") from error
    return columns, frozenset(_OLD_SLOTS.get(slot, slot) for slot in names), fill


def _columns_read(tree: nodes.Template) -> set[str]:
    found = {node.attr for node in tree.find_all(nodes.Getattr) if _is_row(node.node)}
    for node in tree.find_all(nodes.Getitem):
        if _is_row(node.node) and isinstance(node.arg, nodes.Const):
            found.add(str(node.arg.value))
    return found


def _is_row(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == "row"


def _old_style(name: str, text: str) -> tuple[frozenset[str], frozenset[str], Callable[[Case], str]]:
    try:
        pieces = [(literal, _plain_slot(*rest)) for literal, *rest in Formatter().parse(text)]
    except ValueError as error:
        raise ConfigError(
            f"{SETTING}={name!r}: {error}. Its slots are {{name}}; write {{{{ and }}}} for braces."
        ) from error
    slots = {slot for _, slot in pieces if slot is not None}

    def fill(case: Case) -> str:
        return "".join(literal + ("" if slot is None else _old_value(case, slot)) for literal, slot in pieces)

    return frozenset(slots - _OLD_SLOTS.keys()), frozenset(_OLD_SLOTS[slot] for slot in slots & _OLD_SLOTS.keys()), fill


def _plain_slot(slot: str | None, specification: str | None, conversion: str | None) -> str | None:
    if slot is not None and (not slot or specification or conversion):
        raise ValueError(f"slot {slot!r} must be a name and nothing else")
    return slot


def _old_value(case: Case, slot: str) -> str:
    text: str = getattr(case, _OLD_SLOTS[slot]) if slot in _OLD_SLOTS else case.cells[slot]
    return text


def missing_columns(template: Template, name: str, columns: Sequence[str]) -> list[str]:
    """One fault for each slot whose column the table does not have."""
    return [
        f"{SETTING}={name!r} has a slot for the column {column!r}, which the validation table lacks. It has "
        f"{', '.join(columns)}. Name a column so, or choose another template."
        for column in sorted(template.columns - set(columns))
    ]
