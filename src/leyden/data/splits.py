"""Which rows train and which validate: whole conversations, drawn by a hash, so equal on every machine and version."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal
from fractions import Fraction
from math import floor

import numpy as np

from leyden.settings.errors import DataError

FEWEST_ROWS = 10
SHOWN = 5


def split(conversation_of_row: Sequence[int], size: float, seed: int) -> tuple[list[int], list[int]]:
    """Divide the rows of a table into a training and a validation part, conversations whole.

    Of C conversations, C * size validate, rounded to the nearest whole number, halves up, in decimal arithmetic. The
    number is never raised to 1 behind the user's back. A larger size keeps what a smaller one chose and adds to it.

    Args:
        conversation_of_row: for each row the number of its conversation; all different where rows stand alone.
        size: share of the conversations that validate, above 0 and below 1.
        seed: of the split alone (`dataset.split_seed`), so that training seeds leave it untouched.

    Returns:
        The rows that train and the rows that validate, both in file order.

    Raises:
        DataError: one of the two parts would be empty.
    """
    order = _shuffled(conversation_of_row, "split", seed)
    chosen = order[: _held_out(len(order), size, alone=len(order) == len(conversation_of_row))]
    validates = np.isin(conversation_of_row, chosen)
    return np.flatnonzero(~validates).tolist(), np.flatnonzero(validates).tolist()


def stratified_split(
    class_of_row: Sequence[int], names: Sequence[str], size: float, seed: int
) -> tuple[list[int], list[int], list[str]]:
    """Divide rows that stand alone so that each class keeps its share in both parts.

    As many rows validate as with `split`. Of a class with n rows, n * size rounded down validate; what is missing to
    the whole goes to the classes that lost most by rounding, one each. Every class keeps a row to train on. Within a
    class the order of the rows is that of `split`. Where so many rows validate that classes would have none to train
    on, the rows are divided as by `split`, with a warning.

    Args:
        class_of_row: number of each row's class.
        names: of the classes, by number, for warnings.
        size: share of the rows that validate.
        seed: `dataset.split_seed`.

    Returns:
        The rows that train and the rows that validate, both in file order, and warnings.

    Raises:
        DataError: one of the two parts would be empty.
    """
    rows = range(len(class_of_row))
    count = _held_out(len(rows), size, alone=True)
    rows_of: dict[int, list[int]] = {}
    for row in _shuffled(rows, "split", seed):
        rows_of.setdefault(class_of_row[row], []).append(row)
    quotas = _quotas({number: len(found) for number, found in rows_of.items()}, size, count)
    if quotas is None:
        why = (
            f"dataset.validation_size={size} holds out {count} of {len(rows)} rows; each of {len(rows_of)} classes "
            "cannot keep one to train on, so the classes are not split evenly."
        )
        return *split(rows, size, seed), [why]
    chosen = {row for number, found in rows_of.items() for row in found[: quotas[number]]}
    lone = [names[number] for number, found in sorted(rows_of.items()) if len(found) == 1]
    warnings = []
    if lone:
        shown = ", ".join(lone[:SHOWN]) + (f" and {len(lone) - SHOWN} more" if len(lone) > SHOWN else "")
        warnings.append(f"{len(lone)} of {len(rows_of)} classes have one row, which trains: {shown}.")
    return [row for row in rows if row not in chosen], sorted(chosen), warnings


def _quotas(sizes: Mapping[int, int], size: float, count: int) -> dict[int, int] | None:
    """How many rows of each class validate, `count` in all; None if a class would have none left to train on."""
    exact = {number: rows * Fraction(repr(size)) for number, rows in sizes.items()}
    quotas = {number: floor(share) for number, share in exact.items()}
    while (left := count - sum(quotas.values())) > 0:
        room = [number for number in sizes if quotas[number] < sizes[number] - 1]
        if not room:
            return None
        room.sort(key=lambda number: (quotas[number] - exact[number], -sizes[number], number))
        for number in room[:left]:
            quotas[number] += 1
    return quotas


def sample(
    conversation_of_row: Sequence[int], rows: Sequence[int], share: float, seed: int, chained: bool
) -> list[int]:
    """Keep a share of one part, without replacement, in the order given.

    Of N rows that stand alone: `min(N, max(10, floor(N * share)))`. Of C chained conversations: `floor(C * share)`, at
    least one, and more until they hold 10 rows where there are that many.

    Args:
        conversation_of_row: for each row of the table the number of its conversation.
        rows: the rows of this part.
        share: above 0, at most 1.
        seed: of the draw (`dataset.split_seed`); what is kept depends on nothing outside this part.
        chained: conversations are kept or left whole; otherwise each row is drawn alone.

    Returns:
        The rows kept.
    """
    unit_of = {row: conversation_of_row[row] if chained else row for row in rows}
    sizes: dict[int, int] = {}
    for unit in unit_of.values():
        sizes[unit] = sizes.get(unit, 0) + 1
    wanted = _share_of(len(sizes), share, ROUND_FLOOR)
    kept: set[int] = set()
    held = 0
    for unit in _shuffled(list(sizes), "sample", seed):
        if len(kept) >= wanted and held >= FEWEST_ROWS:
            break
        kept.add(unit)
        held += sizes[unit]
    return [row for row in rows if unit_of[row] in kept]


def draw_key(purpose: str, seed: int, number: int) -> bytes:
    """The place of a number in the random order that a purpose and a seed give, the same on every machine."""
    return hashlib.sha256(f"{purpose}/{seed}/{number}".encode()).digest()


def _shuffled(numbers: Sequence[int], purpose: str, seed: int) -> list[int]:
    # numpy promises equal streams for its bit generators only, not for permutation(); a hash stays for ever
    distinct = np.unique(np.asarray(numbers, dtype=np.int64))
    keys = bytearray().join(draw_key(purpose, seed, number) for number in distinct.tolist())
    words = np.frombuffer(keys, dtype=">u8").reshape(len(distinct), 4)
    order: list[int] = distinct[np.lexsort(words.T[::-1])].tolist()
    return order


def _held_out(total: int, size: float, *, alone: bool) -> int:
    """How many of the rows, or of the conversations, validate."""
    count = _share_of(total, size, ROUND_HALF_UP)
    if not 0 < count < total:
        raise DataError(_empty_side(size, count, total, alone))
    return count


def _share_of(count: int, share: float, rounding: str) -> int:
    # in binary 100 * 0.29 is 28.999999999999996
    return int((count * Decimal(repr(share))).to_integral_value(rounding))


def _empty_side(size: float, count: int, total: int, alone: bool) -> str:
    what = "rows" if alone else "conversations"
    other = "give a validation table (dataset.validation_strategy=custom, dataset.validation_dataframe=FILE)"
    if total <= 1:
        return (
            f"dataset.validation_size={size}: the table has {total} {what.removesuffix('s')}, and both training and "
            f"validation need one; {other} or more rows."
        )
    return (
        f"dataset.validation_size={size} of {total} {what} leaves {total - count} to train on and {count} to validate. "
        f"Set it between {1 / total:.6g} and {1 - 1 / total:.6g}, or {other}."
    )
