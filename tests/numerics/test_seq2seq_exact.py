"""Sequence to sequence against the library's T5, called plainly with labels on each row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.effects.small_runs import material_of, settings_of
from torch import Tensor

from leyden.backbone.scoring import target_logps
from leyden.data.batches import Batch
from leyden.training.assembly import load_backbone, make_answerer, make_collator
from leyden.training.prepare import Material, prepare

SEQ2SEQ = "problem=seq2seq"
TABLE = {
    "p": ["short", "a longer source of text", "x", "middle size"],
    "a": ["one", "t", "three words here", "four"],
    "s": ["be kind", "", "", "short"],
    "w": [1.0, 2.0, 0.0, 0.5],
}
END = 260


class Pairs:
    """The backbone of a run with its batch of all rows."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.settings = settings_of(folder, TABLE, SEQ2SEQ, *overrides)
        self.material: Material = prepare(self.settings)
        model, _, attention = load_backbone(self.settings, self.material)
        self.model: Any = model.eval()
        self.collate = make_collator(self.settings, self.material.tokenizer, model, attention)
        trees = self.material.train.trees
        self.batch: Batch = self.collate([trees[number] for number in range(len(trees))])

    def logps(self, batch: Batch) -> Tensor:
        return target_logps(self.model, batch)

    def rows(self) -> list[tuple[list[int], list[int]]]:
        """Source and target of each row, by hand: text and end token on both sides."""
        tokenizer = self.material.tokenizer
        texts = zip(TABLE["p"], TABLE["a"], strict=True)
        return [tuple([*tokenizer(str(t))["input_ids"], END] for t in pair) for pair in texts]  # type: ignore[misc]


@pytest.mark.parametrize("lora", ["lora=none", "lora=lora"])
def test_the_loss_is_that_of_the_library_with_labels(tmp_path: Path, lora: str) -> None:
    pairs = Pairs(tmp_path, lora)
    outcome = pairs.material.problem.compute(pairs, pairs.batch)
    width, rows = 20, pairs.rows()
    labels = torch.tensor([target + [-100] * (width - len(target)) for _, target in rows])
    sources = torch.tensor([[257] * (30 - len(source)) + source for source, _ in rows])
    mask = torch.tensor([[0] * (30 - len(source)) + [1] * len(source) for source, _ in rows])
    together = pairs.model(input_ids=sources, attention_mask=mask, labels=labels)
    torch.testing.assert_close(outcome.loss.total / outcome.loss.count, together.loss, rtol=1e-5, atol=1e-5)
    alone = [
        pairs.model(input_ids=torch.tensor([source]), labels=torch.tensor([target])).loss for source, target in rows
    ]
    torch.testing.assert_close(outcome.columns["loss"], torch.stack(alone).detach(), rtol=1e-5, atol=1e-5)
    assert outcome.columns["counts"].tolist() == [len(target) for _, target in rows]
    perplexity = pairs.material.metrics[0].compute(outcome.columns).value
    assert perplexity == pytest.approx(torch.stack(alone).exp().mean().item(), rel=1e-4)
    trainable = [weight for weight in pairs.model.parameters() if weight.requires_grad]
    ours = torch.autograd.grad(outcome.loss.total / outcome.loss.count, trainable)
    for one, two in zip(ours, torch.autograd.grad(together.loss, trainable), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_every_target_token_counts_and_the_decoder_reads_what_the_library_reads(tmp_path: Path) -> None:
    pairs = Pairs(tmp_path, "lora=none")
    assert pairs.batch.decoder_input_ids is not None
    width = max(len(target) for _, target in pairs.rows())
    labels = torch.tensor([target + [-100] * (width - len(target)) for _, target in pairs.rows()])
    theirs = pairs.model.prepare_decoder_input_ids_from_labels(labels)
    scored = labels != -100  # what the decoder reads behind the last target reaches nothing
    assert torch.equal(pairs.batch.decoder_input_ids[scored], theirs[scored])
    assert pairs.batch.target_ids.tolist() == [token for _, target in pairs.rows() for token in target]


def test_the_weight_column_weighs_tokens(tmp_path: Path) -> None:
    pairs = Pairs(tmp_path, "dataset.weight_column=w")
    outcome = pairs.material.problem.compute(pairs, pairs.batch)
    weights = torch.tensor(TABLE["w"]) * outcome.columns["counts"]
    expected = (outcome.columns["loss"] * weights).sum() / weights.sum()
    torch.testing.assert_close((outcome.loss.total / outcome.loss.count).detach(), expected, rtol=1e-5, atol=1e-5)


def test_source_and_target_are_limited_apart(tmp_path: Path) -> None:
    overrides = [SEQ2SEQ, "tokenizer.max_length=8", "problem.max_target_length=5"]
    material = material_of(tmp_path, TABLE, *overrides)
    trees = material.train.trees
    cut, decode = [trees[n].tree for n in range(4)], material.tokenizer.decode
    sources = [decode(tree.tokens[: tree.starts[1]].tolist()) for tree in cut]
    targets = [decode(tree.tokens[tree.starts[1] :].tolist()) for tree in cut]
    assert sources == ["short<|im_end|>", "of text<|im_end|>", "x<|im_end|>", "le size<|im_end|>"]
    assert targets == ["one<|im_end|>", "t<|im_end|>", "three", "four<|im_end|>"]
    assert material.counts["train"]["samples with a cut answer"] == 1
    assert material.counts["train"]["samples with a cut prompt"] == 2
    same = material_of(tmp_path, TABLE, SEQ2SEQ, "tokenizer.max_length=8").train.trees
    assert decode(same[2].tree.tokens[same[2].tree.starts[1] :].tolist()) == "three wo"


def test_a_target_that_just_fits_keeps_its_end(tmp_path: Path) -> None:
    for limit, text in ((17, "three words here<|im_end|>"), (16, "three words here")):
        material = material_of(tmp_path, TABLE, SEQ2SEQ, f"problem.max_target_length={limit}")
        tree = material.train.trees[2].tree
        assert material.tokenizer.decode(tree.tokens[tree.starts[1] :].tolist()) == text


def test_a_source_holds_system_text_and_markers(tmp_path: Path) -> None:
    overrides = ["dataset.system_column=s", "dataset.text_prompt_start='ask: '", "dataset.text_system_start='be: '"]
    material = material_of(tmp_path, TABLE, SEQ2SEQ, *overrides)
    trees = material.train.trees
    texts = [material.tokenizer.decode(trees[n].tree.tokens[: trees[n].tree.starts[1]].tolist()) for n in (0, 1)]
    assert texts == [
        "be: be kind<|im_end|>ask: short<|im_end|>", "ask: a longer source of text<|im_end|>",
    ]  # fmt: skip


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_are_those_of_the_library_for_any_batch_size(tmp_path: Path, beams: int) -> None:
    found = []
    for size in (1, 4):
        generation = [f"generation.num_beams={beams}", f"generation.batch_size_inference={size}"]
        pairs = Pairs(tmp_path, "lora=none", "generation.min_length_inference=0", *generation)
        answers = make_answerer(pairs.settings, pairs.material, pairs.model).generate(range(4))
        found.append([answers[number] for number in range(4)])
    tokenizer, plain = pairs.material.tokenizer, []
    for source, _ in pairs.rows():
        ids = pairs.model.generate(
            torch.tensor([source]), attention_mask=torch.ones(1, len(source), dtype=torch.int64), max_new_tokens=4,
            num_beams=beams, do_sample=False, eos_token_id=END, pad_token_id=257,
        )  # fmt: skip
        plain.append(str(tokenizer.decode(ids[0, 1:], skip_special_tokens=True)).strip())
    assert found == [plain, plain]
    assert any(plain), "an answer"
