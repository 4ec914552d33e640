"""Token ids as text that can be shown: what each token stands for alone, bytes that are no character as bytes."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from leyden.data.tokenization import control_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"  # what SentencePiece writes for a space
_PLAIN = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))  # bytes that byte-level names show as they are


class TokenText(NamedTuple):
    """One token.

    Attributes:
        text: of the token alone, white space included; for part of a character its bytes, such as `F0 9F`.
        control: whether it steers the model and came out of no text.
        raw: whether `text` are bytes.
    """

    text: str
    control: bool = False
    raw: bool = False


class TokenTexts:
    """Texts of the tokens of one tokenizer.

    `decode` of a single id is not used: it drops the space in front of a word, and writes every part of a character
    with the same sign.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, TokenText] = {}

    def __getitem__(self, token: int) -> TokenText:
        """The token with this id."""
        if token not in self._known:
            self._known[token] = self._read(token)
        return self._known[token]

    def _read(self, token: int) -> TokenText:
        if token in self._added:
            return TokenText(self._added[token], self._added[token] in self._control)
        name = self._tokenizer.convert_ids_to_tokens(token)
        if not isinstance(name, str):
            return TokenText(f"token {token}")  # the vocabulary ends before
        if self._byte_level and all(letter in BYTES for letter in name):
            return _of_bytes(bytes(BYTES[letter] for letter in name))
        if found := _BYTE.fullmatch(name):
            return _of_bytes(bytes.fromhex(found[1]))
        return TokenText(name.replace(_SPACE, " "))

    @cached_property
    def _added(self) -> dict[int, str]:
        return {token: added.content for token, added in self._tokenizer.added_tokens_decoder.items()}

    @cached_property
    def _control(self) -> frozenset[str]:
        return control_tokens(self._tokenizer)

    @cached_property
    def _byte_level(self) -> bool:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        return backend is not None and "ByteLevel" in repr(backend.decoder)


def _of_bytes(found: bytes) -> TokenText:
    try:
        return TokenText(found.decode())
    except UnicodeDecodeError:
        return TokenText(found.hex(" ").upper(), raw=True)


def _byte_letters() -> dict[str, int]:
    """The letter that stands for each byte in a byte-level vocabulary: itself, or the next one from U+0100 on."""
    others = [byte for byte in range(0x100) if byte not in _PLAIN]
    return {chr(byte): byte for byte in _PLAIN} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


BYTES = _byte_letters()
