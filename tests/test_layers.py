"""The shape of the source: import direction, sizes, names. The files are discovered, never listed."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "leyden"
FILES = sorted(SOURCE.rglob("*.py"))
ENTRIES = [ROOT / "train.py", ROOT / "predict.py"]
ROOMS = ("settings", "data", "backbone", "problem", "training", "report", "artifacts")
PURE = {"losses", "metrics", "scores"}
HEAVY = {"torch", "lightning", "pytorch_lightning", "transformers", "peft", "torchmetrics", "pandas"}
LIGHT = {"settings": HEAVY, "report": HEAVY - {"pandas"} | {"plotly"}}  # rooms that start in a second, without these
FORBIDDEN_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "managers"}
DATA_SUFFIXES = {".csv", ".jsonl", ".parquet", ".png", ".svg", ".gguf"}
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b")
MACHINE_PATH = re.compile(r"(?<![\w.$})>*~-])/(?:work|workspace|root|home|Users|opt|mnt|scratch)(?![\w.-])")

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def module_name(file: Path) -> str:
    parts = file.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def imported_modules(tree: ast.AST) -> set[str]:
    """Every module named by an import, also inside functions; `from a import b` gives both `a` and `a.b`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def imported_parts(tree: ast.AST, package: str) -> set[str]:
    """The parts of a package that are imported: `leyden` and `from leyden.data.table import f` give `data`."""
    start = package + "."
    return {name.removeprefix(start).split(".")[0] for name in imported_modules(tree) if name.startswith(start)}


def files_of(room: str) -> list[Path]:
    files = [file for file in FILES if file.is_relative_to(SOURCE / room)]
    assert files, f"src/leyden/{room} holds no Python file"
    return files


def own_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, without those of the docstring: a long explanation is no long function."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is None:
        return lines
    docstring = function.body[0]
    return lines - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1)


@pytest.mark.parametrize(
    ("code", "package", "expected"),
    [
        ("from leyden.data.trees import Tree", "leyden", {"data"}),
        ("import leyden.training.run as r", "leyden", {"training"}),
        ("from leyden import problem, data", "leyden", {"problem", "data"}),
        ("def f():\n    from leyden.artifacts import report", "leyden", {"artifacts"}),
        ("from leydenish.data import x\nimport torch", "leyden", set()),
        ("from leyden.problem import dpo", "leyden.problem", {"dpo"}),
    ],
)
def test_the_import_walk_sees_every_form(code: str, package: str, expected: set[str]) -> None:
    assert imported_parts(ast.parse(code), package) == expected


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_a_later_room(room: str) -> None:
    later = set(ROOMS[ROOMS.index(room) + 1 :])
    for file in files_of(room):
        wrong = imported_parts(parse(file), "leyden") & later
        assert not wrong, f"{file.relative_to(ROOT)} imports {sorted(wrong)}: those rooms come after {room}."


def test_imports_are_absolute() -> None:
    assert FILES
    wrong = [file.name for file in FILES if any(name.startswith(".") for name in imported_modules(parse(file)))]
    assert not wrong, f"relative imports in {wrong}"


@pytest.mark.parametrize("room", LIGHT)
def test_light_rooms_name_no_heavy_library(room: str) -> None:
    for file in files_of(room):
        wrong = {name.split(".")[0] for name in imported_modules(parse(file))} & LIGHT[room]
        assert not wrong, f"{file.relative_to(ROOT)} imports {sorted(wrong)}; {room} answers before those load."


@pytest.mark.parametrize("room", LIGHT)
def test_importing_a_light_room_loads_no_heavy_library(room: str) -> None:
    modules = [module_name(file) for file in files_of(room) if file.stem != "__main__"]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print(sorted(set(sys.modules) & {LIGHT[room]!r}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_report_is_made_of_files_and_knows_settings_alone() -> None:
    for file in files_of("report"):
        rooms = imported_parts(parse(file), "leyden")
        assert rooms <= {"settings", "report"}, f"{file.name} imports {sorted(rooms)}; a page is made of files alone."


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_every_module_imports(file: Path) -> None:
    importlib.import_module(module_name(file))


def test_losses_metrics_and_scores_know_torch_alone() -> None:
    files = [file for file in files_of("problem") if file.stem in PURE]
    assert {file.stem for file in files} == PURE
    for file in files:
        modules = imported_modules(parse(file))
        parts = imported_parts(parse(file), "leyden.problem")
        assert parts <= PURE, f"{file.name} imports {sorted(parts)} of its room"
        foreign = {name for name in modules if name.split(".")[0] not in {*sys.stdlib_module_names, "torch", "leyden"}}
        assert not foreign, f"{file.name} imports {sorted(foreign)}; it may import torch alone."
        rooms = imported_parts(parse(file), "leyden")
        assert rooms <= {"problem"}, f"{file.name} imports {sorted(rooms)}; it may import its own room alone."


def test_problems_never_import_each_other() -> None:
    """A problem type is the file that a file of conf/problem names; everything else of the room is shared."""
    targets = [re.search(r"^_target_: leyden\.problem\.(\w+)", path.read_text(), re.MULTILINE)
               for path in sorted((ROOT / "conf" / "problem").glob("*.yaml"))]  # fmt: skip
    stems = {target.group(1) for target in targets if target}
    assert len(stems) == len(targets) > 0
    for file in files_of("problem"):
        if file.stem in stems:
            wrong = imported_parts(parse(file), "leyden.problem") & stems
            assert not wrong, f"{file.name} imports {sorted(wrong)}; what problems share belongs in a file of its own."


def test_files_are_short() -> None:
    assert FILES
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    long = {str(file.relative_to(ROOT)): length for file, length in lengths.items() if length >= 250}
    assert not long, f"files of 250 lines or more: {long}"


def test_entry_files_hold_one_short_function() -> None:
    for file in ENTRIES:
        assert len(file.read_text(encoding="utf-8").splitlines()) < 30, f"{file.name} has 30 lines or more"
        functions = [node for node in ast.walk(parse(file)) if isinstance(node, FUNCTION)]
        assert len(functions) == 1, f"{file.name} holds {[function.name for function in functions]}"


def test_functions_are_short() -> None:
    functions = [(file, node) for file in FILES for node in ast.walk(parse(file)) if isinstance(node, FUNCTION)]
    assert functions
    long = {
        f"{file.relative_to(ROOT)}:{node.name}": own_lines(node) for file, node in functions if own_lines(node) >= 40
    }
    assert not long, f"functions of 40 lines or more: {long}"


def test_no_file_is_named_after_nothing() -> None:
    assert FILES
    wrong = [str(file.relative_to(ROOT)) for file in FILES if set(file.stem.split("_")) & FORBIDDEN_NAMES]
    assert not wrong, f"name these after what they hold: {wrong}"


def test_nothing_is_left_unfinished() -> None:
    files = [*FILES, *ENTRIES, *sorted((ROOT / "conf").rglob("*.yaml"))]
    assert len(files) > len(ENTRIES)
    wrong = [str(file.relative_to(ROOT)) for file in files if UNFINISHED.search(file.read_text(encoding="utf-8"))]
    assert not wrong, f"unfinished work is not merged: {wrong}"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('path = "/ro' + 'ot/x"', True),
        ("see /ho" + "me/someone/data.csv", True),
        ("file:///op" + "t/wheels", True),
        ("override /optimizer: adamw", False),
        ("$HOME/work/data", False),
        ("../shared/home/x", False),
        ("https://example.org/opt/x", False),
    ],
)
def test_the_path_pattern_sees_machine_paths_only(text: str, found: bool) -> None:
    assert bool(MACHINE_PATH.search(text)) is found


def test_no_text_file_names_a_path_of_one_machine() -> None:
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in done.stdout.split("\0") if name and Path(name).suffix not in DATA_SUFFIXES]
    files = [file for file in files if file.is_file()]
    assert files
    wrong = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]
    assert not wrong, "\n".join(wrong)
