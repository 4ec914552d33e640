"""A column of texts in one piece of memory: a list of strings to read, an Arrow array to compute with."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from leyden.data.integers import Integers

Text = TypeVar("Text", str, str | None)
BLOCK = 10_000  # rows that become Python objects at a time


class Texts(Sequence[Text]):
    """Texts, or None where a cell is missing, in 8 bytes beside the UTF-8 of each.

    Attributes:
        array: of Arrow's large_string.
    """

    __slots__ = ("_digest", "array")
    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __init__(self, array: pa.Array | pa.ChunkedArray) -> None:
        array = array.cast(pa.large_string())
        self._digest: str | None = None
        self.array: pa.Array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array

    @classmethod
    def of(cls, texts: Iterable[Text]) -> Texts[Text]:
        """Of Python strings, which are not kept."""
        if isinstance(texts, Texts):
            return texts
        blocks: list[pa.Array] = []
        block: list[Text] = []
        for text in texts:
            block.append(text)
            if len(block) == BLOCK:
                blocks.append(pa.array(block, pa.large_string()))
                block = []
        return cls(pa.chunked_array([*blocks, pa.array(block, pa.large_string())]))

    def filled(self) -> Texts[str]:
        """The same with the empty text for what is missing."""
        return Texts(self.array.fill_null(""))

    def empty(self) -> NDArray[np.int64]:
        """Places of the texts that are missing or empty."""
        there = pc.fill_null(pc.greater(pc.binary_length(self.array), 0), False)
        found: NDArray[np.int64] = np.flatnonzero(~there.to_numpy(zero_copy_only=False))
        return found

    def equal(self, other: Texts[Text]) -> NDArray[np.bool_]:
        """For each place whether both hold the same text; none may be missing."""
        found: NDArray[np.bool_] = pc.equal(self.array, other.array).to_numpy(zero_copy_only=False).copy()
        return found

    def digest(self) -> str:
        """SHA-256 of all texts and their lengths, computed once; none may be missing."""
        if self._digest is None:
            self._digest = self._hashed()
        return self._digest

    def trimmed(self, start: str, end: str) -> Texts[Text]:
        """Without these characters at the start and at the end of each, as `str.lstrip` and `str.rstrip` take them."""
        array = pc.utf8_ltrim(self.array, start) if start else self.array
        return Texts(pc.utf8_rtrim(array, end) if end else array)

    def _hashed(self) -> str:
        lengths = pc.binary_length(self.array).to_numpy()
        digest = hashlib.sha256(lengths.tobytes())
        *_, offsets, content = self.array.buffers()
        if content is not None and len(self):
            ends = np.frombuffer(offsets, np.int64)[[self.array.offset, self.array.offset + len(self)]]
            digest.update(memoryview(content)[ends[0] : ends[1]])
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, place: int) -> Text: ...
    @overload
    def __getitem__(self, place: slice) -> list[Text]: ...
    def __getitem__(self, place: int | slice) -> Text | list[Text]:
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            chosen: list[Text] = self.array[start:stop:step].to_pylist()
            return chosen
        found: Text = self.array[range(len(self))[place]].as_py()
        return found

    def __iter__(self) -> Iterator[Text]:
        for start in range(0, len(self), BLOCK):
            yield from self.array[start : start + BLOCK].to_pylist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and list(self) == list(other)

    def __repr__(self) -> str:
        return f"Texts({list(self)})"


def joined(columns: Sequence[Texts[Any]], separator: str) -> Texts[str]:
    """The texts of several columns side by side, one text per row."""
    arrays, between = [column.filled().array for column in columns], pa.scalar(separator, pa.large_string())
    return Texts(arrays[0] if len(arrays) == 1 else pc.binary_join_element_wise(*arrays, between))


def all_empty(columns: Sequence[Texts[Any]]) -> NDArray[np.int64]:
    """Rows in which each of the columns is missing or empty."""
    return reduce(lambda rows, column: np.intersect1d(rows, column.empty()), columns[1:], columns[0].empty())


def rows_with(columns: Mapping[str, Texts[str]], names: Collection[str], rows: Sequence[int]) -> Integers:
    """Those of the rows in which a column holds one of these names, letter for letter; ascending."""
    pattern, chosen = "|".join(re.escape(name) for name in sorted(names) if name), np.unique(np.asarray(rows, np.int64))
    found = np.zeros(len(chosen), dtype=bool)
    for texts in columns.values() if pattern else ():
        named = pc.match_substring_regex(texts.array, pattern).fill_null(False).to_numpy(zero_copy_only=False)
        found |= named[chosen]
    return Integers(chosen[found])
