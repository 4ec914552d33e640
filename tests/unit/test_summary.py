"""The last words of a run: numbers that can be read, and a next command that a shell and Hydra take."""

from __future__ import annotations

import shlex
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from leyden.artifacts.summary import argument, number, summary

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.25, "0.2500"), (-12345.678, "-12345.6780"), (3.2e59, "3.2e+59"), (-2e6, "-2e+06"), (NAN, "nan")],
)
def test_a_large_number_is_short(value: float, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    "path",
    ["outputs/a", "outputs/a:b*c?", "outputs/a b", "outputs/a,b", "outputs/a=b", "outputs/ä", "outputs/it's", "a\\b",
     "outputs/a(b)", "outputs/[x]", "a\\\\", "outputs/$HOME", "outputs/123", 'a"b', "a{b}"],
)  # fmt: skip
def test_the_next_command_survives_shell_and_hydra(path: str) -> None:
    (word,) = shlex.split(argument("run", path))
    parsed = OverridesParser.create().parse_override(word)
    assert not parsed.is_sweep_override()
    assert parsed.value() == path


def told(before: float, after: float, **counts: int) -> str:
    module = SimpleNamespace(**{"skipped_updates": 0, "empty_updates": 0, **counts})
    history = SimpleNamespace(metric=SimpleNamespace(name="auc"), seconds=1.0)
    run: Any = SimpleNamespace(module=module, history=history, updates=1, seconds={})
    points = {"before": {"validation/auc": before}, "final": {"validation/auc": after}}
    return summary(points, "outputs/a:b*c?", run)  # type: ignore[arg-type]


def test_a_metric_without_a_value_is_said() -> None:
    assert "validation/auc has no value on these rows" in told(NAN, NAN)
    assert "no value" not in told(NAN, 0.5)
    assert "no value" not in told(0.5, NAN)


def test_updates_that_did_nothing_are_told_apart() -> None:
    assert "\n1 update in 1 s of training, 0 s in all.\n" in told(0.5, 0.5)
    assert "; 3 updates left out, as all their rows have weight 0." in told(0.5, 0.5, empty_updates=3)
    assert "; 1 update not applied (see train.log)." in told(0.5, 0.5, skipped_updates=1)
