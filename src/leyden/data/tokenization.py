"""Cells become token ids: once, in parallel, kept on disk under a key of everything they depend on."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import tokenizers
import transformers
from numpy.typing import NDArray

from leyden.data.cache import cached_folder, checksum, content_key
from leyden.data.long_work import with_progress
from leyden.data.texts import Texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 4  # of the files; a change of it makes every old cache a stranger
CHECKSUMS = "checksums.json"
CALL_STATE = ("truncation", "padding")  # what the last call asked for; every call sets them anew
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
        special: read the names of control tokens as these tokens. Only for text of a template; text of a table is data
            (see `control_tokens`).
    """
    reader = tokenizer if special else _text_reader(tokenizer)
    return [ids for chunk in _encoded(reader, texts, special) for ids in chunk]


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """The names of added tokens that steer the model, and so must not come out of a text (rule B31).

    Besides those that are marked special: names that the chat template writes, such as `<think>`, and names that were
    added to a finished vocabulary, such as `<|fim_prefix|>`. Runs of white space and pieces of the vocabulary itself,
    such as `<h1>`, are text to the model.
    """
    added = tokenizer.added_tokens_decoder.values()
    marked = {token.content for token in added if token.special}
    others = {token.content for token in added if token.content.strip()} - marked
    if not others:
        return frozenset(marked)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    known = {} if backend is None else backend.get_vocab(with_added_tokens=False)
    templates = tokenizer.chat_template or ""
    written = "\n".join(templates.values()) if isinstance(templates, dict) else templates
    return frozenset(marked | {name for name in others if name in written or name not in known})


def _encoded(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], special: bool = False
) -> Iterator[list[list[int]]]:
    for start in range(0, len(texts), CHUNK):
        yield tokenizer(
            list(texts[start : start + CHUNK]),
            add_special_tokens=False,
            split_special_tokens=not special,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]


def _text_reader(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer with every control token marked special, since it splits no other; itself if all are marked."""
    marked = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    unmarked = control_tokens(tokenizer) - marked
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not unmarked:
        return tokenizer
    state = json.loads(backend.to_str())
    for token in state["added_tokens"]:
        token["special"] |= token["content"] in unmarked
    reader: Any = copy.copy(tokenizer)
    reader._tokenizer = type(backend).from_str(json.dumps(state))
    return reader  # type: ignore[no-any-return]


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
    filled = []

    def fill(folder: Path) -> None:
        filled.append(folder)
        reader = _text_reader(tokenizer)
        sums = {}
        for name, texts in columns.items():
            chunks = with_progress(_encoded(reader, texts), f"Tokenizing texts of the role {name}", len(texts))
            sums[name] = _write(folder, name, chunks)
        (folder / CHECKSUMS).write_text(json.dumps(sums), encoding="utf-8")

    if cache:
        folder = cached_folder("tokens", _key(columns, tokenizer), fill, sound=_sound)
        return {name: _open(folder, name, memory_map=True) for name in columns}, not filled
    with tempfile.TemporaryDirectory(prefix="leyden-tokens-") as name:
        fill(Path(name))
        return {column: _open(Path(name), column, memory_map=False) for column in columns}, False


def tokenizer_key(tokenizer: PreTrainedTokenizerBase) -> str:
    """Content hash of what decides the ids of a text: vocabulary, merges, added tokens, normalisation, library."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        state = {part: value for part, value in state.items() if part not in CALL_STATE}
    else:
        state = {"vocabulary": sorted(tokenizer.get_vocab().items()), "arguments": repr(tokenizer.init_kwargs)}
    special = sorted(map(str, tokenizer.all_special_tokens)), sorted(control_tokens(tokenizer))
    versions = (transformers.__version__, tokenizers.__version__)
    return content_key(type(tokenizer).__name__, json.dumps(state), special, versions)


def _key(columns: Mapping[str, Sequence[str]], tokenizer: PreTrainedTokenizerBase) -> str:
    digests = [(name, Texts.of(texts).digest()) for name, texts in columns.items()]
    return content_key(FORMAT, digests, tokenizer_key(tokenizer))


def _write(folder: Path, name: str, chunks: Iterable[list[list[int]]]) -> list[int]:
    """Write a column, one chunk at a time; return the checksums of its two files."""
    lengths, total = [np.zeros(1, dtype=np.int64)], 0
    with (folder / f"{name}.values.npy").open("wb") as file:
        _head(file, total)
        for rows in chunks:
            lengths.append(np.fromiter(map(len, rows), dtype=np.int64, count=len(rows)))
            values = np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(lengths[-1].sum()))
            file.write(values.data)
            total += len(values)
        _head(file, total)
    np.save(folder / f"{name}.offsets.npy", np.cumsum(np.concatenate(lengths)))
    return _checksums(folder, name)


def _head(file: BinaryIO, size: int) -> None:
    """The head of a .npy file; that of another size is as long."""
    file.seek(0)
    head = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.int32)), "fortran_order": False, "shape": (size,)}
    np.lib.format.write_array_header_1_0(file, head)


def _open(folder: Path, name: str, *, memory_map: bool) -> TokenColumn:
    offsets = np.load(folder / f"{name}.offsets.npy")
    mapped = memory_map and offsets[-1] > 0  # an empty file cannot be mapped
    return TokenColumn(np.load(folder / f"{name}.values.npy", mmap_mode="r" if mapped else None), offsets)


def _sound(folder: Path) -> bool:
    """Whether every file of a cached folder holds what was written to it."""
    try:
        sums: dict[str, list[int]] = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        same = all(_checksums(folder, name) == known for name, known in sums.items())
        return same and all(len(_open(folder, name, memory_map=True)) >= 0 for name in sums)
    except (OSError, ValueError, AttributeError):
        return False


def _checksums(folder: Path, name: str) -> list[int]:
    return [checksum(folder / f"{name}.{part}.npy") for part in ("values", "offsets")]
