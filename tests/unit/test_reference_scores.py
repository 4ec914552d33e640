"""Scores of the reference that are computed once are those of the live reference, and never those of another one."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.effects.small_runs import settings_of, trained, write_table

from leyden.backbone.reference import Reference
from leyden.data.batches import Batch
from leyden.data.collator import Collator
from leyden.data.dataset import Sample
from leyden.data.trees import Segment, build_tree
from leyden.problem import losses
from leyden.problem.dpo import DPO
from leyden.training.assembly import load_backbone, make_collator, make_data, make_module
from leyden.training.memory import choose_budget
from leyden.training.prepare import prepare
from leyden.training.progress import Silence
from leyden.training.reference_scores import (
    ReferenceScores,
    plan_scores,
    read_scores,
    sample_keys,
    tree_key,
    write_scores,
)
from leyden.training.reference_scoring import ReferenceScoring, largest, scoring_batches
from leyden.training.trainer import make_trainer

RunCli = Callable[..., CompletedProcess[str]]
PAIRS = {
    "p": ["one", "two words", "three words more", "one", "five and then some more of it"],
    "a": ["yes", "yes it is", "no", "yes", "that is so"],
    "r": ["no", "maybe", "yes of course", "no", "who knows"],
}
HELD_OUT = {"p": ["one more", "what of it"], "a": ["yes indeed", "nothing"], "r": ["no", "a lot"]}
HELD_OUT_FIVE = {name: [*HELD_OUT[name], *PAIRS[name][:3]] for name in HELD_OUT}
OWN = ("problem=dpo", "dataset.rejected_answer_column=r", "trainer.batch_size=2")
LOSSES = {
    "dpo": partial(losses.dpo, beta=0.2),
    "ipo": partial(losses.ipo, beta=0.2),
    "hinge": partial(losses.hinge, beta=0.2, average=False),
    "kto_pair": partial(losses.kto_pair, beta=0.2, detach_kl=False),
    "cpo": partial(losses.cpo, beta=0.2, nll_weight=0.1),
    "simpo": partial(losses.simpo, beta=0.2, gamma=0.1),
}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LEYDEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry per forward pass of a reference: how many samples it read."""
    counted: list[int] = []
    score = Reference.logps
    monkeypatch.setattr(
        Reference, "logps", lambda self, batch: (counted.append(len(batch.samples)), score(self, batch))[1]
    )
    return counted


def flat(loader: Iterable[list[Batch]]) -> list[Batch]:
    """What goes through the model at once, pass after pass."""
    return [batch for passes in loader for batch in passes]


def started(
    folder: Path, *overrides: str, columns: dict[str, list[str]] = PAIRS, held_out: dict[str, list[str]] = HELD_OUT
) -> SimpleNamespace:
    """A run of pairs up to its first evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    table = write_table(folder / "held_out.jsonl", held_out)
    given = ("dataset.validation_strategy=custom", f"dataset.validation_dataframe={table}")
    settings = settings_of(folder, columns, *OWN, *given, *overrides, same_rows=False)
    material = prepare(settings)
    backbone, _, attention = load_backbone(settings, material)
    tokens = choose_budget(settings, backbone, material.problem.loss).tokens
    data = make_data(settings, material, make_collator(settings, material.tokenizer, backbone, attention, tokens))
    module = make_module(settings, material, backbone, 4, 2)
    start = dict(module.reference.start)
    scoring = ReferenceScoring(
        plan_scores(settings, material.problem.loss), data, Silence(), cache=settings.cache == "on"
    )
    trainer = make_trainer(settings.trainer, [scoring], [], folder)
    trainer.validate(module, datamodule=data, verbose=False)
    return SimpleNamespace(module=module, data=data, start=start, report=module.scores.report)


def changed(answer: str) -> dict[str, list[str]]:
    return {**PAIRS, "a": [answer, *PAIRS["a"][1:]]}


@pytest.mark.parametrize("lora", ["lora", "none"])
def test_known_scores_are_those_of_the_live_reference_in_every_loss(lora: str, tmp_path: Path) -> None:
    run = started(tmp_path, "lora.dropout=0.3" if lora == "lora" else "lora=none")
    module = run.module
    assert module.reference.start == {}, "the copy is not needed any more"
    if run.start:
        module.reference.prepare(run.start)
    assert module.reference.kind == ("adapter switched off" if lora == "lora" else "frozen copy")
    with torch.no_grad():
        for weight in module.parameters():
            if weight.requires_grad:
                weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    known = module.scores
    module.eval()  # without dropout, so that two policies can be compared
    for training, loader in ((True, flat(run.data.train_dataloader())), (False, flat(run.data.val_dataloader()))):
        part = known.parts["train" if training else "validation"]
        for batch in loader:
            live = module.reference.logps(batch)
            torch.testing.assert_close(known.of(batch, module.reference, training=training), live, rtol=1e-6, atol=1e-6)
            for name, loss in LOSSES.items():
                found = []
                for module.scores in (ReferenceScores(), ReferenceScores(parts={"validation": part})):
                    outcome = DPO(loss=loss).compute(module, batch)
                    outcome.loss.total.backward()
                    gradient = torch.cat([w.grad.flatten() for w in module.parameters() if w.grad is not None])
                    module.zero_grad()
                    found.append((outcome.loss.total.detach(), gradient, *outcome.columns.values()))
                for ours, theirs in zip(*found, strict=True):
                    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_what_is_known_is_not_computed_again(tmp_path: Path, passes: list[int]) -> None:
    """Four distinct pairs in five rows, and five held out; batch sizes, adapters, losses and epochs do not matter.

    Validation samples are scored in the batches of the evaluations, so what cuts those does matter for them.
    """
    first = started(tmp_path / "1", held_out=HELD_OUT_FIVE)
    assert passes == [4, 5]
    assert (first.report["computed"], first.report["read"], first.report["in_training"]) == (9, 0, "looked up")
    for number, same in enumerate([
        ("trainer.tokens_per_pass=10000",), ("trainer.batch_size=5", "trainer.epochs=3"),
        ("lora.r=2", "lora.target_modules=[q_proj]"), ("lora=none",), ("problem/loss=ipo", "problem.loss.beta=0.7"),
    ]):  # fmt: skip
        again = started(tmp_path / f"same{number}", *same, held_out=HELD_OUT_FIVE)
        assert (again.report["computed"], again.report["read"]) == (0, 9), same
        for name in ("train", "validation"):
            assert np.array_equal(again.module.scores.parts[name].logps, first.module.scores.parts[name].logps)
    assert passes == [4, 5]
    for number, other in enumerate(("generation.batch_size_inference=0", "trainer.tokens_per_pass=9")):
        again = started(tmp_path / f"other{number}", other, held_out=HELD_OUT_FIVE)
        assert (again.report["computed"], again.report["read"]) == (5, 4), "evaluations in other batches"
    assert passes == [4, 5, 2, 2, 1, 1, 1, 1, 1, 1]


def test_a_limit_of_tokens_is_known_to_cut_no_batch() -> None:
    """`largest` is never below what the collator counts; a batch of one sample is never cut."""
    trees = [build_tree(pair(prompt=[5] * count, rejected=[9] * (8 - count)), 2) for count in (1, 6, 3)]
    lengths = [len(tree.tokens) for tree in trees]
    for layout in ("packed", "padded"):
        most = largest([[[0, 1, ~2]]], lengths, layout)
        samples = [Sample(number, tree) for number, tree in enumerate(trees)]
        collator = Collator(layout, 0, tokens=most)
        assert most >= collator._size(samples)
        assert len(collator.passes(samples)) == 1
        assert largest([[[0], [1]], [[~2]]], lengths, layout) == 0


def test_what_changes_a_score_is_computed_anew(tmp_path: Path, passes: list[int]) -> None:
    """Template, length, weights, their type, arithmetic, the way it attends; and without a cache nothing is kept."""
    started(tmp_path / "1")
    others = (
        "dataset.text_prompt_start=Question:", "tokenizer.max_length=30", "backbone.pretrained=false",
        "backbone.dtype=bfloat16", "trainer.precision=bf16-mixed", "backbone.attention_implementation=sdpa",
        "cache=off",
    )  # fmt: skip
    for number, other in enumerate(others):
        assert started(tmp_path / f"other{number}", other).report["computed"] == 6, other
    assert passes == [4, 2] * (1 + len(others))


def test_other_rows_are_scored_anew_and_the_part_that_stayed_is_read(tmp_path: Path, passes: list[int]) -> None:
    started(tmp_path / "1")
    again = started(tmp_path / "2", columns=changed("yes!")).report
    assert (again["computed"], again["read"]) == (5, 2)
    assert passes == [4, 2, 5]


def test_weights_that_were_taken_from_a_run_are_another_reference(tmp_path: Path, passes: list[int]) -> None:
    run = trained(tmp_path / "1", PAIRS, *OWN, "optimizer.learning_rate=0.1", "trainer.epochs=1")
    assert passes == [4, 5], "validation in the batches of its evaluations, equal rows or not"
    weights = f"backbone.pretrained_weights={run / 'model'}"
    assert started(tmp_path / "2", weights).report["computed"] == 6
    assert started(tmp_path / "3", weights).report["computed"] == 0
    assert started(tmp_path / "4", weights, "lora.alpha=3").report["computed"] == 6, "its scale is part of it"
    assert passes == [4, 5, 4, 2, 4, 2]


@pytest.mark.parametrize(
    ("overrides", "parts", "reason"),
    [
        ((), ("train", "validation"), ""),
        (("trainer.epochs=0",), ("validation",), ""),
        (("augmentation.token_mask_probability=0.5",), ("validation",), "augmentation.token_mask_probability=0.5"),
        (("augmentation.neftune_noise_alpha=5",), ("validation",), "augmentation.neftune_noise_alpha=5"),
        (("augmentation.skip_parent_probability=0.5",), ("validation",), "augmentation.skip_parent_probability=0.5"),
        (("augmentation.random_parent_probability=1",), ("validation",), "augmentation.random_parent_probability=1"),
        (("tokenizer.padding_quantile=0.5",), ("validation",), "tokenizer.padding_quantile=0.5"),
        (("tokenizer.padding_quantile=0",), ("train", "validation"), ""),
        (("trainer.strategy=fsdp", "trainer.devices=2"), (), "trainer.strategy=fsdp"),
    ],
)  # fmt: skip
def test_what_cannot_be_known_before_training_is_scored_live(
    overrides: tuple[str, ...], parts: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    plan = plan_scores(settings_of(tmp_path, PAIRS, *OWN, *overrides), losses.dpo)
    assert plan.parts == parts
    assert plan.reason.startswith(reason)
    assert bool(plan.reason) is bool(reason)


def test_pairs_that_are_compared_are_scored_with_the_batch_they_are_in(tmp_path: Path) -> None:
    plan = plan_scores(settings_of(tmp_path, PAIRS, *OWN), partial(losses.kto_pair, beta=0.2, detach_kl=False))
    assert plan.parts == ("validation",)
    assert "compares the pairs of a batch" in plan.reason


def test_a_live_reference_says_why(tmp_path: Path, passes: list[int], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run = started(tmp_path, "lora=none", "augmentation.token_mask_probability=0.5")
    assert (run.report["in_training"], run.report["computed"]) == ("live", 2)
    assert "scored live, batch by batch, in training, because augmentation.token_mask_probability=0.5" in caplog.text
    assert "2 distinct samples (validation): 2 computed, 0 from the cache" in caplog.text
    assert run.module.reference.start.keys() == run.start.keys(), "training needs the copy"
    run.module.train()
    for batch in flat(run.data.train_dataloader()):
        run.module.reference_logps(batch)
    assert passes == [2, 2, 2, 1]


def test_without_a_plan_validation_batches_are_scored_once(tmp_path: Path, passes: list[int]) -> None:
    """As with shared weights."""
    run = started(tmp_path, "generation.batch_size_inference=1")
    del passes[:]
    scores = ReferenceScores()
    for _ in range(2):
        for batch in flat(run.data.val_dataloader()):
            scores.of(batch, run.module.reference, training=False)
    assert passes == [1, 1]


def test_a_loss_without_a_reference_costs_no_pass(tmp_path: Path, passes: list[int]) -> None:
    run = trained(tmp_path, PAIRS, *OWN, "problem/loss=simpo")
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["reference"], manifest["reference_scores"]) == ("none", None)
    assert "score the reference" not in manifest["seconds"]
    assert not passes


def test_a_damaged_file_is_never_used(own_cache: Path, tmp_path: Path, passes: list[int]) -> None:
    first = started(tmp_path / "1", "trainer.epochs=0")
    expected = first.module.scores.parts["validation"].logps.copy()
    (file,) = own_cache.glob("reference/*/logps.npy")
    raw, offsets = file.read_bytes(), np.load(file.with_name("offsets.npy"))
    others = offsets + (np.arange(len(offsets)) == 1)  # sound in itself, and of samples with other targets
    damages: dict[str, Callable[[], object]] = {
        "flipped": lambda: file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1])),
        "short": lambda: file.write_bytes(raw[:-8]),
        "gone": file.unlink,
        "others": lambda: write_scores(file.parent, expected, others),
    }
    for number, (name, damage) in enumerate(damages.items()):
        damage()
        again = started(tmp_path / f"again{number}", "trainer.epochs=0")
        assert again.report["computed"] == 2, name
        assert np.array_equal(again.module.scores.parts["validation"].logps, expected)
        assert read_scores(file.parent, offsets) is not None, "it is whole again"
    assert passes == [2] * (1 + len(damages))


def test_a_batch_with_other_targets_is_an_error(tmp_path: Path) -> None:
    run = started(tmp_path)
    batch = flat(run.data.val_dataloader())[0]
    batch.target_ids = batch.target_ids[1:]
    with pytest.raises(RuntimeError, match="known scores"):
        run.module.reference_logps(batch)


def pair(**changes: Any) -> list[Segment]:
    parts: dict[str, Any] = {"prompt": [5, 6], "chosen": [7, 8], "rejected": [9], "first": True, "parent": 0} | changes
    return [
        Segment(parts["prompt"], False), Segment(parts["chosen"], parts["first"], 0, 0),
        Segment(parts["rejected"], True, parts["parent"], 1),
    ]  # fmt: skip


def test_a_key_is_all_that_moves_a_score_and_nothing_else() -> None:
    others = [
        {"prompt": [5, 7]}, {"prompt": [5, 6, 7], "chosen": [8]}, {"first": [True, False]}, {"first": [False, True]},
        {"parent": 1}, {"chosen": [7], "rejected": [8, 9]},
    ]  # fmt: skip
    keys = {tree_key(build_tree(pair(**other), 2)) for other in ({}, *others)}
    assert len(keys) == len(others) + 1
    assert tree_key(build_tree(pair(), 2, weight=0.5)) == tree_key(build_tree(pair(), 2)) in keys


def test_batches_are_those_of_the_content() -> None:
    lengths = [900, 3, 700, 3000, 900, 600, 5]
    trees = [build_tree([Segment([number % 89] * length, True)]) for number, length in enumerate(lengths)]
    trees[4] = trees[0]

    class Rows(list):  # type: ignore[type-arg]
        def __getitem__(self, number: Any) -> Any:
            return Sample(number, super().__getitem__(number))

    for order in ([*range(7)], [4, 6, 5, 3, 2, 1, 0]):
        keys = sample_keys(Rows(trees[place] for place in order))  # type: ignore[arg-type]
        assert len(keys.distinct) == 6
        batches = scoring_batches(keys, [lengths[place] for place in order])
        sizes = [[lengths[order[sample]] for sample in batch] for batch in batches]
        assert sizes == [[3000], [900, 700], [600, 5, 3]]


def test_the_jobs_of_a_sweep_share_their_reference(run_here: RunCli, tmp_path: Path, passes: list[int]) -> None:
    settings = settings_of(tmp_path, PAIRS)  # writes the table
    table = settings.dataset.train_dataframe
    command = [
        "train.py", "-m", "backbone=tiny", "dataset=table", f"dataset.train_dataframe={table}",
        "dataset.prompt_column=p", "dataset.answer_column=a", "dataset.validation_size=0.4", *OWN, "trainer.epochs=1",
        "experiment_name=sweep", "checkpoint.verify=false",
        "output_directory=.", "generation.max_length_inference=2", "problem.loss.beta=0.1,0.4", "trainer=cpu",
    ]  # fmt: skip
    done = run_here(command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifests = [json.loads((tmp_path / "sweep" / job / "manifest.json").read_text()) for job in ("0", "1")]
    found = [manifest["reference_scores"] for manifest in manifests]
    seconds = [one.pop("seconds") for one in found]
    assert [set(one) for one in seconds] == [{"train", "validation"}] * 2
    assert found[0] == {**found[1], "computed": found[1]["read"], "read": 0}
    assert found[1]["computed"] == 0
    assert sum(passes) == found[1]["read"] > 0
    assert all("score the reference" in manifest["seconds"] for manifest in manifests)
    assert "reference " in done.stderr
