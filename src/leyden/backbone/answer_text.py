"""New tokens become the text of an answer: when it is whole, or as far as it is certain while it is being written."""

from __future__ import annotations

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

BROKEN = "\ufffd"  # what stands for bytes that are no character, or not yet one


class AnswerText:
    """Reads answers: up to the end token and before the first stop string, without special tokens, trimmed.

    Args:
        tokenizer: of the model.
        stops: strings that end an answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self.tokenizer, self.ends = tokenizer, end_ids(tokenizer)
        self.stops = tuple(filter(None, stops))
        self.special = tuple(sorted(filter(None, map(str, tokenizer.all_special_tokens)), key=len, reverse=True))
        self._any_special = re.compile("|".join(map(re.escape, self.special)) or r"(?!)")

    def whole(self, ids: Sequence[int]) -> str:
        """The answer of all its tokens."""
        text = self._decoded(ids)
        return self._any_special.sub("", text[: self._stop(text)]).strip()

    def so_far(self, ids: Sequence[int]) -> str:
        """What stays the beginning of the answer, whatever tokens follow these.

        A character that lacks bytes, the beginning of a stop string or of a special token, and white space at the end
        are not told before it is known what becomes of them.
        """
        text = self._decoded(ids).rstrip(BROKEN)
        text = text[: min(self._stop(text), _undecided(text, self.stops, 0))]
        told: list[str] = []
        place = 0
        while True:
            limit, found = _undecided(text, self.special, place), self._any_special.search(text, place)
            if found is None or found.start() >= limit:
                return "".join([*told, text[place:limit]]).strip()
            told.append(text[place : found.start()])
            place = found.end()

    def _decoded(self, ids: Sequence[int]) -> str:
        kept = list(ids)
        for place, token in enumerate(kept):
            if token in self.ends:
                kept = kept[:place]
                break
        return str(self.tokenizer.decode(kept, skip_special_tokens=False))

    def _stop(self, text: str) -> int:
        """Where the first stop string begins; the length of the text if none does."""
        return min((place for place in map(text.find, self.stops) if place >= 0), default=len(text))


def end_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The ids of tokens that end an answer."""
    return set() if tokenizer.eos_token_id is None else {int(tokenizer.eos_token_id)}


def _undecided(text: str, words: Sequence[str], start: int) -> int:
    """Where the end of a text may be the beginning of one of these words; the length of the text if nowhere."""
    longest = max(map(len, words), default=1)
    for place in range(max(start, len(text) - longest + 1), len(text)):
        if any(word.startswith(text[place:]) for word in words):
            return place
    return len(text)
