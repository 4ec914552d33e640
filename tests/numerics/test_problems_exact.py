"""Problems from conversation to loss, against separate forward passes of the library and formulas written out."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from tests.numerics.pair_losses import PAIR_LOSSES
from torch import Tensor, nn

from leyden.backbone.attention import choose_attention
from leyden.backbone.lora import add_adapter
from leyden.backbone.reference import Reference
from leyden.backbone.scoring import base_model, target_logps
from leyden.backbone.tiny import tiny_model
from leyden.data.batches import Batch
from leyden.data.collation import pack, pad
from leyden.data.truncation import Conversation, Turn
from leyden.problem import losses
from leyden.problem.causal_lm import CausalLM
from leyden.problem.dpo import DPO
from leyden.problem.metrics import perplexity
from leyden.settings.model_groups import Lora

PAD = 257
SYSTEM, P1, A1, P2, A2 = [3, 4], [10, 11, 12], [20, 21], [30, 31], [40, 41, 42, 43]
CHAIN = Conversation(SYSTEM, (Turn(P1, (A1,)), Turn(P2, (A2,))), Counter())
SINGLE = Conversation([], (Turn([50, 51, 52, 53], ([60],)),), Counter())
PAIRS = [
    Conversation(SYSTEM, (Turn(P1, (A1,)), Turn(P2, ([40, 41, 42], [44, 45]))), Counter()),
    Conversation([], (Turn([50, 51], ([60], [61, 62, 63, 64])),), Counter()),
    Conversation([], (Turn([70, 71], ([80, 81], [82]), [72, 73, 74]),), Counter()),
]
# Whole sequences and the places of their targets, by hand.
CHAIN_IDS = SYSTEM + P1 + A1 + P2 + A2
PAIR_SEQUENCES = [
    (SYSTEM + P1 + A1 + P2, [40, 41, 42], SYSTEM + P1 + A1 + P2, [44, 45]),
    ([50, 51], [60], [50, 51], [61, 62, 63, 64]),
    ([70, 71], [80, 81], [72, 73, 74], [82]),
]


class Counted:
    """A scorer of a model and its reference that counts the forward passes of each."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.reference = model, Reference(model)
        self.reference.prepare()
        self.calls = Counter[str]()

    def logps(self, batch: Batch) -> Tensor:
        self.calls["policy"] += 1
        return target_logps(self.model, batch)

    def reference_logps(self, batch: Batch) -> Tensor:
        self.calls["reference"] += 1
        return self.reference.logps(batch)


def adapted(*, moved: bool) -> nn.Module:
    torch.manual_seed(1)
    settings = Lora(
        r=4, alpha=16.0, dropout=0.0, use_dora=False, use_rslora=False, target_modules=None, unfreeze_layers=[]
    )
    model = add_adapter(tiny_model("llama"), settings, "base")
    if moved:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.05)
    return model


def plain_logps(model: nn.Module, sequences: list[list[int]], starts: list[list[int]]) -> list[Tensor]:
    """Log-probabilities of the tokens at given places: one padded batch, log_softmax, gather."""
    width = max(map(len, sequences))
    ids = torch.tensor([[PAD] * (width - len(s)) + s for s in sequences])
    mask = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in sequences])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    output = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    logps = output[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return [logps[row, [width - len(s) + place - 1 for place in starts[row]]] for row, s in enumerate(sequences)]


def batch_of(problem: CausalLM | DPO, conversations: list[Conversation], model: nn.Module, engine: str) -> Batch:
    choice = choose_attention(model, engine)
    trees = [problem.build_tree(conversation) for conversation in conversations]
    return pad(trees, range(len(trees)), PAD) if choice.engine == "padded" else pack(trees, range(len(trees)))


ENGINES = ["segments", "sdpa"]
EVERY = list(range(1, len(CHAIN_IDS)))
FIRST, LAST = [5, 6], [9, 10, 11, 12]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("mask", "only_last", "targets"),
    [
        (True, False, [FIRST + LAST, [4]]),
        (True, True, [LAST, [4]]),
        (False, False, [EVERY, [1, 2, 3, 4]]),
    ],
)
def test_causal_lm_is_the_plain_cross_entropy(
    mask: bool, only_last: bool, targets: list[list[int]], engine: str
) -> None:
    model = tiny_model("llama")
    rows = plain_logps(model, [CHAIN_IDS, [50, 51, 52, 53, 60]], targets)
    for loss, expected, count in (
        (losses.token_averaged_cross_entropy, -torch.cat(rows).mean(), sum(map(len, targets))),
        (losses.sample_averaged_cross_entropy, -torch.stack([row.mean() for row in rows]).mean(), 2),
    ):
        problem = CausalLM(loss=loss, mask_prompt_labels=mask, only_last_answer=only_last)
        outcome = problem.compute(Counted(model), batch_of(problem, [CHAIN, SINGLE], model, engine))
        assert int(outcome.loss.count) == count
        torch.testing.assert_close(outcome.loss.total / count, expected, rtol=1e-5, atol=1e-6)
        assert outcome.scored.tolist() == [True, True]
        torch.testing.assert_close(outcome.columns["logps"], torch.stack([row.sum() for row in rows]).detach())
        torch.testing.assert_close(outcome.columns["loss"], torch.stack([-row.mean() for row in rows]).detach())
        exact = torch.stack([(-row.mean()).exp() for row in rows]).mean().item()
        assert perplexity(outcome.columns["logps"], outcome.columns["counts"]) == pytest.approx(exact, rel=1e-5)
        model.set_attn_implementation("sdpa")


def test_the_library_agrees_on_a_whole_text() -> None:
    model = tiny_model("llama")
    problem = CausalLM(loss=losses.token_averaged_cross_entropy, mask_prompt_labels=False)
    ids = torch.tensor([CHAIN_IDS])
    theirs = model(input_ids=ids, labels=ids).loss
    outcome = problem.compute(Counted(model), batch_of(problem, [CHAIN], model, "segments"))
    torch.testing.assert_close(outcome.loss.total / outcome.loss.count, theirs, rtol=1e-5, atol=1e-6)


def plain_scores(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for side in (0, 1):
        prompts = [pair[2 * side] for pair in PAIR_SEQUENCES]
        answers = [pair[2 * side + 1] for pair in PAIR_SEQUENCES]
        places = [list(range(len(p), len(p) + len(a))) for p, a in zip(prompts, answers, strict=True)]
        found[side].extend(plain_logps(model, [p + a for p, a in zip(prompts, answers, strict=True)], places))
    return found


def expected_pairs(name: str, model: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Losses and both rewards, with the reference from the library's model that no adapter ever touched."""
    with torch.no_grad():
        fixed = plain_scores(tiny_model("llama"))
    policy = plain_scores(model)
    mean = name in ("hinge", "ipo", "simpo")
    w, r = (torch.stack([x.mean() if mean else x.sum() for x in side]) for side in policy)
    rw, rr = (torch.stack([x.mean() if mean else x.sum() for x in side]) for side in fixed)
    a, c, beta = w - rw, r - rr, 0.2
    sigma = torch.sigmoid
    rows = {
        "dpo": -sigma(beta * (a - c)).log(),
        "hinge": (1 - beta * (a - c)).clamp(min=0),
        "ipo": (a - c - 1 / (2 * beta)) ** 2,
        "kto_pair": torch.cat(
            [1 - sigma(beta * (a - c.mean().clamp(min=0))), 1 - sigma(beta * (a.mean().clamp(min=0) - c))]
        ),
        "cpo": -sigma(beta * (w - r)).log() - 0.5 * w,
        "simpo": -sigma(beta * (w - r) - 1).log(),
    }[name]
    free = name in ("cpo", "simpo")
    return rows, beta * (w if free else a), beta * (r if free else c)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_pair_losses_are_their_formulas_over_separate_passes(name: str, engine: str) -> None:
    model = adapted(moved=True)
    expected, chosen, rejected = expected_pairs(name, model)
    wanted = torch.autograd.grad(expected.mean(), [p for p in model.parameters() if p.requires_grad])
    problem = DPO(loss=PAIR_LOSSES[name])
    outcome = problem.compute(Counted(model), batch_of(problem, PAIRS, model, engine))
    assert int(outcome.loss.count) == len(expected)
    torch.testing.assert_close(outcome.loss.total, expected.sum(), rtol=1e-5, atol=1e-5)
    mean = outcome.loss.total / outcome.loss.count
    found = torch.autograd.grad(mean, [p for p in model.parameters() if p.requires_grad])
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    columns = outcome.columns
    torch.testing.assert_close(columns["chosen_reward"], chosen.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(columns["rejected_reward"], rejected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(columns["reward_margin"], (chosen - rejected).detach(), rtol=1e-5, atol=1e-5)
    assert {function.__name__: function(columns["margins"]) for function in problem.always} == {
        "preference_accuracy": pytest.approx((chosen > rejected).float().mean().item()),
        "reward_margin": pytest.approx((chosen - rejected).mean().item(), rel=1e-4, abs=1e-6),
    }
    assert not any(column.requires_grad for column in columns.values())


def test_a_policy_that_is_its_reference_starts_at_log_two() -> None:
    model = adapted(moved=False)
    problem = DPO(loss=PAIR_LOSSES["dpo"])
    outcome = problem.compute(Counted(model), batch_of(problem, PAIRS, model, "segments"))
    assert outcome.loss.total.item() / 3 == pytest.approx(math.log(2), abs=1e-6)
    assert not outcome.columns["reward_margin"].any()
    assert not outcome.columns["preference_accuracy"].any()


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_a_reference_is_computed_once_where_it_is_read_and_never_elsewhere(name: str) -> None:
    model = adapted(moved=True)
    problem, free = DPO(loss=PAIR_LOSSES[name]), name in ("cpo", "simpo")
    assert problem.uses_reference is not free
    passes = []
    hook = base_model(model).get_decoder().register_forward_hook(lambda *_: passes.append(1))
    scorer = Counted(model)
    batch = batch_of(problem, PAIRS, model, "segments")
    passes.clear()  # the attention's self-check calls the model too
    columns = problem.compute(scorer, batch).columns
    hook.remove()
    assert scorer.calls == ({"policy": 1} if free else {"policy": 1, "reference": 1})
    assert len(passes) == (1 if free else 2)
    assert ("reference_chosen_logp" in columns) is not free


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_a_pair_without_one_answer_teaches_nothing(name: str) -> None:
    model, problem = adapted(moved=True), DPO(loss=PAIR_LOSSES[name])
    empty = Conversation([], (Turn([90, 91], ([92, 93], [])),), Counter())
    whole = problem.compute(Counted(model), batch_of(problem, PAIRS, model, "segments"))
    outcome = problem.compute(Counted(model), batch_of(problem, [PAIRS[0], empty, *PAIRS[1:]], model, "segments"))
    assert outcome.scored.tolist() == [True, False, True, True]
    assert int(outcome.loss.count) == int(whole.loss.count)
    torch.testing.assert_close(outcome.loss.total, whole.loss.total, rtol=1e-5, atol=1e-5)
    assert math.isnan(outcome.columns["reward_margin"][1])
    alone = problem.compute(Counted(model), batch_of(problem, [empty], model, "segments"))
    alone.loss.total.backward()
    assert int(alone.loss.count) == 0
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_kto_compares_the_pairs_of_a_batch_and_the_others_do_not() -> None:
    """What makes kto_pair the one loss whose update depends on how a batch is cut."""
    model = adapted(moved=True)
    for name, loss in PAIR_LOSSES.items():
        problem = DPO(loss=loss)
        together = problem.compute(Counted(model), batch_of(problem, PAIRS, model, "segments")).loss.total
        apart = [problem.compute(Counted(model), batch_of(problem, [p], model, "segments")).loss.total for p in PAIRS]
        same = torch.isclose(together, torch.stack(apart).sum(), rtol=1e-5, atol=1e-5)
        assert bool(same) is (name != "kto_pair"), name
