from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.effects.small_runs import material_of, settings_of

from leyden.data.token_lengths import length_histogram, target_lengths, whole_lengths
from leyden.data.token_texts import TokenTexts
from leyden.data.tokenization import encode
from leyden.training.data_description import describe_data
from leyden.training.prepare import Material, prepare

HOSTILE = "<script>alert(1)</script>\x00\n\u202eabc 🦙 =1+1"
TURNS = {
    "p": ["one two", "three", HOSTILE, "one two", "word " * 60],
    "a": ["yes", "no", "perhaps", "yes", "so"],
    "id": ["r1", "r2", "r3", "r4", "r5"],
    "up": ["", "r1", "", "", ""],
    "sys": ["be kind", "", "", "be kind", ""],
}
CHAINS = ["dataset.id_column=id", "dataset.parent_id_column=up", "dataset.limit_chained_samples=false"]
CHAINED = [*CHAINS, "dataset.system_column=sys"]


def described(folder: Path, columns: dict[str, Any], *overrides: str) -> tuple[dict[str, Any], Material]:
    settings = settings_of(folder, columns, *overrides)
    material = prepare(settings)
    return json.loads(json.dumps(describe_data(settings, material))), material


def text_of(tokens: list[list[str]], letters: str = "") -> str:
    return "".join(text for text, _, said in tokens if all(letter in said for letter in letters))


@pytest.fixture(scope="module")
def chained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Material]:
    return described(tmp_path_factory.mktemp("chained"), TURNS, *CHAINED)


def test_every_token_is_shown_as_the_model_sees_it(chained: tuple[dict[str, Any], Material]) -> None:
    data, material = chained
    trees, texts = material.train.trees, TokenTexts(material.tokenizer)
    train = [sample for sample in data["samples"] if sample["part"] == "train"]
    assert [sample["sample"] for sample in train] == [0, 1, 2, 3, 4]
    for sample in train:
        tree = trees[sample["sample"]].tree
        shown = sample["tokens"]
        if sample["left_out"] is None:
            assert [text for text, _, _ in shown] == [texts[token].text for token in tree.tokens.tolist()]
            targets = [place for place, token in enumerate(shown) if "t" in token[2]]
            assert targets == tree.targets.tolist()


def test_roles_and_markup_tell_the_template_from_the_table(chained: tuple[dict[str, Any], Material]) -> None:
    sample = chained[0]["samples"][1]  # a second turn: system, prompt, answer, prompt, answer
    tokens = sample["tokens"]
    plain = {
        role: "".join(text for text, kind, said in tokens if kind == role and "m" not in said)
        for role in ("system", "prompt", "answer")
    }
    assert plain == {"system": "be kind", "prompt": "one twothree", "answer": "yesno"}
    assert text_of(tokens, "m") == "<|system|><|im_end|><|prompt|><|im_end|><|answer|><|im_end|>" + (
        "<|prompt|><|im_end|><|answer|><|im_end|>"
    )
    assert text_of(tokens, "c") == "<|im_end|>" * 5  # markers of text are markup, and no control tokens
    assert sample["id"] == "r2"
    assert sample["turns"] == 2


def test_a_beginning_that_another_turn_has_too_is_shared(chained: tuple[dict[str, Any], Material]) -> None:
    first, second, alone = chained[0]["samples"][:3]
    assert text_of(second["tokens"], "s") == text_of(first["tokens"])  # all of the first turn, and no more
    assert text_of(alone["tokens"], "s") == ""


def test_parts_of_a_character_are_bytes_and_hostile_text_is_whole(chained: tuple[dict[str, Any], Material]) -> None:
    tokens = chained[0]["samples"][2]["tokens"]
    raw = b"".join(
        bytes.fromhex(text) if "b" in said else text.encode()
        for text, kind, said in tokens
        if kind == "prompt" and "m" not in said
    )
    assert raw.decode() == HOSTILE
    assert [text for text, _, said in tokens if "b" in said][-4:] == ["F0", "9F", "A6", "99"]


def test_what_the_table_has(chained: tuple[dict[str, Any], Material]) -> None:
    data, _ = chained
    (train, validation) = data["tables"]
    assert train["parts"] == ["train"]
    assert validation["parts"] == ["validation"]
    assert train["formats"] == ["json lines"]
    assert train["rows"] == 5
    columns = {column["name"]: column for column in train["columns"]}
    assert {name: column["role"] for name, column in columns.items()} == {
        "p": "prompt", "a": "answer", "id": "id", "up": "parent id", "sys": "system",
    }  # fmt: skip
    assert columns["up"]["missing"] == 4
    assert columns["a"] == {
        "name": "a", "role": "answer", "kind": "text", "missing": 0, "distinct": 4, "looked_at": 5,
        "examples": ["yes", "no", "perhaps"],
    }  # fmt: skip
    assert len(columns["p"]["examples"]) == 3
    assert "more characters" not in columns["p"]["examples"][0]
    assert data["duplicates"]["rows"] == 1
    assert data["duplicates"]["examples"] == [{"place": "line 4", "prompt": "one two", "answer": "yes"}]
    assert data["overlap"]["exact"] == 5


def test_lengths_are_those_before_the_cut(chained: tuple[dict[str, Any], Material], tmp_path: Path) -> None:
    _, cut = chained
    whole = material_of(tmp_path, TURNS, *CHAINED, "tokenizer.max_length=2000")
    lengths = [tree.longest() for _, tree, _ in (whole.train.trees[sample] for sample in range(5))]
    assert whole_lengths(whole.train.trees).tolist() == lengths
    assert whole_lengths(cut.train.trees).tolist() == lengths  # although its longest sample lost a part
    found = cut.train.trees[4].tree.longest()
    assert found == 128 < lengths[4]
    (histogram,) = describe_data(settings_of(tmp_path, TURNS, *CHAINED), cut)["lengths"]
    assert histogram["parts"]["train"]["over"] == 1
    assert sum(histogram["parts"]["train"]["counts"]) == 5


def test_lengths_of_the_tokenizers_own_template_and_of_more_turns_than_are_laid_out(tmp_path: Path) -> None:
    turns = 19
    columns = {
        "p": [f"turn {number}" for number in range(turns)], "a": ["yes"] * turns,
        "id": [f"r{number}" for number in range(turns)], "up": ["", *(f"r{number}" for number in range(turns - 1))],
    }  # fmt: skip
    trees = material_of(
        tmp_path, columns, *CHAINS, "dataset.chat_template=true", "tokenizer.max_length=4000"
    ).train.trees
    assert whole_lengths(trees).tolist() == [trees[sample].tree.longest() for sample in range(turns)]


def test_a_pair_is_a_shared_prompt_and_two_answers_with_their_difference(tmp_path: Path) -> None:
    columns = {"p": ["say it", "again"], "a": ["it is good", "yes"], "r": ["it is bad", "no"]}
    data, material = described(tmp_path, columns, "problem=dpo", "dataset.rejected_answer_column=r")
    sample = data["samples"][0]
    assert text_of(sample["tokens"]) == text_of(sample["tokens"], "s") == "<|prompt|>say it<|im_end|><|answer|>"
    assert text_of(sample["tokens"], "t") == ""
    chosen, rejected = (sample["pair"][side]["tokens"] for side in ("chosen", "rejected"))
    assert text_of(chosen, "t") == "it is good<|im_end|>"
    assert text_of(rejected, "t") == "it is bad<|im_end|>"
    assert text_of(chosen, "d") == " good"
    assert text_of(rejected, "d") == " bad"
    trees = material.train.trees
    assert whole_lengths(trees).tolist() == [trees[place].tree.longest() for place in range(2)]


def test_pairs_with_prompts_of_their_own_share_nothing(tmp_path: Path) -> None:
    columns = {"p": ["say it", "again"], "q": ["no", ""], "a": ["good", "yes"], "r": ["bad", "no"]}
    overrides = ["problem=dpo", "dataset.rejected_answer_column=r", "dataset.rejected_prompt_column=q"]
    data, _ = described(tmp_path, columns, *overrides)
    sample = data["samples"][0]
    assert sample["tokens"] == []
    assert text_of(sample["pair"]["rejected"]["tokens"]) == "<|prompt|>no<|im_end|><|answer|>bad<|im_end|>"


def test_labels_are_counted_for_each_part(tmp_path: Path) -> None:
    columns = {"p": ["a b", "c", "d", "e"], "a": ["tea", "milk", "tea", "tea"]}
    data, _ = described(tmp_path / "classes", columns, "problem=classification")
    assert data["balance"] == {part: {"milk": 1, "tea": 3} for part in ("train", "validation")}
    assert data["samples"][0]["labels"] == {"a": "tea"}
    assert all("t" not in said for sample in data["samples"] for _, _, said in sample["tokens"])
    numbers = {"p": ["a", "b", "c"], "a": [1.5, 2.5, 2.5]}
    data, _ = described(tmp_path / "numbers", numbers, "problem=regression")
    assert data["balance"] is None
    assert sum(data["targets"]["a"]["parts"]["train"]["counts"]) == 3
    assert data["targets"]["a"]["edges"][0] == 1.5
    assert [column["kind"] for column in data["tables"][0]["columns"]] == ["text", "number"]


def test_tags_are_counted_column_by_column(tmp_path: Path) -> None:
    columns = {"p": ["x", "y", "z"], "a": [1, 0, 1], "b": [0, 0, 1]}
    data, _ = described(tmp_path, columns, "problem=classification", "dataset.answer_column=[a,b]")
    assert data["balance"]["train"] == {"a": 2, "b": 1}


def test_sources_and_targets_have_limits_of_their_own(tmp_path: Path) -> None:
    columns = {"p": ["a long question", "b"], "a": ["a longer answer than that", "c"]}
    data, material = described(tmp_path, columns, "problem=seq2seq", "problem.max_target_length=8")
    sources, targets = data["lengths"]
    assert (sources["of"], targets["of"], targets["limit"]) == ("sources", "targets", 8)
    assert targets["parts"]["train"]["over"] == 1
    trees = material.train.trees
    found = target_lengths(trees)
    assert found is not None
    ends = [len(encode(material.tokenizer, [text])[0]) + 1 for text in columns["a"]]
    assert found.tolist() == ends
    assert data["samples"][0]["cut"] == {"answer": 1}


def test_pieces_of_plain_texts(tmp_path: Path) -> None:
    columns = {"p": ["", ""], "a": ["word " * 60, "short"]}
    data, material = described(tmp_path, columns, "dataset.prompt_column=[]", "tokenizer.max_length=100")
    assert data["lengths"][0]["of"] == "pieces"
    assert data["lengths"][0]["parts"]["train"]["over"] == 0
    assert sum(data["lengths"][0]["parts"]["train"]["counts"]) == len(material.train.trees) == 5


def test_the_middle_of_a_long_text_is_left_out_with_its_size(tmp_path: Path) -> None:
    columns = {"p": ["q", "r"], "a": ["abcd " * 200, "x"]}
    data, _ = described(tmp_path, columns, "tokenizer.max_length=2000")
    sample = data["samples"][0]
    assert len(sample["tokens"]) == 300
    assert sample["left_out"] == {"after": 150, "tokens": sample["length"] - 300}


@pytest.mark.parametrize("longest", [0, 1, 60, 127, 128, 129, 500, 100_000])
def test_a_histogram_counts_every_length_and_ends_a_bin_at_a_near_limit(longest: int) -> None:
    lengths = np.array([1, 5, min(longest, 40), longest])
    found = length_histogram({"train": lengths}, 128)
    edges, counts = found["edges"], found["parts"]["train"]["counts"]
    assert len(edges) == len(counts) + 1
    assert sum(counts) == 4
    if longest * 2 > 128:
        assert 129 in edges
    over = sum(count for count, start in zip(counts, edges, strict=False) if start > 128)
    assert found["parts"]["train"]["over"] == (longest > 128) == over


def test_two_thousand_rows_are_described_in_a_fraction_of_a_second(tmp_path: Path) -> None:
    words = [f"word {number} of the table and what follows it" for number in range(2000)]
    columns = {"p": words, "a": words[::-1], "r": words[1:] + words[:1]}
    settings = settings_of(tmp_path, columns, "problem=dpo", "dataset.rejected_answer_column=r")
    material = prepare(settings)
    clock = time.process_time()
    describe_data(settings, material)
    assert time.process_time() - clock < 0.3
