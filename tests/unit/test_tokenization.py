from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from leyden.backbone.tiny import tiny_tokenizer
from leyden.data import tokenization
from leyden.data.tokenization import TokenColumn, control_tokens, encode, tokenize_columns, tokenizer_key

COLUMNS = {"prompt": ["one", "", "質 <|im_end|>", "x" * 300], "answer": ["a", "b", "c\n", ""]}
Columns = dict[str, Sequence[str]]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LEYDEN_CACHE", str(folder))
    return folder


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each call of the tokenizer was given."""
    calls: list[int] = []

    def spy(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], special: bool = False) -> Any:
        calls.append(len(texts))
        return original(tokenizer, texts, special)

    original = tokenization._encoded
    monkeypatch.setattr(tokenization, "_encoded", spy)
    return calls


def rows(columns: dict[str, TokenColumn]) -> dict[str, list[list[int]]]:
    return {name: [column.row(row) for row in range(len(column))] for name, column in columns.items()}


def expected(columns: Columns) -> dict[str, list[list[int]]]:
    """Bytes, numbered as the tiny tokenizer numbers them."""
    vocabulary = tiny_tokenizer().backend_tokenizer
    return {
        name: [[token for character in text for token in vocabulary.encode(character).ids] for text in texts]
        for name, texts in columns.items()
    }


@pytest.mark.parametrize("cached", [True, False])
def test_rows_hold_the_ids_of_their_texts(cached: bool) -> None:
    columns, hit = tokenize_columns(COLUMNS, tiny_tokenizer(), cache=cached)
    assert not hit
    assert rows(columns) == expected(COLUMNS)
    assert columns["prompt"].lengths().tolist() == [3, 0, 14, 300]
    assert columns["prompt"].values.dtype == np.int32


def test_texts_are_handed_to_the_tokenizer_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.is_fast  # a fast tokenizer spreads the texts of one call over the cores
    monkeypatch.setattr(tokenization, "CHUNK", 3)
    sizes: list[int] = []
    call = type(tokenizer).__call__

    def spy(self: Any, texts: list[str], **options: Any) -> Any:
        sizes.append(len(texts))
        return call(self, texts, **options)

    monkeypatch.setattr(type(tokenizer), "__call__", spy)
    texts = [str(number) for number in range(8)]
    assert [len(ids) for ids in encode(tokenizer, texts)] == [1] * 8
    assert sizes == [3, 3, 2]
    columns, _ = tokenize_columns({"a": texts}, tokenizer, cache=False)
    assert rows(columns)["a"] == encode(tokenizer, texts)


def test_a_second_start_reads_the_same_from_the_cache(counted: list[int]) -> None:
    first, hit = tokenize_columns(COLUMNS, tiny_tokenizer(), cache=True)
    assert (hit, counted) == (False, [4, 4])
    second, hit = tokenize_columns(COLUMNS, tiny_tokenizer(), cache=True)
    assert (hit, counted) == (True, [4, 4])
    assert rows(second) == rows(first)
    assert isinstance(second["prompt"].values, np.memmap)


def test_columns_without_a_token_and_without_a_row_are_kept_too() -> None:
    for columns in ({"a": ["", ""]}, {"a": []}, {}):
        for hit in (False, True):
            found, was = tokenize_columns(columns, tiny_tokenizer(), cache=True)
            assert was == hit
            assert rows(found) == {name: [[] for _ in texts] for name, texts in columns.items()}


CHANGES: dict[str, Callable[[Columns], Columns]] = {
    "a letter": lambda columns: {**columns, "answer": ["a", "b", "d\n", ""]},
    "the order of the rows": lambda columns: {**columns, "answer": ["b", "a", "c\n", ""]},
    "a row more": lambda columns: {name: [*texts, ""] for name, texts in columns.items()},
    "where a text ends": lambda columns: {**columns, "answer": ["ab", "", "c\n", ""]},
    "the separator": lambda columns: {**columns, "prompt": [f"{text}\n" for text in columns["prompt"]]},
    "the roles": lambda columns: {"prompt": columns["answer"], "answer": columns["prompt"]},
    "a column more": lambda columns: {**columns, "system": ["", "", "", ""]},
    "a column less": lambda columns: {"prompt": columns["prompt"]},
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_the_texts_is_a_miss(what: str) -> None:
    tokenize_columns(COLUMNS, tiny_tokenizer(), cache=True)
    changed = CHANGES[what](dict(COLUMNS))
    found, hit = tokenize_columns(changed, tiny_tokenizer(), cache=True)
    assert not hit
    assert rows(found) == expected(changed)
    assert tokenize_columns(COLUMNS, tiny_tokenizer(), cache=True)[1]


def lower(tokenizer: Any) -> None:
    from tokenizers.normalizers import Lowercase

    tokenizer.backend_tokenizer.normalizer = Lowercase()


def prefix(tokenizer: Any) -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    tokenizer.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True, use_regex=False)


def merged(tokenizer: Any) -> None:
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["vocab"]["on"] = 1000
    state["model"]["merges"] = [["o", "n"]]
    tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(state))


@pytest.mark.parametrize(
    "change",
    [
        lower,
        prefix,
        merged,
        lambda tokenizer: tokenizer.add_tokens(["one"]),
        lambda tokenizer: tokenizer.add_tokens([AddedToken("one", special=True)]),
    ],
)
def test_a_change_of_the_tokenizer_is_a_miss(change: Callable[[Any], object]) -> None:
    tokenize_columns(COLUMNS, tiny_tokenizer(), cache=True)
    tokenizer = tiny_tokenizer()
    change(tokenizer)
    found, hit = tokenize_columns(COLUMNS, tokenizer, cache=True)
    assert not hit
    assert rows(found)["prompt"] == encode(tokenizer, COLUMNS["prompt"])


@pytest.mark.parametrize("marks", [{"normalized": True}, {"lstrip": True, "rstrip": True}, {"single_word": True}, {}])
def test_a_control_token_that_is_not_marked_special_is_text_in_a_table(marks: dict[str, bool]) -> None:
    tokenizer, plain = tiny_tokenizer(), tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("<think>", special=False, **marks), AddedToken("</think>", special=False)])
    text = "1 <think> 2</think><|im_end|>"
    library = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert {261, 262} <= set(library), "the library reads them as control tokens"
    assert encode(tokenizer, [text]) == encode(plain, [text]) == expected({"a": [text]})["a"]
    columns, _ = tokenize_columns({"a": [text]}, tokenizer, cache=False)
    assert rows(columns)["a"] == encode(plain, [text])
    assert {261, 262, 260} <= set(encode(tokenizer, [text], special=True)[0]), "a template still writes them"
    after = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert after == library, "the tokenizer itself was changed"


def test_white_space_and_pieces_of_the_vocabulary_stay_tokens_of_their_own() -> None:
    tokenizer: Any = tiny_tokenizer()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["vocab"]["<h1>"] = 300
    tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(state))
    names = ["   ", "\n\n", "<h1>", "<tool_call>"]
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in names])
    own = tokenizer.convert_tokens_to_ids(names)
    assert len(set(own)) == 4
    assert own[2] == 300
    assert control_tokens(tokenizer) - control_tokens(tiny_tokenizer()) == {"<tool_call>"}
    assert encode(tokenizer, ["   \n\n<h1>"])[0] == own[:3]
    key = tokenizer_key(tokenizer)
    tokenizer.chat_template = "{{ '<h1>' }}" + tokenizer.chat_template
    assert "<h1>" in control_tokens(tokenizer), "what the template writes must not come out of a text"
    assert encode(tokenizer, ["   \n\n<h1>"])[0] == [*own[:2], *encode(tiny_tokenizer(), ["<h1>"])[0]]
    assert tokenizer_key(tokenizer) != key


def test_another_version_of_the_library_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenize_columns(COLUMNS, tiny_tokenizer(), cache=True)
    monkeypatch.setattr("tokenizers.__version__", "0")
    assert not tokenize_columns(COLUMNS, tiny_tokenizer(), cache=True)[1]


def test_using_a_tokenizer_does_not_change_its_key() -> None:
    tokenizer = tiny_tokenizer()
    key = tokenizer_key(tokenizer)
    tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=2, split_special_tokens=True)
    encode(tokenizer, ["a"])
    assert tokenizer_key(tokenizer) == key
    found, _ = tokenize_columns(COLUMNS, tokenizer, cache=True)
    assert rows(found) == expected(COLUMNS)


def test_without_the_cache_nothing_is_left_behind(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: list[int]
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    tokenize_columns(COLUMNS, tiny_tokenizer(), cache=True)
    before = sorted(cache.rglob("*"))
    found, hit = tokenize_columns(COLUMNS, tiny_tokenizer(), cache=False)
    assert not hit
    assert counted == [4, 4, 4, 4]
    assert sorted(cache.rglob("*")) == before
    assert list(scratch.iterdir()) == []
    assert rows(found) == expected(COLUMNS)


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [shorten, flip, Path.unlink, lambda file: file.write_bytes(b"")])
@pytest.mark.parametrize("name", ["prompt.values.npy", "prompt.offsets.npy", "checksums.json"])
def test_a_damaged_cache_is_never_used(cache: Path, name: str, damage: Callable[[Path], object]) -> None:
    tokenize_columns(COLUMNS, tiny_tokenizer(), cache=True)
    (file,) = cache.glob(f"tokens/*/{name}")
    damage(file)
    found, hit = tokenize_columns(COLUMNS, tiny_tokenizer(), cache=True)
    assert not hit
    assert rows(found) == expected(COLUMNS)
    assert tokenize_columns(COLUMNS, tiny_tokenizer(), cache=True)[1]
