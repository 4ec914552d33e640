"""Rows that stand both in training and in validation: they make scores look better than the model is."""

from __future__ import annotations

import unicodedata
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from leyden.data.integers import Integers
from leyden.data.long_work import with_progress
from leyden.data.rows import Part
from leyden.data.sources import Source

Keys = NDArray[np.uint64]
SPACES = ("P", "Z", "C")  # Unicode's punctuation, separators, control characters


@dataclass(frozen=True)
class Overlap:
    """What a validation part shares with a training part; rows are those of their own tables, in file order.

    A row counts with its whole history: its own prompt and answer and those of the rows before it.

    Attributes:
        exact: validation rows whose prompt and answer (or labels) stand in training, letter for letter.
        similar: validation rows whose prompt stands in training, apart from case, spaces, punctuation and the form of
            characters; those in `exact` included. Texts without a prompt are compared by their answer.
        duplicates: training rows that an earlier training row equals, prompt and answer.
        warnings: a line for each of them that is not empty.
    """

    exact: Integers
    similar: Integers
    duplicates: Integers
    warnings: tuple[str, ...]


def overlap(train: Part, validation: Part) -> Overlap:
    """Compare two parts row by row, by hashes of their texts; time and memory grow with the number of rows.

    Args:
        train: the training part, before anything of validation is added to it.
        validation: the validation part.
    """
    taught, taught_prompts = _keys(train)
    shown, shown_prompts = _keys(validation)
    again = np.ones(len(taught), dtype=bool)
    again[np.unique(taught, return_index=True)[1]] = False  # the first of each
    same = np.isin(shown, taught)
    alike = same | np.isin(shown_prompts, taught_prompts)
    rows = np.asarray(validation.rows)
    found = Integers(rows[same]), Integers(rows[alike]), Integers(np.asarray(train.rows)[again])
    return Overlap(*found, tuple(_warnings(train, validation, *found)))


def normalized(text: str) -> str:
    """A text without what people vary: case, width and form of characters, spaces, punctuation.

    A text of punctuation alone keeps it.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.translate(_PLAIN).split()) or " ".join(folded.split())


class _Plain(dict[int, str]):
    """Code points to what stands for them, found out once each."""

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        self[code] = " " if unicodedata.category(letter).startswith(SPACES) else letter
        return self[code]


_PLAIN = _Plain()


def _keys(part: Part) -> tuple[Keys, Keys]:
    """For each row of a part the key of its texts, and the key of its prompt in normal form."""
    source, size = part.source, len(part.source.table)
    parents = array("q", source.threads.parents.array.tobytes())
    known, exact, plain, asked = bytearray(size), *(array("Q", bytes(8 * size)) for _ in range(3))
    for row in with_progress(part.rows, "Comparing rows", len(part.rows)):
        new: list[int] = []  # not threads.chain: a row is looked at once, however many follow it
        turn = row
        while turn >= 0 and not known[turn]:
            new.append(turn)
            turn = parents[turn]
        for turn in reversed(new):
            before = parents[turn]
            said, like = (exact[before], plain[before]) if before >= 0 else (0, 0)
            prompt, answer = source.texts["prompt"][turn], _answer(source, turn)
            bare, bare_answer = normalized(prompt), normalized(answer)
            with_prompt = bare or source.labels is not None
            asked[turn] = _key(like, bare) if with_prompt else _key(like, "\0", bare_answer)
            exact[turn], plain[turn] = _key(said, prompt, answer), _key(like, bare, bare_answer)
            known[turn] = 1
    rows = np.asarray(part.rows)
    return np.frombuffer(exact, np.uint64)[rows], np.frombuffer(asked, np.uint64)[rows]


def _answer(source: Source, row: int) -> str:
    if source.labels is not None:
        return repr(source.labels.values[row].tolist())
    return source.texts["answer"][row] if "answer" in source.texts else ""


def _key(before: int, *texts: str) -> int:
    parts = before.to_bytes(8) + "".join(f"{len(text)}:{text}" for text in texts).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(parts, digest_size=8).digest())


def _warnings(train: Part, validation: Part, exact: Integers, similar: Integers, duplicates: Integers) -> Iterator[str]:
    table = validation.source.table
    if len(exact):
        yield (
            f"{table.path}: validation rows stand in training too, prompt and answer ({table.places(exact)}); scores "
            "on them measure memory. Remove them from one side."
        )
    if len(others := Integers(np.setdiff1d(similar, exact))):
        yield (
            f"{table.path}: validation rows have a prompt that stands in training too, apart from case, spaces and "
            f"punctuation, with another answer ({table.places(others)})."
        )
    if len(duplicates):
        table = train.source.table
        yield (
            f"{table.path}: training rows repeat an earlier one, prompt and answer ({table.places(duplicates)}); they "
            "count twice or more. Remove them if this is not meant."
        )
