"""The contract of a problem type, for every file in conf/problem with every loss that fits; nobody lists them."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from leyden.backbone.attention import choose_attention
from leyden.backbone.lora import add_adapter
from leyden.backbone.reference import Reference
from leyden.backbone.scoring import target_logps
from leyden.backbone.tiny import tiny_model
from leyden.data.batches import Batch
from leyden.data.collation import pack, pad
from leyden.data.truncation import Conversation, Turn
from leyden.problem.base import Problem
from leyden.problem.metrics import METRICS
from leyden.settings.composition import compose_config
from leyden.settings.model_groups import Lora
from leyden.settings.read import read
from leyden.training.problems import make_problem

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


class TinyScorer:
    def __init__(self) -> None:
        torch.manual_seed(0)
        settings = Lora(
            r=4, alpha=16.0, dropout=0.0, use_dora=False, use_rslora=False, target_modules=None, unfreeze_layers=[]
        )
        self.model: nn.Module = add_adapter(tiny_model("llama"), settings, "base")
        self.reference = Reference(self.model)
        choose_attention(self.model, "segments")

    def logps(self, batch: Batch) -> Tensor:
        return target_logps(self.model, batch)

    def reference_logps(self, batch: Batch) -> Tensor:
        return self.reference.logps(batch)


def problem_of(name: str, loss: str) -> Problem:
    rejected = ["dataset.rejected_answer_column=reply_poor"] if PROBLEMS[name]["scores"] == "pair" else []
    config, faults = compose_config(
        "train", [f"problem={name}", f"problem/loss={loss}", "backbone=tiny", *rejected], CONF.parent
    )
    assert not faults
    assert config is not None
    return make_problem(read(config))


def test_there_are_problems_and_each_has_losses() -> None:
    assert PROBLEMS
    assert {problem for problem, _ in FITTING} == set(PROBLEMS)
    assert {loss for _, loss in FITTING} == set(LOSSES), "a loss that fits no problem"


@pytest.mark.parametrize(("name", "loss"), FITTING)
def test_the_contract(name: str, loss: str) -> None:
    problem, scorer = problem_of(name, loss), TinyScorer()
    trees = [problem.build_tree(conversation) for conversation in CONVERSATIONS]
    assert all(len(tree.targets) for tree in trees)
    batch = pack(trees, [7, 3, 5])
    outcome = problem.compute(scorer, batch)
    assert outcome.loss.total.ndim == 0
    assert outcome.loss.total.requires_grad
    assert int(outcome.loss.count) > 0
    assert outcome.scored.tolist() == [True] * 3
    for column, values in outcome.columns.items():
        assert values.shape == (3,), column
        assert not values.requires_grad, column
        assert torch.isfinite(values).all(), column
    assert set(problem.logged) | {"loss"} <= outcome.columns.keys()
    free = (
        {column for column in problem.predicted if column.startswith("reference_")}
        if not problem.uses_reference
        else set()
    )
    assert set(problem.predicted) - free <= outcome.columns.keys()
    allowed = tuple(PROBLEMS[name]["metrics"])
    scores = problem.score(outcome.columns, allowed)
    assert scores.keys() == {*allowed, *problem.always}
    assert scores.keys() <= METRICS.keys()
    outcome.loss.total.backward()
    assert any(p.grad is not None and p.grad.any() for p in scorer.model.parameters())


@pytest.mark.parametrize(("name", "loss"), FITTING)
def test_a_ghost_keeps_a_rank_busy_and_counts_for_nothing(name: str, loss: str) -> None:
    problem, scorer = problem_of(name, loss), TinyScorer()
    outcome = problem.compute(scorer, pack([problem.build_tree(CONVERSATIONS[0])], [~4]))
    assert (outcome.loss.total.item(), int(outcome.loss.count), len(outcome.scored)) == (0, 0, 0)
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
        problem.mask_prompt_labels = False


@pytest.mark.parametrize(("name", "loss"), FITTING)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mistral", "gemma", "phi", "gpt2", "bloom"])
def test_every_architecture_learns_from_every_loss(name: str, loss: str, architecture: str) -> None:
    """One step of plain gradient descent along the loss makes it smaller, whichever way the model attends."""
    problem = problem_of(name, loss)
    scorer = TinyScorer()
    scorer.model = tiny_model(architecture)
    scorer.reference = Reference(scorer.model)
    scorer.reference.prepare()
    choice = choose_attention(scorer.model, "auto")
    trees = [problem.build_tree(conversation) for conversation in CONVERSATIONS]
    batch = pad(trees, range(3), 257) if choice.engine == "padded" else pack(trees, range(3))
    before = problem.compute(scorer, batch).loss
    (before.total / before.count).backward()
    with torch.no_grad():
        for weight in scorer.model.parameters():
            if weight.grad is not None:
                weight -= 1e-3 * weight.grad
    assert problem.compute(scorer, batch).loss.total.item() < before.total.item()
