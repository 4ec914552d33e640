"""What becomes of each key of an old file: mapped, equal to our default, without effect, or not mapped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from leyden.settings.h2o_conditions import setting
from leyden.settings.h2o_experiment import at, is_setting, same
from leyden.settings.h2o_keys import TABLE
from leyden.settings.h2o_rules import Row
from leyden.settings.wording import show

State = Literal["mapped", "equal", "idle", "left"]


@dataclass(frozen=True)
class Old:
    """An experiment file of H2O LLM Studio, read.

    Attributes:
        problem_type: its word.
        problem: ours.
        raw: what stands in the file, by `section.key`.
        values: the same made plain, with what H2O takes for what is missing.
        added: keys that the file does not have.
        unknown: keys that H2O never had.
    """

    problem_type: str
    problem: str
    raw: Mapping[str, Any]
    values: Mapping[str, Any]
    added: frozenset[str]
    unknown: tuple[str, ...]

    def shown(self, key: str) -> str:
        """The value as it stands in the file."""
        return show(self.raw.get(key, self.values.get(key)))

    def idle(self, row: Row) -> str:
        """Why a key has no effect in H2O; empty if it has one."""
        if self.problem not in row.problems:
            return f"H2O does not read it for {self.problem_type}"
        for need in row.needs:
            value = setting(self.values, need.old)
            if not need.holds(value):
                return f"no effect in H2O with {need.old}={show(value)}"
        return ""


@dataclass(frozen=True)
class Outcome:
    """What became of a key.

    Attributes:
        old: the key.
        shown: its value as it stands in the file.
        state: mapped; equal to our default; idle: without effect in H2O too; left: not mapped.
        new: our key, or our group.
        value: ours.
        why: the reason for idle and left, a remark for mapped.
        written: whether the experiment file has a line for it; choices and what comes with them have none here.
        added: the old file does not have the key; it is H2O's default.
    """

    old: str
    shown: str
    state: State
    new: str = ""
    value: Any = None
    why: str = ""
    written: bool = False
    added: bool = False


def outcomes_of(
    old: Old, plain: Mapping[str, Any], base: Mapping[str, Any], chosen: Mapping[str, str]
) -> list[Outcome]:
    """One outcome per row of the table whose key the file has, in the order of the table.

    Args:
        old: the file.
        plain: our defaults for the problem.
        base: our defaults with the chosen files of the groups.
        chosen: those files by group.
    """
    rows = [row for row in TABLE if row.old in old.values]
    found = [_of_choice(row, old, plain, base, chosen) if row.pick else _of_key(row, old, plain, base) for row in rows]
    return [outcome for outcome in found if outcome.state == "mapped" or not outcome.added]


def written(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """What the experiment file sets, by our key."""
    return {outcome.new: outcome.value for outcome in outcomes if outcome.written}


def _of_key(row: Row, old: Old, plain: Mapping[str, Any], base: Mapping[str, Any]) -> Outcome:
    ours = row.derive(old.values) if row.derive else old.values[row.old]
    there, idle = is_setting(row.new, base), old.idle(row)
    made = partial(Outcome, row.old, old.shown(row.old), new=row.new, value=ours, added=row.old in old.added)
    if there and same(ours, at(base, row.new)):
        state: State = "equal" if same(ours, at(plain, row.new)) else "mapped"  # mapped by the choice of a file
        return made(state=state)
    if not there and same(old.values[row.old], row.off):
        return made(state="equal")
    if idle:
        return made(state="idle", why=idle)
    if not there:
        return made(state="left", why=row.why or f"Leyden has no such setting yet ({row.new})")
    return made(state="mapped", why=_remark(row, old), written=True)


def _of_choice(
    row: Row, old: Old, plain: Mapping[str, Any], base: Mapping[str, Any], chosen: Mapping[str, str]
) -> Outcome:
    assert row.pick is not None
    made = partial(Outcome, row.old, old.shown(row.old), new=row.new, value=chosen.get(row.new))
    idle, off = old.idle(row), same(old.values[row.old], row.off)
    names = () if idle else row.pick(old.values, old.problem)
    if chosen.get(row.new) in names:
        path = row.new.replace("/", ".")
        equal = same(at(plain, path), at(base, path))
        return made(state="equal" if equal else "mapped", why="" if equal else _remark(row, old))
    if off:
        return made(state="equal")
    if idle:
        return made(state="idle", why=idle)
    return made(state="left", why=f"there is no {row.new}={names[0]} for {old.problem} yet")


def _remark(row: Row, old: Old) -> str:
    value = old.values[row.old]
    return row.remarks.get(value, "") if isinstance(value, str) else ""
