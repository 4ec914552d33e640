"""What is installed is what was tested: every package under Leyden and its extras is pinned, at this version."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.conftest import PROJECT_ROOT

PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (PROJECT_ROOT / "constraints.txt").read_text(), re.MULTILINE)
}
PROJECT = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
UNPINNED = {"leyden", "notebook"}  # itself, and the extra that needs no version


def requirements() -> list[Requirement]:
    """Those of the package and of all its extras but the notebook's."""
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *(line for name in extras if name != "notebook" for line in extras[name])]
    return [Requirement(line) for line in lines]


def installed() -> dict[str, str]:
    """Version of each package that Leyden asks for, directly or not, as far as it is installed."""
    found: dict[str, str] = {}
    waiting = [(one, "") for one in requirements()]
    while waiting:
        need, extra = waiting.pop()
        name = canonicalize_name(need.name)
        if name in found or name == "leyden" or (need.marker and not need.marker.evaluate({"extra": extra})):
            continue
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found[name] = package.version
        waiting += [(Requirement(line), one) for line in package.requires or () for one in (need.extras or {""})]
    return found


def test_what_leyden_asks_for_is_pinned() -> None:
    lacking = [str(one) for one in requirements() if canonicalize_name(one.name) not in {*PINS, "leyden"}]
    assert not lacking
    for one in requirements():
        if one.name != "leyden":
            assert one.specifier.contains(PINS[canonicalize_name(one.name)]), one


def test_what_is_installed_for_it_is_pinned_at_this_version() -> None:
    found = installed()
    assert len(found) > 60
    assert not set(found) - set(PINS), "packages that come along and are not in constraints.txt"
    moved = {name: (version, PINS[name]) for name, version in found.items() if version.partition("+")[0] != PINS[name]}
    if moved:
        pytest.fail(f"installed, and pinned: {moved}. Run `make install`, or commit both files.")


def test_every_pin_is_one_version() -> None:
    lines = [line for line in (PROJECT_ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert len(lines) == len(PINS) > 100
