"""The effects of tokenizer settings (spec 1.3 and X15), through composed configs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.effects.small_runs import Columns, material_of, settings_of

from leyden.backbone.scoring import base_model
from leyden.settings.errors import ConfigError
from leyden.training.assembly import load_backbone, make_collator, make_data
from leyden.training.prepare import prepare

LENGTHS = (1, 4, 6, 10)
TABLE: Columns = {"p": ["x", "y", "z", "w"], "a": [str(n) * n for n in LENGTHS]}
PLAIN = ["dataset.text_prompt_start=''", "dataset.text_answer_separator=''", "dataset.add_eos_token_to_prompt=false"]
CLASSES = "classification"
MARKED = "tokenizer.add_prompt_answer_tokens=true"


def loaders(folder: Path, columns: Columns, *overrides: str) -> tuple[Any, Any]:
    """Batches of training and of validation, made as in a run."""
    settings = settings_of(folder, columns, "trainer.batch_size=4", *overrides)
    material = prepare(settings)
    backbone, _, attention = load_backbone(settings, material)
    data = make_data(settings, material, make_collator(settings, material.tokenizer, backbone, attention))
    train, validation = (
        [part for batch in loader for part in batch] for loader in (data.train_dataloader(), data.val_dataloader())
    )
    return train, validation


@pytest.mark.parametrize("problem", ["causal_lm", "dpo", "seq2seq", "classification"])
@pytest.mark.parametrize("limit", [40, 64])
def test_t1_nothing_is_longer_than_max_length(tmp_path: Path, problem: str, limit: int) -> None:
    columns: Columns = {"p": ["a" * n for n in (3, 50, 30)], "a": ["b" * n for n in (50, 2, 20)], "r": ["c" * 60] * 3,
                        "k": [0, 1, 0]}  # fmt: skip
    extra = {"dpo": ["dataset.rejected_answer_column=r"], "classification": ["dataset.answer_column=k"]}
    material = material_of(
        tmp_path, columns, f"problem={problem}", f"tokenizer.max_length={limit}", *extra.get(problem, [])
    )
    trees = [material.train.trees[n].tree for n in range(3)]
    if problem == "seq2seq":
        parts = [(tree.starts[1], len(tree.tokens) - tree.starts[1]) for tree in trees]
        assert max(max(source, target) for source, target in parts) == min(limit, 51)
    else:
        assert max(tree.longest() for tree in trees) <= limit
    kinds = ("turns", "prompt", "answer")
    assert any(material.train.fit.cut[kind] for kind in kinds) or (limit == 64 and problem in ("seq2seq", CLASSES))


def test_t2_each_marker_becomes_one_token_and_the_embedding_grows(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, TABLE, MARKED, "lora=none", r"dataset.text_prompt_start='\nASK '")
    material = prepare(settings)
    tokenizer = material.tokenizer
    assert len(tokenizer) == 264
    ids = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("ASK", "<|answer|>", "<|system|>")}
    assert all(len(found) == 1 for found in ids.values())
    tokens = material.train.trees[0].tree.tokens.tolist()
    assert ids["ASK"][0] in tokens
    assert ids["<|answer|>"][0] in tokens
    model = load_backbone(settings, material)[0]
    assert base_model(model).get_input_embeddings().weight.shape[0] == 264  # type: ignore[union-attr,index]
    assert base_model(model).config.vocab_size == 264
    plain = prepare(settings_of(tmp_path, TABLE))
    assert len(plain.tokenizer) == 261
    assert len(tokens) < len(plain.train.trees[0].tree.tokens)


def test_t2_a_marker_that_is_a_token_already_adds_none(tmp_path: Path) -> None:
    own = ["dataset.text_prompt_start='<|im_start|>'", "dataset.text_answer_separator=''"]
    material = material_of(tmp_path, TABLE, MARKED, *own, "dataset.text_system_start=''")
    assert len(material.tokenizer) == 261


@pytest.mark.parametrize(
    ("overrides", "warned"),
    [
        (["lora=lora"], "adds 3 tokens whose embeddings stay random"),
        (["lora=lora", "lora.unfreeze_layers=[embed]"], None),
        (["lora=none"], None),
        (["lora=none", *PLAIN, "dataset.text_system_start=''"], "adds nothing, because every text marker is empty"),
    ],
)
def test_t2_what_cannot_help_is_said(tmp_path: Path, overrides: list[str], warned: str | None) -> None:
    warnings = [line for line in material_of(tmp_path, TABLE, MARKED, *overrides).warnings if MARKED in line]
    assert len(warnings) == (warned is not None)
    assert warned is None or warned in warnings[0]


@pytest.mark.parametrize(("quantile", "width"), [(0.5, 5), (0.75, 7), (1, 10), (0, 64)])
def test_t3_the_width_of_a_training_batch(tmp_path: Path, quantile: float, width: int) -> None:
    table: Columns = {"a": ["x" * n for n in LENGTHS]}
    overrides = [
        "dataset.prompt_column=[]", "dataset.add_eos_token_to_answer=false", "tokenizer.max_length=64",
        f"tokenizer.padding_quantile={quantile}", "backbone.attention_implementation=sdpa",
    ]  # fmt: skip
    train, validation = loaders(tmp_path, table, *overrides)
    assert [tuple(batch.input_ids.shape) for batch in train] == [(4, width)]
    assert max(batch.input_ids.shape[1] for batch in validation) == 10
    assert sum(batch.num_tokens for batch in validation) == sum(LENGTHS)


def test_t3_packed_batches_are_cut_to_the_same_tokens(tmp_path: Path) -> None:
    cut = ["tokenizer.padding_quantile=0.5", "trainer.drop_last_batch=false"]
    for problem in ([], ["problem=dpo", "dataset.rejected_answer_column=r"]):
        table: Columns = {**TABLE, "r": [str(n) * (n + 3) for n in LENGTHS]}
        (padded,), _ = loaders(tmp_path, table, *cut, *problem, "backbone.attention_implementation=sdpa")
        (packed,), _ = loaders(tmp_path, table, *cut, *problem, "backbone.attention_implementation=segments")
        assert torch.equal(padded.target_ids, packed.target_ids)
        assert torch.equal(padded.target_sequences, packed.target_sequences)
        assert padded.samples == packed.samples


def test_t3_cutting_is_said(tmp_path: Path) -> None:
    warned = material_of(tmp_path, TABLE, "tokenizer.padding_quantile=0.5").warnings
    assert any("tokenizer.padding_quantile=0.5" in line for line in warned)
    for wrong in ("-0.1", "1.5"):
        with pytest.raises(ConfigError, match="padding_quantile"):
            settings_of(tmp_path, TABLE, f"tokenizer.padding_quantile={wrong}")


def test_x15_arguments_reach_the_loader_of_the_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = material_of(tmp_path, TABLE).tokenizer
    other = material_of(tmp_path, TABLE, "+tokenizer.tokenizer_kwargs.mask_token='<unk>'").tokenizer
    assert (plain.mask_token, other.mask_token) == (None, "<unk>")
    from leyden.backbone import checkpoint

    seen: list[dict[str, Any]] = []
    load = checkpoint.AutoTokenizer.from_pretrained

    @functools.wraps(load)
    def watched(*places: Any, **arguments: Any) -> Any:
        seen.append(arguments)
        return load(*places, **arguments)

    monkeypatch.setattr(checkpoint.AutoTokenizer, "from_pretrained", watched)
    material_of(tmp_path, TABLE, "+tokenizer.tokenizer_kwargs.use_fast=false")
    assert [arguments["use_fast"] for arguments in seen] == [False]
    with pytest.raises(ConfigError, match="tokenizer_kwargs"):
        settings_of(tmp_path, TABLE, "tokenizer.tokenizer_kwargs=text")
