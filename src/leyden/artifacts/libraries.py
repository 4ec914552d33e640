"""The libraries of a run, imported without the optional packages that they would load and no run may need.

Import this first in a file that starts a run. Where they are installed, `peft` loads `bitsandbytes`, `accelerate` loads
`boto3`, `transformers` and `torchmetrics` load parts of `scipy`: seconds of processor time in every process.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

DEFERRED = ("bitsandbytes", "boto3", "scipy.optimize", "scipy.signal")


class Deferred(ModuleType):
    """Stands for a module until something of it is used; nobody is told that the module is missing.

    While libraries load, what they take from it is a function that loads the module when it is called; afterwards it is
    what the module itself holds. A library that imports a module inside it gets the real ones at once.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        if "." not in name:
            self.__spec__ = find_spec(name)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        """The attribute of the module, or a function that calls it."""
        if name.startswith("__"):  # what Python asks of every module
            raise AttributeError(f"{self.__name__} is not loaded, so its {name} is not known")
        if sys.modules.get(self.__name__) is self:
            return partial(_call, self, name)
        return getattr(_load(self), name)


class Inside:
    """Finds modules inside of a deferred one, by loading that first; an entry of `sys.meta_path`."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The real module's place, if what it is in is deferred; otherwise None, and Python looks on."""
        package = sys.modules.get(name.rpartition(".")[0])
        if not isinstance(package, Deferred):
            return None
        _load(package)
        return find_spec(name)


@contextmanager
def deferred(*names: str) -> Iterator[None]:
    """Let imports inside the block find these modules without loading them.

    Args:
        names: of modules; those that are loaded already, or not installed, are left as they are.
    """
    waiting = [name for name in names if name not in sys.modules and find_spec(name.partition(".")[0])]
    modules = {name: Deferred(name) for name in waiting}
    finder = Inside()
    sys.modules.update(modules)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for module in modules.values():
            _forget(module)


def _load(module: Deferred) -> ModuleType:
    _forget(module)
    return import_module(module.__name__)


def _forget(module: Deferred) -> None:
    if sys.modules.get(module.__name__) is module:
        del sys.modules[module.__name__]


def _call(module: Deferred, name: str, *args: Any, **options: Any) -> Any:
    return getattr(_load(module), name)(*args, **options)


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep what is made inside the block, which stays as long as the process, out of all garbage collections.

    They would go through a million objects of libraries again and again, and once more at the end of the process.
    """
    enabled = gc.isenabled()
    if enabled:  # who has switched them off wants none now either
        gc.collect()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()


with uncollected(), deferred(*DEFERRED):
    import lightning  # noqa: F401
    import peft  # noqa: F401
    import transformers  # noqa: F401
