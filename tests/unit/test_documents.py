"""Continued pre-training: texts without a prompt, cut into pieces of which no token is lost."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.effects.small_runs import material_of

from leyden.backbone.tiny import tiny_tokenizer
from leyden.data.documents import cut_documents
from leyden.settings.errors import ConfigError
from leyden.training.prepare import Material

TOKENIZER = tiny_tokenizer()
PLAIN = ["dataset.prompt_column=[]"]
TEXTS = ["abcdefgh", "abcdefghi", "x", "0123456789abcdef", "end"]


def pieces_of(folder: Path, texts: list[str], *overrides: str) -> list[tuple[int, list[int], list[int]]]:
    """Row, tokens and targets of each piece."""
    trees = material_of(folder, {"a": texts}, *PLAIN, *overrides).train.trees
    found = []
    for number in range(len(trees)):
        tree = trees[number].tree
        found.append((trees.part.samples[number][-1], tree.tokens.tolist(), tree.tokens[tree.targets].tolist()))
    return found


@pytest.mark.parametrize("limit", [2, 3, 4, 8, 9, 64])
def test_no_token_is_lost_and_the_end_stands_at_the_end_of_a_text_alone(tmp_path: Path, limit: int) -> None:
    found = pieces_of(tmp_path, TEXTS, f"tokenizer.max_length={limit}")
    for row, text in enumerate(TEXTS):
        pieces = [tokens for at, tokens, _ in found if at == row]
        whole = TOKENIZER(text, add_special_tokens=False)["input_ids"]
        assert [token for piece in pieces for token in piece] == [*whole, TOKENIZER.eos_token_id]
        assert all(len(piece) <= limit for piece in pieces)
        assert all(len(piece) == limit for piece in pieces[:-2]), "full pieces"
    assert all(targets == tokens[1:] for _, tokens, targets in found), "all but the first token of a piece"


def test_the_last_token_goes_with_the_end_that_has_no_room(tmp_path: Path) -> None:
    found = [tokens for _, tokens, _ in pieces_of(tmp_path, ["abcdefgh", "abc"], "tokenizer.max_length=4")]
    assert [TOKENIZER.decode(tokens) for tokens in found] == ["abcd", "efg", "h<|im_end|>", "abc<|im_end|>"]


def test_without_an_end_token_a_text_fills_its_pieces(tmp_path: Path) -> None:
    found = pieces_of(tmp_path, ["abcdefgh", "abc"], "tokenizer.max_length=4", "dataset.add_eos_token_to_answer=false")
    assert [TOKENIZER.decode(tokens) for _, tokens, _ in found] == ["abcd", "efgh", "abc"]


def test_a_length_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tokenizer.max_length=1 has no room"):
        pieces_of(tmp_path, TEXTS, "tokenizer.max_length=1")


def test_with_a_prompt_nothing_is_cut_into_pieces(tmp_path: Path) -> None:
    trees = material_of(tmp_path, {"p": TEXTS, "a": TEXTS}).train.trees
    assert trees.pieces is None
    assert len(trees) == len(TEXTS)


def test_folders_of_text_files_are_read_and_cut(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in (("b.txt", "abcdefgh"), ("a.md", "0123456"), ("c.txt", "xyz")):
        (folder / name).write_text(text)
    overrides = [f"dataset.train_dataframe={folder}", "dataset.answer_column=text", "tokenizer.max_length=8",
                 "dataset.validation_size=0.34"]  # fmt: skip
    material = material_of(tmp_path, {"a": TEXTS}, *PLAIN, *overrides, same_rows=False)
    trees = [part.trees for part in (material.train, material.validation)]
    found = sorted(TOKENIZER.decode(part[n].tree.tokens.tolist()) for part in trees for n in range(len(part)))
    assert found == sorted(["0123456<|im_end|>", "abcdefg", "h<|im_end|>", "xyz<|im_end|>"])


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return material_of(tmp_path_factory.mktemp("texts"), {"a": TEXTS}, *PLAIN)


@given(st.integers(0, 60), st.integers(2, 17))
@settings(deadline=None)
def test_pieces_tile_a_text_of_any_length(material: Material, length: int, limit: int) -> None:
    part = replace(material.train.trees.part, samples=((1,),))
    _, pieces = cut_documents(part, np.full(len(TEXTS), length), limit, material.template)
    assert (pieces[0][0], pieces[-1][1]) == (0, length)
    assert all(one[1] == two[0] for one, two in itertools.pairwise(pieces))
    assert all(stop - start <= limit - (stop == length) for start, stop in pieces)
