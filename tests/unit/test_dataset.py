from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from leyden.backbone.tiny import tiny_tokenizer
from leyden.data.collator import Collator
from leyden.data.dataset import Limits, Sample, TreeDataset, check_fit
from leyden.data.rows import read_parts, whole_part
from leyden.data.sources import read_source
from leyden.data.templates import make_template
from leyden.data.tokenization import tokenize_columns
from leyden.data.trees import Tree
from leyden.problem.base import Problem
from leyden.problem.causal_lm import CausalLM
from leyden.problem.dpo import DPO
from leyden.problem.losses import dpo
from leyden.settings.data_groups import Dataset
from leyden.settings.errors import DataError

CONF = Path(__file__).parents[2] / "conf"
SHARED = {
    "dataset": OmegaConf.load(CONF / "dataset" / "_shared.yaml"),
    "problem": OmegaConf.load(CONF / "problem" / "causal_lm.yaml"),
}
DEFAULTS: Any = OmegaConf.to_container(OmegaConf.create(SHARED), resolve=True)
CHAIN = {"parent_id_column": "parent", "id_column": "id"}
COLUMNS = {
    "id": ["1", "2", "3", "4"],
    "parent": ["", "1", "2", ""],
    "p": ["p1", "p2", "p3", "p4"],
    "a": ["a1", "a22", "a333", "b"],
    "r": ["a1", "a22", "worse", "worst"],
    "s": ["kind", "", "x", ""],
}
TOKENIZER = tiny_tokenizer()
END = TOKENIZER.eos_token


def causal(**options: Any) -> Problem:
    return CausalLM(loss=partial(dpo, beta=0.1), **options)


def pairs() -> Problem:
    return DPO(loss=partial(dpo, beta=0.1))


def trees_of(
    folder: Path, problem: Problem, columns: dict[str, list[str]] = COLUMNS, *, max_length: int = 512,
    whole: bool = False, answers: bool = True, **settings: Any,
) -> TreeDataset:  # fmt: skip
    names = list(columns)
    path = folder / "t.jsonl"
    rows = zip(*columns.values(), strict=True)
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    defaults = DEFAULTS["dataset"]
    data = Dataset(**{**defaults, "train_dataframe": str(path), "prompt_column": "p", "answer_column": "a", **settings})
    optional = () if answers else ("dataset.answer_column",)
    source = read_source(data, str(path), "s", optional=optional, answers=answers)
    tokens, _ = tokenize_columns(source.texts, TOKENIZER, cache=False)
    part = whole_part(source)
    if not whole:
        validation = {"validation_strategy": "custom", "validation_dataframe": str(path)}
        part = read_parts(data.model_copy(update=validation))[0]
    return TreeDataset(part, tokens, make_template(data, TOKENIZER), problem.build_tree, Limits(max_length))


def text(tree: Tree) -> str:
    return str(TOKENIZER.decode(tree.tokens.tolist()))


def predicted(tree: Tree, sequence: int = 0) -> str:
    return str(TOKENIZER.decode(tree.tokens[tree.targets[tree.sequences == sequence]].tolist()))


def turn(prompt: str, answer: str) -> str:
    return f"<|prompt|>{prompt}{END}<|answer|>{answer}{END}"


def test_a_conversation_becomes_its_text_and_its_answers_the_targets(tmp_path: Path) -> None:
    trees = trees_of(tmp_path, causal(), **CHAIN, system_column="s")
    assert len(trees) == 2
    number, tree, _ = trees[0]
    assert number == 0
    assert text(tree) == f"<|system|>kind{END}" + turn("p1", "a1") + turn("p2", "a22") + turn("p3", "a333")
    assert predicted(tree) == f"a1{END}a22{END}a333{END}"
    assert text(trees[1][1]) == turn("p4", "b")


def test_a_ghost_is_the_same_tree_under_another_number(tmp_path: Path) -> None:
    trees = trees_of(tmp_path, causal(), **CHAIN)
    number, tree, _ = trees[~1]
    assert number == ~1
    assert text(tree) == text(trees[1][1])


def test_every_row_is_a_sample_when_chains_are_not_limited(tmp_path: Path) -> None:
    trees = trees_of(tmp_path, causal(only_last_answer=True), **CHAIN, limit_chained_samples=False)
    assert [predicted(tree) for _, tree, _ in map(trees.__getitem__, range(4))] == [
        f"a1{END}", f"a22{END}", f"a333{END}", f"b{END}",
    ]  # fmt: skip
    assert text(trees[1][1]) == turn("p1", "a1") + turn("p2", "a22")
    fit = trees.measure()
    assert fit.targets == sum(len(a) + 1 for a in COLUMNS["a"])


def test_unmasked_prompts_are_targets_all_but_the_first_token(tmp_path: Path) -> None:
    trees = trees_of(tmp_path, causal(mask_prompt_labels=False), **CHAIN, system_column="s")
    tree = trees[0][1]
    assert tree.targets.tolist() == list(range(1, len(tree.tokens)))
    assert trees.measure().targets == trees.measure().tokens - len(trees)


def test_the_measure_counts_tokens_targets_and_cuts(tmp_path: Path) -> None:
    trees = trees_of(tmp_path, causal(), **CHAIN, system_column="s")
    whole = [len(TOKENIZER(text(trees[sample][1]))["input_ids"]) for sample in range(2)]
    fit = trees.measure()
    assert fit.lengths == tuple(whole)
    assert fit.tokens == sum(whole)
    assert fit.targets == 3 + 4 + 5 + 2
    assert not fit.cut
    trees = trees_of(tmp_path, causal(), **CHAIN, system_column="s", max_length=60)
    fit = trees.measure()
    assert fit.cut == {"turns": 1}
    assert max(fit.lengths) <= 60
    assert fit.targets == 5 + 2  # system and one turn with markers take 15 + 26


def test_the_measure_of_pairs_counts_the_shared_prompt_once(tmp_path: Path) -> None:
    trees = trees_of(tmp_path, pairs(), **CHAIN, rejected_answer_column="r")
    tree = trees[0][1]
    history = turn("p1", "a1") + turn("p2", "a22") + f"<|prompt|>p3{END}<|answer|>"
    assert text(tree) == history + f"a333{END}worse{END}"
    assert [predicted(tree, side) for side in (0, 1)] == [f"a333{END}", f"worse{END}"]
    assert trees.measure().lengths[0] == len(tree.tokens)
    assert trees.measure().targets == 5 + 6 + 2 + 6


def test_an_own_prompt_of_the_worse_answer_reaches_the_tree(tmp_path: Path) -> None:
    trees = trees_of(tmp_path, pairs(), rejected_answer_column="r", rejected_prompt_column="s")
    paths = [TOKENIZER.decode(trees[0][1].tokens[path].tolist()) for path in trees[0][1].paths()]
    assert paths == [turn("p1", "a1"), turn("kind", "a1")]


EMPTY = {"p": ["p" * 8] * 3, "a": ["", "", "x"], "r": ["y", "", "z"]}


def test_samples_without_a_target_are_counted(tmp_path: Path) -> None:
    options: dict[str, Any] = {"answers": False, "whole": True, "add_eos_token_to_answer": False}
    trees = trees_of(tmp_path, causal(), EMPTY, **options)
    fit = trees.measure()
    assert fit.cut == {"no target": 2}
    check_fit(trees, fit, "training")
    trees = trees_of(tmp_path, pairs(), EMPTY, **options, rejected_answer_column="r")
    assert trees.measure().cut == {"no target": 2}  # a pair needs both of its answers


@pytest.mark.parametrize("rejected", [None, "r"])
def test_data_without_any_target_is_refused(tmp_path: Path, rejected: str | None) -> None:
    options: dict[str, Any] = {"answers": False, "whole": True, "add_eos_token_to_answer": False}
    columns = {"p": ["p"] * 2, "a": ["", ""], "r": ["y", "z"]}
    trees = trees_of(tmp_path, pairs() if rejected else causal(), columns, **options, rejected_answer_column=rejected)
    with pytest.raises(DataError, match="none of the 2 training samples has") as caught:
        check_fit(trees, trees.measure(), "training")
    assert "dataset.answer_column" in str(caught.value)


def test_a_max_length_below_every_prompt_is_refused(tmp_path: Path) -> None:
    columns = {"p": ["p" * 40, "q" * 30], "a": ["x", "y"]}
    shortest = len("<|prompt|>") + 30 + 1 + len("<|answer|>")
    trees = trees_of(tmp_path, causal(), columns, max_length=shortest)
    with pytest.raises(DataError, match=rf"max_length={shortest} is smaller .* shortest has {shortest} tokens"):
        check_fit(trees, trees.measure(), "training")
    trees = trees_of(tmp_path, causal(), columns, max_length=shortest + 1)
    check_fit(trees, trees.measure(), "training")


def test_a_table_without_answers_can_be_written_out(tmp_path: Path) -> None:
    columns = {name: COLUMNS[name] for name in ("id", "parent", "p")}
    trees = trees_of(tmp_path, causal(), columns, **CHAIN, answers=False, whole=True)
    prompts = [TOKENIZER.decode(trees.conversation(row, answered=False).history) for row in range(4)]
    assert prompts[3] == f"<|prompt|>p4{END}<|answer|>"
    assert prompts[1] == turn("p1", "") + f"<|prompt|>p2{END}<|answer|>"


def test_the_generation_prompt_stands_before_the_answer(tmp_path: Path) -> None:
    trees = trees_of(tmp_path, causal(), **CHAIN, system_column="s")
    prompt = TOKENIZER.decode(trees.conversation(0, answered=False).history)
    assert text(trees[0][1]) == prompt + f"a333{END}"
    assert prompt.endswith("<|answer|>")


@pytest.mark.parametrize("packed", [True, False])
def test_the_collator_joins_trees_and_keeps_their_numbers(tmp_path: Path, packed: bool) -> None:
    trees = trees_of(tmp_path, pairs(), **CHAIN, rejected_answer_column="r")
    samples: Sequence[Sample] = [trees[1], trees[~0]]
    batch = Collator("packed" if packed else "padded", 257)(samples)
    assert batch.samples == (1,)
    assert (batch.attention_mask is None) == packed
    ids = batch.input_ids[batch.target_rows, batch.target_columns + 1] if not packed else batch.target_ids
    assert torch.equal(ids[:2], torch.tensor(TOKENIZER(f"b{END}")["input_ids"]))
    assert TOKENIZER.decode(batch.target_ids) == f"b{END}worst{END}"
