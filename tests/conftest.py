from __future__ import annotations

import gc
import io
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import hypothesis
import pytest

PROJECT_ROOT = Path(__file__).resolve().parent.parent

# Hub libraries read these once, when they are imported, so they are set before any test module is. LEYDEN_TEST_CACHE
# names a folder that outlives the session: the converted 135M checkpoint is then found there again. The processes of
# pytest-xdist inherit the name: they share one folder and leave it to the process that started them.
KEPT_CACHE = os.environ.get("LEYDEN_TEST_CACHE")
SESSION_CACHE = KEPT_CACHE or tempfile.mkdtemp(prefix="leyden-tests-")
os.environ["LEYDEN_TEST_CACHE"] = SESSION_CACHE
os.environ["LEYDEN_CACHE"] = SESSION_CACHE
os.environ["HF_HOME"] = str(Path(SESSION_CACHE) / "hub")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of torch: tiny models lose more by waiting than they gain by sharing

# What Python and pytest make of a module is kept, whatever the environment says: all processes of a session load the
# same modules.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# No test cuts the power: what the system has taken from a process of tests stays there without waiting for the disk.
# Processes that tests start do wait; `make reliability` looks at what is flushed, and when.
os.fsync = lambda descriptor: None  # type: ignore[assignment]

# How long an example takes says how busy the machine is, and nothing about the code.
hypothesis.settings.register_profile("leyden", deadline=None)
hypothesis.settings.load_profile("leyden")

RunCli = Callable[..., subprocess.CompletedProcess[str]]


def pytest_unconfigure() -> None:
    if KEPT_CACHE is None:
        shutil.rmtree(SESSION_CACHE, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Libraries and tests stay to the end: garbage collections neither go through them while they load nor later."""
    gc.disable()
    try:
        load_in_turns(session.config)
        collected = yield
        look_for_plugins_once()
        return collected
    finally:
        gc.freeze()
        gc.enable()


def look_for_plugins_once() -> None:
    """Packages that bring callbacks for Lightning are looked for once, not by every trainer: none comes meanwhile."""
    if connector := sys.modules.get("lightning.pytorch.trainer.connectors.callback_connector"):
        connector._load_external_callbacks = cache(connector._load_external_callbacks)  # type: ignore[attr-defined]


def load_in_turns(config: pytest.Config) -> None:
    """Load test modules in another order in each process of pytest-xdist, before they are collected in the same one.

    In a new checkout pytest rewrites the asserts of a module when it is first loaded, and keeps what it has made: the
    processes, which all load every module, share that work when each begins elsewhere.
    """
    worker: dict[str, Any] = getattr(config, "workerinput", {})
    folders = [Path(argument) for argument in config.args if Path(argument).is_dir()]
    files = sorted(file.resolve() for folder in folders for file in folder.rglob("test_*.py"))
    if not worker:
        return
    first = int(worker["workerid"].removeprefix("gw")) * len(files) // int(worker["workercount"])
    for file in files[first:] + files[:first]:
        with suppress(Exception, pytest.skip.Exception):  # collecting it raises this again, and reports it
            import_module(".".join(file.relative_to(PROJECT_ROOT).with_suffix("").parts))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def plain_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without products of bfloat16, so that no measurement decides on the numbers of a test."""
    if "torch" in sys.modules:
        monkeypatch.setattr("torch.cpu.get_capabilities", dict)


@pytest.fixture(scope="session")
def project_root() -> Path:
    return PROJECT_ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = PROJECT_ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the public tables of shared/data are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def run_cli(tmp_path_factory: pytest.TempPathFactory) -> RunCli:
    """Run an entry file of this checkout: `run_cli(["train.py", "problem=dpo"])`, in a new folder unless `cwd` says."""

    def run(
        args: Sequence[str], cwd: Path | None = None, timeout: float = 240, threads: int = 1
    ) -> subprocess.CompletedProcess[str]:
        script, *overrides = args
        paths = [str(PROJECT_ROOT / "src"), os.environ.get("PYTHONPATH", "")]
        return subprocess.run(
            [sys.executable, str(PROJECT_ROOT / script), *overrides],
            cwd=cwd or tmp_path_factory.mktemp("cli"),
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def run_here(tmp_path_factory: pytest.TempPathFactory) -> RunCli:
    """As `run_cli`, inside this process, where the libraries are loaded already: for all that is not about a start."""

    def run(args: Sequence[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        script, *overrides = args
        out, err, code = io.StringIO(), io.StringIO(), 0
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(cwd or tmp_path_factory.mktemp("here"))
            patch.setattr(sys, "argv", [str(PROJECT_ROOT / script), *overrides])
            for name in ("HYDRA_FULL_ERROR", "TQDM_DISABLE"):  # the command sets them; this takes them back
                patch.setenv(name, "1")
            try:
                runpy.run_path(str(PROJECT_ROOT / script), run_name="__main__")
            except SystemExit as end:
                code = int(end.code or 0)
        return subprocess.CompletedProcess(args, code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def preference_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small DPO run on hostile texts; tests that change it copy it first."""
    from tests.report_runs import preference

    return preference(tmp_path_factory.mktemp("preference"))


@pytest.fixture(scope="session")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run on hostile texts that generates answers; tests that change it copy it first."""
    from tests.report_runs import texts

    return texts(tmp_path_factory.mktemp("texts"))
