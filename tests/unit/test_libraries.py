"""Optional packages of the libraries: not loaded before something of them is used, and then whole."""

from __future__ import annotations

import ast
import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from leyden.artifacts.libraries import DEFERRED, deferred, uncollected

ROOT = Path(__file__).resolve().parents[2]
UNASKED = {*DEFERRED, "botocore", "networkx", "torch._inductor.compile_fx"}
# Two jobs of one process, as in a sweep: the second wants what the first did without.
FRESH_PROCESS = f"""
import sys
from pathlib import Path
from leyden.artifacts.job import run_job
from tests.effects.small_runs import settings_of

table = {{"p": ["one", "two"], "a": ["eins", "zwei"]}}
for dtype in ("float32", "int4"):
    run_job(settings_of(Path(sys.argv[1]) / dtype, table, f"backbone.dtype={{dtype}}", "lora.use_dora=true"))
    print("loaded", sorted(set(sys.modules) & {UNASKED!r}))
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that counts in its list `times` how often it was loaded."""
    name = "counted_package"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(
        "import sys\nsys.times.append(1)\n\ndef double(x):\n    return 2 * x\n"
    )
    (tmp_path / name / "part.py").write_text("value = 3\n")
    monkeypatch.setattr(sys, "times", [], raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in (name, f"{name}.part"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return name


def times() -> int:
    return len(sys.times)  # type: ignore[attr-defined]


def run(code: str) -> dict[str, object]:
    names: dict[str, object] = {}
    exec(code, names)
    return names


def test_a_run_loads_no_package_that_it_was_not_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, str(tmp_path)], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = (line for line in done.stdout.splitlines() if line.startswith("loaded"))
    assert first == "loaded []"
    assert "'bitsandbytes'" in second
    assert "'boto3'" not in second


@pytest.mark.parametrize("name", ["job", "predict", "worker"])
def test_what_starts_a_run_imports_the_libraries_first(name: str) -> None:
    tree = ast.parse((ROOT / "src" / "leyden" / "artifacts" / f"{name}.py").read_text(encoding="utf-8"))
    found = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    first = found.index("import leyden.artifacts.libraries")
    light = "from leyden.artifacts.parent import end_with_parent"  # imports nothing
    assert not [
        text
        for text in found[:first]
        if ("leyden" in text and text != light) or "torch" in text or "transformers" in text
    ]


def test_a_deferred_package_is_loaded_when_something_of_it_is_called(package: str) -> None:
    with deferred(package):
        names = run(f"import {package}\nfrom {package} import double")
        assert times() == 0
    assert package not in sys.modules
    assert names["double"](4) == 8  # type: ignore[operator]
    assert times() == 1
    assert run(f"import {package} as it")["it"] is sys.modules[package]
    assert names[package].double is sys.modules[package].double  # type: ignore[attr-defined]
    assert times() == 1


def test_a_call_while_libraries_load_loads_too(package: str) -> None:
    with deferred(package):
        assert run(f"from {package} import double\nfour = double(2)")["four"] == 4
        assert times() == 1
    assert sys.modules[package].double(1) == 2


def test_an_import_of_a_part_loads_the_package(package: str) -> None:
    with deferred(package):
        assert run(f"from {package}.part import value")["value"] == 3
        assert times() == 1
        assert "double" in vars(sys.modules[package])
    assert not any(type(finder).__name__ == "Inside" for finder in sys.meta_path)


def test_what_is_loaded_or_missing_is_left_as_it_is(package: str) -> None:
    whole = run(f"import {package} as it")["it"]
    with deferred(package, "no_such_package_at_all"):
        assert run(f"import {package} as it")["it"] is whole
        with pytest.raises(ModuleNotFoundError):
            run("import no_such_package_at_all")
    assert times() == 1


def test_what_an_absent_attribute_is_said_to_be(package: str) -> None:
    with deferred(package):
        it = run(f"import {package} as it")["it"]
    with pytest.raises(AttributeError, match="no attribute 'triple'"):
        it.triple  # type: ignore[attr-defined]  # noqa: B018


def test_collections_go_on_after_the_block_and_skip_what_was_made_in_it() -> None:
    before = gc.get_freeze_count()
    try:
        with uncollected():
            assert not gc.isenabled()
            made = [[number] for number in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= before + len(made)
    finally:
        if before == 0:
            gc.unfreeze()
