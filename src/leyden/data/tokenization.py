"""Cells become token ids: once, in parallel, kept on disk under a key of everything they depend on."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from leyden.data.cache import cached_folder, content_key

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 1  # of the files; a change of it makes every old cache a stranger
CHUNK = 2000  # texts handed to the tokenizer at once; it spreads them over the cores


@dataclass(frozen=True)
class TokenColumn:
    """The token ids of one column: row i is `values[offsets[i]:offsets[i + 1]]`.

    Attributes:
        values: int32, all rows one after another; a memory map of the cached file.
        offsets: int64, one more than there are rows.
    """

    values: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        """Rows."""
        return len(self.offsets) - 1

    def row(self, index: int) -> list[int]:
        """Token ids of one row."""
        ids: list[int] = self.values[self.offsets[index] : self.offsets[index + 1]].tolist()
        return ids

    def lengths(self) -> NDArray[np.int64]:
        """Tokens per row."""
        return np.diff(self.offsets)


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
    """Token ids of texts, without automatic begin or end tokens.

    Args:
        tokenizer: any of transformers.
        texts: what to encode.
        special: read special-token strings as control tokens. Only for text of a template; text of a table is data.
    """
    ids: list[list[int]] = []
    for start in range(0, len(texts), CHUNK):
        chunk = list(texts[start : start + CHUNK])
        ids += tokenizer(
            chunk,
            add_special_tokens=False,
            split_special_tokens=not special,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
    return ids


def tokenize_columns(
    columns: Mapping[str, Sequence[str]], tokenizer: PreTrainedTokenizerBase, *, cache: bool
) -> tuple[dict[str, TokenColumn], bool]:
    """Token ids of every column, from the cache when the same texts met the same tokenizer before.

    Args:
        columns: texts of each column, all of one length.
        tokenizer: its whole vocabulary and settings are part of the key.
        cache: keep the result for the next start.

    Returns:
        The columns under their names, and whether they came from the cache.
    """
    fresh: list[str] = []

    def fill(folder: Path) -> None:
        fresh.append("filled")
        for name, texts in columns.items():
            _write(folder / name, encode(tokenizer, texts))

    if cache:
        folder = cached_folder("tokens", _key(columns, tokenizer), fill)
    else:
        folder = Path(tempfile.mkdtemp(prefix="leyden-tokens-"))
        fill(folder)
    found = {name: _open(folder / name, memory_map=cache) for name in columns}
    if not cache:
        shutil.rmtree(folder)
    return found, not fresh


def tokenizer_key(tokenizer: PreTrainedTokenizerBase) -> str:
    """Content hash of a tokenizer: vocabulary, merges, added tokens and normalisation."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    return content_key(type(tokenizer).__name__, state, sorted(map(str, tokenizer.all_special_tokens)))


def _key(columns: Mapping[str, Sequence[str]], tokenizer: PreTrainedTokenizerBase) -> str:
    digest = hashlib.sha256()
    for name, texts in columns.items():
        digest.update(f"{name}:{len(texts)}\0".encode())
        for text in texts:
            raw = text.encode("utf-8", "surrogatepass")
            digest.update(len(raw).to_bytes(8, "little") + raw)
    return content_key(FORMAT, digest.hexdigest(), tokenizer_key(tokenizer))


def _write(stem: Path, rows: list[list[int]]) -> None:
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    values = np.fromiter((token for row in rows for token in row), dtype=np.int32, count=int(offsets[-1]))
    np.save(stem.with_suffix(".values.npy"), values)
    np.save(stem.with_suffix(".offsets.npy"), offsets)


def _open(stem: Path, *, memory_map: bool) -> TokenColumn:
    offsets = np.load(stem.with_suffix(".offsets.npy"))
    mode = "r" if memory_map and offsets[-1] else None  # an empty file cannot be mapped
    return TokenColumn(np.load(stem.with_suffix(".values.npy"), mmap_mode=mode), offsets)
