"""Whole numbers in an array that read as the tuple they equal, and tuples of them that share one array."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray


class Integers(Sequence[int]):
    """A tuple of whole numbers that takes 8 bytes for each.

    Attributes:
        array: int64.
    """

    __slots__ = ("array",)
    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __init__(self, numbers: Iterable[int] | NDArray[Any] = ()) -> None:
        given = numbers.array if isinstance(numbers, Integers) else numbers
        given = given if isinstance(given, np.ndarray | range) else list(given)
        self.array: NDArray[np.int64] = np.asarray(given, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> Integers: ...
    def __getitem__(self, place: int | slice) -> int | Integers:
        return Integers(self.array[place]) if isinstance(place, slice) else int(self.array[place])

    def __iter__(self) -> Iterator[int]:
        return iter(self.array.tolist())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.array, dtype=dtype, copy=copy)

    def __add__(self, other: Sequence[int]) -> Integers:
        return Integers(np.concatenate([self.array, Integers(other).array]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self.array.tolist() == list(other)

    def __repr__(self) -> str:
        return f"Integers({self.array.tolist()})"


class Places(Sequence[int | None]):
    """A tuple of whole numbers from 0, or None, that takes 8 bytes for each.

    Attributes:
        array: int64; -1 stands for None.
    """

    __slots__ = ("array",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, numbers: Iterable[int | None] | NDArray[np.int64]) -> None:
        if isinstance(numbers, Places):
            numbers = numbers.array
        known = numbers if isinstance(numbers, np.ndarray) else [-1 if one is None else one for one in numbers]
        self.array: NDArray[np.int64] = np.asarray(known, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, place: int) -> int | None: ...
    @overload
    def __getitem__(self, place: slice) -> Places: ...
    def __getitem__(self, place: int | slice) -> int | None | Places:
        if isinstance(place, slice):
            return Places(self.array[place])
        found = int(self.array[place])
        return None if found < 0 else found

    def __iter__(self) -> Iterator[int | None]:
        return iter([None if one < 0 else one for one in self.array.tolist()])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return f"Places({list(self)})"


class Ragged(Sequence[tuple[int, ...]]):
    """A tuple of tuples of whole numbers; tuple i is `values[offsets[i]:offsets[i + 1]]`.

    Attributes:
        values: int64, all tuples one after another.
        offsets: int64, one more than there are tuples.
    """

    __slots__ = ("offsets", "values")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, values: NDArray[np.int64], offsets: NDArray[np.int64]) -> None:
        self.values, self.offsets = values, offsets

    @classmethod
    def of(cls, tuples: Iterable[Sequence[int]]) -> Ragged:
        """Of tuples, which are not kept."""
        if isinstance(tuples, Ragged):
            return tuples
        values, offsets = array("q"), array("q", [0])
        for one in tuples:
            values.extend(one)
            offsets.append(len(values))
        return cls(np.array(values, dtype=np.int64), np.array(offsets, dtype=np.int64))

    def last(self) -> NDArray[np.int64]:
        """The last number of each tuple; none may be empty."""
        return self.values[self.offsets[1:] - 1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, place: int) -> tuple[int, ...]: ...
    @overload
    def __getitem__(self, place: slice) -> list[tuple[int, ...]]: ...
    def __getitem__(self, place: int | slice) -> tuple[int, ...] | list[tuple[int, ...]]:
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(len(self)))]
        start, end = self.offsets[range(len(self))[place]], self.offsets[range(len(self))[place] + 1]
        return tuple(self.values[start:end].tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and list(self) == [tuple(one) for one in other]

    def __repr__(self) -> str:
        return f"Ragged({list(self)})"
