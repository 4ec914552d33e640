"""Rows that stand both in training and in validation: they make scores look better than the model is."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from leyden.data.rows import Part
from leyden.data.sources import Source

Key = bytes
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

    exact: tuple[int, ...]
    similar: tuple[int, ...]
    duplicates: tuple[int, ...]
    warnings: tuple[str, ...]


def overlap(train: Part, validation: Part) -> Overlap:
    """Compare two parts row by row, by hashes of their texts; time and memory grow with the number of rows.

    Args:
        train: the training part, before anything of validation is added to it.
        validation: the validation part.
    """
    exact_keys: set[Key] = set()
    similar_keys: set[Key] = set()
    duplicates = []
    for row, exact, similar in _keys(train):
        if exact in exact_keys:
            duplicates.append(row)
        exact_keys.add(exact)
        similar_keys.add(similar)
    found = list(_keys(validation))
    exact_rows = tuple(row for row, exact, similar in found if exact in exact_keys)
    similar_rows = tuple(row for row, exact, similar in found if exact in exact_keys or similar in similar_keys)
    warnings = tuple(_warnings(train, validation, exact_rows, similar_rows, duplicates))
    return Overlap(exact_rows, similar_rows, tuple(duplicates), warnings)


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


def _keys(part: Part) -> Iterator[tuple[int, Key, Key]]:
    """For each row of a part the key of its texts, and the key of its prompt in normal form."""
    source = part.source
    history: dict[int | None, tuple[Key, Key]] = {None: (b"", b"")}
    prompts: dict[int, Key] = {}
    for row in part.rows:
        new: list[int] = []  # not threads.chain: a row is looked at once, however many follow it
        turn: int | None = row
        while turn is not None and turn not in history:
            new.append(turn)
            turn = source.threads.parents[turn]
        for turn in reversed(new):
            exact, similar = history[source.threads.parents[turn]]
            prompt, answer = source.texts["prompt"][turn], _answer(source, turn)
            plain, said = normalized(prompt), normalized(answer)
            prompts[turn] = _key(similar, plain) if plain or source.labels is not None else _key(similar, "\0", said)
            history[turn] = _key(exact, prompt, answer), _key(similar, plain, said)
        yield row, history[row][0], prompts[row]


def _answer(source: Source, row: int) -> str:
    if source.labels is not None:
        return repr(source.labels.values[row].tolist())
    return source.texts["answer"][row] if "answer" in source.texts else ""


def _key(before: Key, *texts: str) -> Key:
    parts = "".join(f"{len(text)}:{text}" for text in texts)
    return blake2b(before + parts.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _warnings(
    train: Part, validation: Part, exact: Sequence[int], similar: Sequence[int], duplicates: Sequence[int]
) -> Iterator[str]:
    table, total = validation.source.table, len(validation.rows)
    if exact:
        yield (
            f"{table.path}: {len(exact)} of {total} validation rows stand in training too, prompt and answer "
            f"({table.places(exact)}); scores on them measure memory. Remove them from one side."
        )
    if others := sorted(set(similar) - set(exact)):
        yield (
            f"{table.path}: {len(others)} of {total} validation rows have a prompt that stands in training too, apart "
            f"from case, spaces and punctuation, with another answer ({table.places(others)})."
        )
    if duplicates:
        table = train.source.table
        yield (
            f"{table.path}: {len(duplicates)} of {len(train.rows)} training rows repeat an earlier one, prompt and "
            f"answer ({table.places(duplicates)}); they count twice or more. Remove them if this is not meant."
        )
