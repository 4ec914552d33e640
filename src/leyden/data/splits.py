"""Which rows train and which validate: whole conversations, drawn by a hash, so equal on every machine and version."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal

from leyden.settings.errors import DataError

FEWEST_ROWS = 10


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
    count = _share_of(len(order), size, ROUND_HALF_UP)
    if not 0 < count < len(order):
        raise DataError(_empty_side(size, count, len(order), alone=len(order) == len(conversation_of_row)))
    chosen = set(order[:count])
    rows = range(len(conversation_of_row))
    return (
        [row for row in rows if conversation_of_row[row] not in chosen],
        [row for row in rows if conversation_of_row[row] in chosen],
    )


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
    for unit in _shuffled(sizes, "sample", seed):
        if len(kept) >= wanted and held >= FEWEST_ROWS:
            break
        kept.add(unit)
        held += sizes[unit]
    return [row for row in rows if unit_of[row] in kept]


def _shuffled(numbers: Iterable[int], purpose: str, seed: int) -> list[int]:
    # numpy promises equal streams for its bit generators only, not for permutation(); a hash stays for ever
    return sorted(set(numbers), key=lambda number: hashlib.sha256(f"{purpose}/{seed}/{number}".encode()).digest())


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
