"""A chat template seen from outside: written with marks for texts, it shows what it writes around them and trims."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

from leyden.data.texts import Texts
from leyden.settings.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = re.compile("\ue000([sua]\\d+)\ue001")
ROLES = {"s": "system", "u": "user", "a": "assistant"}
MESSAGE_ROLES = {
    "system": "system", "prompt": "user", "rejected_prompt": "user", "answer": "assistant", "rejected": "assistant",
}  # fmt: skip
WHITE_SPACE = "".join(filter(str.isspace, map(chr, range(0x3001))))  # all that `str.strip` takes
PROBES = " \n\t\r\v\f\xa0\u3000"  # a template that takes each of these is taken to take any white space


def split_at_texts(
    tokenizer: PreTrainedTokenizerBase, turns: int, *, system: bool, before: str = "", after: str = ""
) -> list[str]:
    """What the tokenizer's template writes before, between and after the texts of a conversation.

    Args:
        tokenizer: with a chat template.
        turns: how many pairs of a user's and an assistant's message.
        system: whether a system message comes first.
        before: stands at the start of every text.
        after: stands at the end of every text.

    Raises:
        ModelError: the template fails, or its texts cannot be told apart.
    """
    marks = ["s0"] * system + [f"{role}{turn}" for turn in range(turns) for role in "ua"]
    messages = [{"role": ROLES[mark[0]], "content": f"{before}\ue000{mark}\ue001{after}"} for mark in marks]
    try:
        text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception as error:  # a template may raise anything, and says why in its own words
        also = " or leave out dataset.system_column" if system else ""
        raise ModelError(
            f"dataset.chat_template=true: the tokenizer's template fails: {str(error).rstrip('.')}. Use the text "
            f"markers (dataset.chat_template=false){also}."
        ) from error
    pieces = MARK.split(text)
    if pieces[1::2] != marks:
        raise ModelError(
            "dataset.chat_template=true: the tokenizer's template leaves out, repeats or reorders messages, so its "
            "texts cannot be told apart. Use the text markers (dataset.chat_template=false)."
        )
    return pieces[0::2]


@dataclass(frozen=True)
class TrimmedEnds:
    """What a template takes from the ends of texts.

    Attributes:
        start: characters that it takes from the start of a text, by the role of the message.
        end: the same at the end.
    """

    start: Mapping[str, str]
    end: Mapping[str, str]

    @property
    def roles(self) -> list[str]:
        """The roles whose texts are trimmed."""
        return sorted({*self.start, *self.end})

    def trim(self, texts: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        """The texts as the template writes them.

        Args:
            texts: columns by what they hold: system, prompt, rejected_prompt, answer, rejected.
        """
        return {name: self._trimmed(MESSAGE_ROLES.get(name), column) for name, column in texts.items()}

    def _trimmed(self, role: str | None, column: Sequence[str]) -> Sequence[str]:
        if role not in self.roles:
            return column
        start, end = self.start.get(role, ""), self.end.get(role, "")
        return Texts.of(column).trimmed(start, end)


def trimmed_ends(tokenizer: PreTrainedTokenizerBase) -> TrimmedEnds:
    """Find out what the tokenizer's template trims, by writing conversations with white space around their texts.

    A role that is trimmed in some places of a conversation only counts as trimmed in all of them: a text is tokenised
    once, wherever it will stand.
    """
    taken: tuple[dict[str, str], dict[str, str]] = (defaultdict(str), defaultdict(str))
    for turns, system in product((1, 2), (False, True)):
        with suppress(ModelError):  # some take no system text, some one turn only
            _probe(tokenizer, turns, system, taken)
    start, end = (
        {role: WHITE_SPACE if len(c) == len(PROBES) else c for role, c in side.items() if c} for side in taken
    )
    return TrimmedEnds(start, end)


def _probe(
    tokenizer: PreTrainedTokenizerBase, turns: int, system: bool, taken: tuple[dict[str, str], dict[str, str]]
) -> None:
    roles = ["system"] * system + ["user", "assistant"] * turns
    split = partial(split_at_texts, tokenizer, turns, system=system)
    plain = split()
    for char in PROBES:
        for side, pieces in enumerate((split(before=char), split(after=char))):
            for place, role in enumerate(roles, start=side):
                if pieces[place] == plain[place] and char not in taken[side][role]:
                    taken[side][role] += char
