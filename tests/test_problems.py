"""The contract of a problem type, for every file in conf/problem with every loss that fits; nobody lists them."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from leyden.backbone.attention import choose_attention
from leyden.backbone.heads import head_outputs
from leyden.backbone.lora import add_adapter
from leyden.backbone.reference import Reference
from leyden.backbone.scoring import target_logps
from leyden.backbone.tiny import tiny_model
from leyden.data.batches import Batch
from leyden.data.collator import Collator
from leyden.data.dataset import Sample
from leyden.data.labels import Labels
from leyden.data.truncation import Conversation, Turn
from leyden.problem.base import Problem
from leyden.problem.head_losses import binary_cross_entropy
from leyden.settings.composition import compose_config
from leyden.settings.model_groups import Lora
from leyden.settings.read import read
from leyden.training.problems import make_metrics, make_problem

CONF = Path(__file__).resolve().parent.parent / "conf" / "problem"
PROBLEMS = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(CONF.glob("*.yaml"))}
LOSSES = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((CONF / "loss").glob("*.yaml"))
}
FITTING = [
    (problem, loss)
    for problem, tree in PROBLEMS.items()
    for loss, knobs in LOSSES.items()
    if knobs["scores"] == tree["scores"]
]
CONVERSATIONS = [
    Conversation([3, 4], (Turn([10, 11], ([20, 21], [22])),), Counter()),
    Conversation([], (Turn([12], ([23],)), Turn([13, 14], ([24, 25, 26], [27, 28]))), Counter()),
    Conversation([], (Turn([15, 16, 17], ([29, 30], [31, 32, 33])),), Counter()),
]


LABELS = {
    "classes": Labels(np.array([[2.0], [0.0], [1.0]]), ("kind",), ("a", "b", "c"), "multiclass", 3),
    "numbers": Labels(np.array([[0.5, -1.0], [1.0, 4.0], [3.0, 0.0]]), ("x", "y"), None, "numbers", 2),
}
YES_OR_NO = Labels(np.array([[1.0], [0.0], [1.0]]), ("kind",), ("no", "yes"), "binary", 1)


def headed(problem: Problem, architecture: str) -> nn.Module:
    """A tiny model with the head that the problem needs."""
    if problem.head.family == "encoder_decoder":
        return tiny_model("t5")
    model = tiny_model(architecture)
    if problem.head.outputs is not None:
        torch.manual_seed(0)
        model.config.update(problem.head.config())
        model = problem.head.auto_class.from_config(model.config)
        model.eval()
    return model


class TinyScorer:
    def __init__(self, problem: Problem, architecture: str = "llama", *, adapter: bool = True) -> None:
        torch.manual_seed(0)
        settings = Lora(
            r=4, alpha=16.0, dropout=0.0, use_dora=False, use_rslora=False, target_modules=None, unfreeze_layers=[]
        )
        self.model = headed(problem, architecture)
        if adapter:
            self.model = add_adapter(self.model, settings, "base", problem.head.task)
        self.reference = Reference(self.model)
        self.reference.prepare()
        choice = choose_attention(self.model, "auto")
        layout = "encoder_decoder" if problem.head.family == "encoder_decoder" else "packed"
        self.collate = Collator("padded" if choice.engine == "padded" and layout == "packed" else layout, 257, 257)

    def logps(self, batch: Batch) -> Tensor:
        return target_logps(self.model, batch)

    def outputs(self, batch: Batch) -> Tensor:
        return head_outputs(self.model, batch)

    def reference_logps(self, batch: Batch) -> Tensor:
        return self.reference.logps(batch)


def samples_of(problem: Problem, numbers: list[int]) -> list[Sample]:
    labels = labels_of(problem)
    found = []
    for place, (number, conversation) in enumerate(zip(numbers, CONVERSATIONS, strict=False)):
        row = () if labels is None else tuple(labels.values[place].tolist())
        found.append(Sample(number, replace(problem.build_tree(conversation), labels=row)))
    return found


def labels_of(problem: Problem) -> Labels | None:
    if problem.targets == "classes" and problem.loss is binary_cross_entropy:
        return YES_OR_NO
    return LABELS.get(problem.targets)


def problem_of(name: str, loss: str) -> Problem:
    rejected = ["dataset.rejected_answer_column=reply_poor"] if PROBLEMS[name]["scores"] == "pair" else []
    backbone = "backbone=tiny_t5" if name == "seq2seq" else "backbone=tiny"
    config, faults = compose_config(
        "train", [f"problem={name}", f"problem/loss={loss}", backbone, *rejected], CONF.parent
    )
    assert not faults
    assert config is not None
    settings = read(config)
    problem = make_problem(settings)
    problem = problem.fitted(labels_of(problem))
    make_metrics(settings, problem)
    return problem


def test_there_are_problems_and_each_has_losses() -> None:
    assert PROBLEMS
    assert {problem for problem, _ in FITTING} == set(PROBLEMS)
    assert {loss for _, loss in FITTING} == set(LOSSES), "a loss that fits no problem"


@pytest.mark.parametrize(("name", "loss"), FITTING)
def test_the_contract(name: str, loss: str) -> None:
    problem = problem_of(name, loss)
    scorer = TinyScorer(problem)
    batch = scorer.collate(samples_of(problem, [7, 3, 5]))
    outcome = problem.compute(scorer, batch)
    assert outcome.loss.total.ndim == 0
    assert outcome.loss.total.requires_grad
    assert float(outcome.loss.count) > 0
    assert outcome.scored.tolist() == [True] * 3
    for column, values in outcome.columns.items():
        assert len(values) == 3, column
        assert not values.requires_grad, column
        assert torch.isfinite(values).all(), column
    assert {*problem.logged, *problem.offers, "loss"} <= outcome.columns.keys()
    table = problem.tabulate(outcome.columns)
    assert "loss" in table
    assert {len(cells) for cells in table.values()} == {3}
    outcome.loss.total.backward()
    assert any(p.grad is not None and p.grad.any() for p in scorer.model.parameters())


# the divergence that kto_pair estimates is a mean over the pairs at hand, whatever they weigh
@pytest.mark.parametrize(("name", "loss"), [pair for pair in FITTING if pair[1] != "kto_pair"])
def test_a_weight_scales_the_share_of_a_row(name: str, loss: str) -> None:
    """A row of weight 2 is worth two rows, one of weight 0 none."""
    problem = problem_of(name, loss)
    scorer = TinyScorer(problem, adapter=False)
    one, two, three = samples_of(problem, [0, 1, 2])
    repeated = problem.compute(scorer, scorer.collate([one, two, two])).loss
    weighted = [one, reweighted(two, 2.0), reweighted(three, 0.0)]
    found = problem.compute(scorer, scorer.collate(weighted)).loss
    assert float(found.count) == pytest.approx(float(repeated.count))
    torch.testing.assert_close(found.total, repeated.total, rtol=1e-5, atol=1e-6)


def reweighted(sample: Sample, weight: float) -> Sample:
    tree = replace(sample.tree, weight=weight, target_weights=np.full_like(sample.tree.target_weights, weight))
    return sample._replace(tree=tree)


@pytest.mark.parametrize(("name", "loss"), FITTING)
def test_a_ghost_keeps_a_rank_busy_and_counts_for_nothing(name: str, loss: str) -> None:
    problem = problem_of(name, loss)
    scorer = TinyScorer(problem)
    outcome = problem.compute(scorer, scorer.collate(samples_of(problem, [~4])))
    assert (outcome.loss.total.item(), float(outcome.loss.count), len(outcome.scored)) == (0, 0, 0)
    assert all(len(column) == 0 for column in outcome.columns.values())
    outcome.loss.total.backward()
    trained = [p for p in scorer.model.parameters() if p.requires_grad]
    assert all(p.grad is not None and not p.grad.any() for p in trained)


@pytest.mark.parametrize(("name", "loss"), FITTING)
def test_a_problem_has_no_state_and_travels_to_workers(name: str, loss: str) -> None:
    problem = problem_of(name, loss)
    again = pickle.loads(pickle.dumps(problem))
    tree, same = problem.build_tree(CONVERSATIONS[1]), again.build_tree(CONVERSATIONS[1])
    assert tree.tokens.tolist() == same.tokens.tolist()
    with pytest.raises(AttributeError):
        problem.loss = None


@pytest.mark.parametrize(("name", "loss"), FITTING)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mistral", "gemma", "phi", "gpt2", "bloom"])
def test_every_architecture_learns_from_every_loss(name: str, loss: str, architecture: str) -> None:
    """One step of plain gradient descent along the loss makes it smaller, whichever way the model attends."""
    problem = problem_of(name, loss)
    scorer = TinyScorer(problem, architecture, adapter=False)
    batch = scorer.collate(samples_of(problem, [0, 1, 2]))
    before = problem.compute(scorer, batch).loss
    (before.total / before.count).backward()
    with torch.no_grad():
        for weight in scorer.model.parameters():
            if weight.grad is not None:
                weight -= 1e-3 * weight.grad
    assert problem.compute(scorer, batch).loss.total.item() < before.total.item()
