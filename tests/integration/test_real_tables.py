"""Real public tables through the whole data room; without the tables the tests skip."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf

from leyden.backbone.tiny import tiny_tokenizer
from leyden.data.dataset import Limits, TreeDataset, check_fit
from leyden.data.rows import read_parts
from leyden.data.templates import make_template
from leyden.data.tokenization import tokenize_columns
from leyden.problem.base import Problem
from leyden.problem.causal_lm import CausalLM
from leyden.problem.dpo import DPO
from leyden.problem.losses import dpo
from leyden.settings.data_groups import Dataset

CONF = Path(__file__).parents[2] / "conf"
SHARED = {
    "dataset": OmegaConf.load(CONF / "dataset" / "_shared.yaml"),
    "problem": OmegaConf.load(CONF / "problem" / "causal_lm.yaml"),
}
DEFAULTS: Any = OmegaConf.to_container(OmegaConf.create(SHARED), resolve=True)
LOSS = partial(dpo, beta=0.1)
CHAINS = {
    "prompt_column": "instruction", "answer_column": "chosen", "system_column": "system", "id_column": "id",
    "parent_id_column": "parent_id",
}  # fmt: skip
PAIRS = {"rejected_answer_column": "rejected"}
ALPACA = {"prompt_column": ["instruction", "input"], "answer_column": "output"}
ONE_TURN = {"prompt_column": "instruction", "answer_column": "chosen", "system_column": "system", **PAIRS}


def trees_of(path: Path, columns: dict[str, Any], problem: Problem, max_length: int = 2048) -> list[TreeDataset]:
    defaults = DEFAULTS["dataset"]
    data = Dataset(**{**defaults, "train_dataframe": str(path), **columns})
    parts = read_parts(data)
    tokenizer = tiny_tokenizer()
    template = make_template(data, tokenizer)
    tokens, _ = tokenize_columns(parts[0].source.texts, tokenizer, cache=False)
    return [TreeDataset(part, tokens, template, problem.build_tree, Limits(max_length)) for part in parts]


def check(trees: TreeDataset, max_length: int, per_sample: int) -> None:
    fit = trees.measure()
    check_fit(trees, fit, "training")
    assert len(fit.lengths) == len(trees)
    for sample, length in enumerate(fit.lengths):
        tree = trees[sample][1]
        assert len(tree.tokens) == length
        assert tree.num_sequences == per_sample
        assert max(len(path) for path in tree.paths()) <= max_length


def test_alpaca_reads_as_pandas_reads_it(shared_data: Path) -> None:
    path = shared_data / "sft_alpaca_en.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    train, validation = trees_of(path, ALPACA, CausalLM(loss=LOSS))
    texts = train.part.source.texts
    assert texts["answer"] == frame["output"].tolist()
    joined = [a + "\n\n" + b for a, b in zip(frame["instruction"], frame["input"], strict=True)]
    assert texts["prompt"] == joined
    assert sorted(train.part.rows + validation.part.rows) == list(range(len(frame)))
    assert len(validation) == 100
    for trees in (train, validation):
        check(trees, 2048, 1)


def test_pairs_of_one_turn(shared_data: Path) -> None:
    path = shared_data / "dpo_pairs_en.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    train, validation = trees_of(path, ONE_TURN, DPO(loss=LOSS), max_length=1500)
    assert len(train) + len(validation) == len(rows) == 194
    source = train.part.source
    assert source.missing["system"] == [row for row, cells in enumerate(rows) if not cells["system"]]
    for trees in (train, validation):
        check(trees, 1500, 2)
    tokenizer = tiny_tokenizer()
    for sample, (row,) in enumerate(validation.part.samples):
        text = tokenizer.decode(validation[sample][1].tokens.tolist())
        assert text.startswith("<|system|>") == bool(rows[row]["system"])


@pytest.mark.parametrize("problem", [CausalLM(loss=LOSS), DPO(loss=LOSS)], ids=["causal_lm", "dpo"])
def test_chains_of_parents(shared_data: Path, problem: Problem) -> None:
    path = shared_data / "dpo_chains_en.parquet"
    frame = pd.read_parquet(path)
    pairs = isinstance(problem, DPO)
    train, validation = trees_of(path, {**CHAINS, **(PAIRS if pairs else {})}, problem, max_length=4096)
    assert len(train) + len(validation) == 300
    assert len(validation) == 30
    parent = {row.id: row.parent_id for row in frame.itertuples()}
    ids = frame["id"].tolist()
    for trees in (train, validation):
        for rows in trees.part.samples:
            assert ids[rows[-1]] not in set(parent.values())
            assert pd.isna(parent[ids[rows[0]]]) or parent[ids[rows[0]]] not in parent
            assert [parent[ids[row]] for row in rows[1:]] == [ids[row] for row in rows[:-1]]
        check(trees, 4096, 2 if pairs else 1)


def test_twenty_thousand_rows_are_ready_in_seconds(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = (json.dumps({"p": f"question {n} " * 4, "a": f"answer {n} " * 6}) for n in range(20_000))
    path.write_text("\n".join(lines))
    clock = perf_counter()
    train, validation = trees_of(path, {"prompt_column": "p", "answer_column": "a"}, CausalLM(loss=LOSS))
    lengths = [len(trees.measure().lengths) for trees in (train, validation)]
    assert lengths == [18_000, 2_000]
    assert perf_counter() - clock < 60  # a few seconds on a quiet machine
