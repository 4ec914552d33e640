"""Samples that share their beginnings in one batch, against the same samples one at a time through the library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.numerics.pair_losses import PAIR_LOSSES
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from leyden.backbone.attention import choose_attention
from leyden.backbone.heads import head_outputs
from leyden.backbone.lora import add_adapter
from leyden.backbone.projection import Projection
from leyden.backbone.reference import Reference
from leyden.backbone.scoring import base_model, target_logps
from leyden.backbone.tiny import tiny_model
from leyden.data import merging
from leyden.data.batches import Batch, Segments
from leyden.data.collation import pack, pad
from leyden.data.collator import Collator, Layout
from leyden.data.dataset import Sample
from leyden.data.trees import Tree
from leyden.data.truncation import Conversation, Turn
from leyden.problem import losses
from leyden.problem.base import Problem
from leyden.problem.causal_lm import CausalLM
from leyden.problem.classification import Classification
from leyden.problem.dpo import DPO
from leyden.problem.head_losses import cross_entropy, squared_error
from leyden.problem.regression import Regression
from leyden.settings.model_groups import Lora

ARCHITECTURES = ["llama", "qwen3", "mistral", "gemma", "gemma3_text", "phi", "phi3"]
PAD = 257


def run(seed: int, length: int) -> list[int]:
    return torch.randint(3, 250, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def turns(*seeds: int, worse: int | None = None) -> Conversation:
    """A conversation whose turns are named by numbers; with `worse` its last turn has another answer too."""
    rows = [(Turn(run(seed, 9), (run(100 + seed, 7),), weight=1.0 + seed % 3)) for seed in seeds]
    if worse is not None:
        rows[-1] = replace(rows[-1], answers=(rows[-1].answers[0], run(200 + worse, 5)))
    return Conversation(run(999, 6), tuple(rows), Counter())


THREAD = [(1,), (1, 2), (1, 2, 3), (1, 4), (1, 4, 5), (1, 4, 6), (7,), (1, 2, 3, 8), (9, 2)]  # every row a sample
CUT = Conversation([], turns(1, 2, 3).turns[1:], Counter())  # truncation took its first turn


def texts(**options: Any) -> tuple[Problem, list[Tree]]:
    problem = CausalLM(loss=options.pop("loss", losses.token_averaged_cross_entropy), **options)
    return problem, [problem.build_tree(each) for each in (*(turns(*rows) for rows in THREAD), CUT, turns(1, 2))]


def pairs(loss: str) -> tuple[Problem, list[Tree]]:
    """The history of later pairs runs through the chosen, once through the rejected answer of an earlier one."""
    problem = DPO(loss=PAIR_LOSSES[loss])
    found = [turns(*rows, worse=rows[-1]) for rows in THREAD]
    through = replace(found[0].turns[0], answers=(found[0].turns[0].answers[1],))
    last = found[1].turns[1]
    ends = [last.answers[0][:3], last.answers[0][:6] + [5]]  # two answers that begin alike
    others = [
        Conversation(run(999, 6), (through, last), Counter()),
        turns(1, worse=50),
        Conversation(run(999, 6), (*found[1].turns[:1], replace(last, answers=tuple(ends))), Counter()),
        Conversation([], (replace(last, rejected_prompt=run(300, 4)),), Counter()),
    ]
    return problem, [problem.build_tree(each) for each in (*found, *others)]


def heads(kind: str) -> tuple[Problem, list[Tree]]:
    names = {"id2label": {0: "a", 1: "b", 2: "c"}, "problem_type": "single_label_classification"}
    scale = {"target_mean": [0.5] * 3, "target_deviation": [2.0] * 3}
    problem: Problem = (
        Classification(loss=cross_entropy).restored(names)
        if kind == "classification"
        else Regression(loss=squared_error).restored({**names, **scale})
    )
    trees = [problem.build_tree(turns(*rows)) for rows in THREAD]
    labels = [(n % 3,) if kind == "classification" else (n / 2, -n, n / 7) for n in range(len(trees))]
    return problem, [replace(tree, labels=label) for tree, label in zip(trees, labels, strict=True)]


class Merged:
    """Scores batches as they are, each once."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.reference = model, Reference(model)
        self.reference.prepare()
        self.known: dict[tuple[int, str], Tensor] = {}

    def _scored(self, kind: str, score: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        if (id(batch), kind) not in self.known:
            self.known[id(batch), kind] = score(batch)
        return self.known[id(batch), kind]

    def logps(self, batch: Batch) -> Tensor:
        return self._scored("logps", lambda one: target_logps(self.model, one), batch)

    def reference_logps(self, batch: Batch) -> Tensor:
        return self._scored("reference", self.reference.logps, batch)

    def outputs(self, batch: Batch) -> Tensor:
        return self._scored("outputs", lambda one: head_outputs(self.model, one), batch)


class Separate(Merged):
    """Scores the samples of a batch one at a time, padded, by the library's attention."""

    def __init__(self, model: nn.Module, trees: Sequence[Tree]) -> None:
        super().__init__(model)
        self.trees = trees

    def _scored(self, kind: str, score: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        return super()._scored(kind, lambda one: self._each(score, one), batch)

    def _each(self, score: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        base = base_model(self.model)
        before = base.config._attn_implementation
        base.set_attn_implementation(base.get_correct_attn_implementation(None))
        found = torch.cat([score(pad([self.trees[sample]], [sample], PAD)) for sample in batch.samples])
        base.set_attn_implementation(before)
        return found


def language_model(architecture: str, *, adapter: bool = False) -> nn.Module:
    model: nn.Module = tiny_model(architecture)
    if adapter:
        torch.manual_seed(1)
        settings = Lora(
            r=4, alpha=16.0, dropout=0.0, use_dora=False, use_rslora=False, target_modules=None, unfreeze_layers=[]
        )
        model = add_adapter(model, settings, "base")
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.05)
    choose_attention(model, "segments")
    return model


def headed_model(architecture: str) -> nn.Module:
    config = tiny_model(architecture).config
    config.num_labels = 3
    torch.manual_seed(0)
    model: nn.Module = AutoModelForSequenceClassification.from_config(config).eval()
    model.set_attn_implementation("leyden_segments")
    return model


def distances(problems: Sequence[Problem], model: nn.Module, trees: Sequence[Tree], batch: Batch) -> list[float]:
    """How far loss, its count, columns or any gradient of a batch are from those of the separate samples, relatively.

    One number per problem; the model is called once for all of them.
    """
    scorers = (Merged(model), Separate(model, trees))
    return [_distance(problem, model, batch, scorers) for problem in problems]


def distance(problem: Problem, model: nn.Module, trees: Sequence[Tree], batch: Batch) -> float:
    return distances([problem], model, trees, batch)[0]


def _distance(problem: Problem, model: nn.Module, batch: Batch, scorers: tuple[Merged, Merged]) -> float:
    found = []
    for scorer in scorers:
        model.zero_grad()
        outcome = problem.compute(scorer, batch)
        (outcome.loss.total / outcome.loss.count).backward(retain_graph=True)
        weights = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        numbers = {"total": outcome.loss.total.detach(), "count": outcome.loss.count, **outcome.columns, **weights}
        found.append({name: torch.as_tensor(value).double() for name, value in numbers.items()})
    ours, theirs = found
    assert ours.keys() == theirs.keys()
    assert len(ours) > 10
    biggest = max(float(value.norm()) for name, value in theirs.items() if "." in name)
    floors = {name: 1e-3 * biggest if "." in name else 1e-6 for name in theirs}  # of a weight that hardly matters
    gaps = [float((ours[n] - value).norm() / value.norm().clamp(min=floors[n])) for n, value in theirs.items()]
    return max(gaps)


def together(trees: Sequence[Tree]) -> Batch:
    batch = Collator("packed", PAD)([Sample(number, tree) for number, tree in enumerate(trees)])
    apart = sum(len(tree.tokens) for tree in trees)
    assert batch.num_tokens == batch.input_ids.shape[1] == apart - batch.num_shared
    assert batch.num_shared > 0.4 * apart
    return batch


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("only_last", [False, True])
def test_texts_are_worth_what_they_are_apart(architecture: str, only_last: bool) -> None:
    trees = texts(only_last_answer=only_last)[1]
    averages = (losses.token_averaged_cross_entropy, losses.sample_averaged_cross_entropy)
    problems = [CausalLM(loss=loss) for loss in averages]
    assert max(distances(problems, language_model(architecture), trees, together(trees))) < 1e-5


def test_every_token_may_be_a_target() -> None:
    problem, trees = texts(mask_prompt_labels=False)
    assert distance(problem, language_model("llama"), trees, together(trees)) < 1e-5


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_pairs_are_worth_what_they_are_apart(architecture: str) -> None:
    trees = pairs("dpo")[1]
    problems = [DPO(loss=loss) for loss in PAIR_LOSSES.values()]
    far = distances(problems, language_model(architecture, adapter=True), trees, together(trees))
    assert max(far) < 1e-5, dict(zip(PAIR_LOSSES, far, strict=True))


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mistral", "gemma", "phi"])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_heads_read_inside_the_texts_of_others(architecture: str, kind: str) -> None:
    problem, trees = heads(kind)
    assert distance(problem, headed_model(architecture), trees, together(trees)) < 1e-5


@pytest.mark.parametrize("architecture", ["mistral", "gemma3_text"])
def test_a_window_shorter_than_what_is_shared(architecture: str) -> None:
    problem, trees = texts()
    model = tiny_model(architecture, sliding_window=5)
    choose_attention(model, "segments")
    assert distance(problem, model, trees, together(trees)) < 1e-5


def test_ten_updates_of_two_batches_end_at_the_same_weights() -> None:
    problem, trees = pairs("dpo")
    trees = trees[:8]
    ends = []
    layouts: tuple[Layout, Layout] = ("packed", "padded")
    for layout in layouts:
        model = language_model("llama", adapter=True)
        if layout == "padded":
            base_model(model).set_attn_implementation("sdpa")
        optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-3)
        for update in range(10):
            optimizer.zero_grad()
            order = [(number * 5 + update) % len(trees) for number in range(len(trees))]
            outcomes = []
            for half in (order[:4], order[4:]):
                batch = Collator(layout, PAD)([Sample(number, trees[number]) for number in half])
                outcomes.append(problem.compute(Merged(model), batch).loss)
                outcomes[-1].total.backward()
            count = float(sum(loss.count for loss in outcomes))
            for weight in model.parameters():
                if weight.grad is not None:
                    weight.grad /= count
            optimizer.step()
        ends.append({name: w.detach().clone() for name, w in model.named_parameters() if w.requires_grad})
    for name, weight in ends[1].items():
        torch.testing.assert_close(ends[0][name], weight, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    start = dict(language_model("llama", adapter=True).named_parameters())
    assert max(float((weight - start[name].detach()).abs().max()) for name, weight in ends[1].items()) > 5e-3


def leaks(batch: Batch) -> Batch:
    """The first segment that stands alone reads the one before it."""
    assert batch.segments is not None
    parents = list(batch.segments.parents)
    alone = next(place for place, parent in enumerate(parents) if parent < 0 < place)
    parents[alone] = alone - 1
    return replace(batch, segments=Segments(batch.segments.starts, batch.segments.ends, tuple(parents)))


def test_a_leak_between_samples_is_found() -> None:
    problem, trees = texts()
    assert distance(problem, language_model("llama"), trees, leaks(together(trees))) > 1e-3


def test_sharing_one_token_too_many_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    common = merging._common
    monkeypatch.setattr(merging, "_common", lambda one, two: min(common(one, two) + 1, len(one), len(two)))
    problem, trees = texts()
    assert distance(problem, language_model("llama"), trees, together(trees)) > 1e-3


def test_a_target_looked_up_in_the_wrong_place_is_found() -> None:
    problem, trees = texts()
    batch = together(trees)
    assert batch.distinct is not None
    wrong = replace(batch, distinct=replace(batch.distinct, places=batch.distinct.places.roll(1)))
    assert distance(problem, language_model("llama"), trees, wrong) > 1e-3


def test_the_head_runs_once_per_place_and_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model = language_model("llama")
    seen: list[int] = []
    _, trees = texts()
    batch = together(trees)
    score = Projection.logps
    monkeypatch.setattr(
        Projection, "logps", lambda self, hidden, ids: seen.append(len(ids)) or score(self, hidden, ids)
    )
    target_logps(model, batch)
    assert batch.distinct is not None
    assert seen == [len(batch.distinct.ids)]
    assert seen[0] < 0.6 * len(batch.target_ids)


def test_a_batch_that_shares_nothing_is_what_it_was() -> None:
    trees = [texts()[1][place] for place in (3, 6)] + [pairs("dpo")[1][8]]
    merged, plain = (vars(pack(trees, [3, 6, 8], merged=merged)) for merged in (True, False))
    assert merged["num_shared"] == 0
    assert merged["distinct"] is None
    for name, value in plain.items():
        assert torch.equal(merged[name], value) if isinstance(value, Tensor) else merged[name] == value, name
