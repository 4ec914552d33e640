"""GGUF files as transformers reads them, without what it does again and again: the same tensors in less time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np


@contextmanager
def read_once() -> Iterator[None]:
    """Inside the block, `gguf` opens each file once and makes the table of an architecture's tensor names once.

    transformers opens a file for the config and again for the weights, and asks for the table at every module of the
    model: 397 times for 30 layers. Both are only read. Not for several threads at once: what is put in place is what
    every thread sees.
    """
    import gguf  # late: no run that converts nothing waits for it

    class Reader(gguf.GGUFReader):
        """Reads from a plain array; each of half a million slices of numpy's memory map costs four times as much."""

        def _get(self, *place: Any, **options: Any) -> Any:
            if isinstance(self.data, np.memmap):
                self.data = self.data.view(np.ndarray)  # type: ignore[assignment]
            return super()._get(*place, **options)

    names = {"GGUFReader": cache(Reader), "get_tensor_name_map": cache(gguf.get_tensor_name_map)}
    known = {name: getattr(gguf, name) for name in names}
    try:
        vars(gguf).update(names)
        yield
    finally:
        vars(gguf).update(known)
