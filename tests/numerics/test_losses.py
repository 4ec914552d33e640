"""Losses against their equations written out in float64, and against torch's own cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from leyden.problem.losses import (
    averages,
    cpo,
    dpo,
    hinge,
    ipo,
    kto_pair,
    rewards,
    sample_averaged_cross_entropy,
    simpo,
    token_averaged_cross_entropy,
)
from leyden.problem.scores import AnswerScores, Loss, Pair, TokenScores

PairLoss = Callable[[Pair], Tensor]
EVERY_PAIR_LOSS: dict[str, PairLoss] = {
    "dpo": partial(dpo, beta=0.2),
    "hinge": partial(hinge, beta=0.2, average=True),
    "hinge_sum": partial(hinge, beta=0.2, average=False),
    "ipo": partial(ipo, beta=0.2),
    "kto_pair": partial(kto_pair, beta=0.2, detach_kl=False),
    "cpo": partial(cpo, beta=0.2, nll_weight=0.3),
    "simpo": partial(simpo, beta=0.2, gamma=1.0),
}
REFERENCE_FREE = {"cpo", "simpo"}


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def answers(chosen: Tensor, rejected: Tensor, chosen_tokens: Tensor, rejected_tokens: Tensor) -> AnswerScores:
    return AnswerScores(chosen, rejected, chosen_tokens, rejected_tokens)


def single(chosen: float, rejected: float, tokens: tuple[int, int] = (1, 1)) -> AnswerScores:
    return answers(tensor(chosen), tensor(rejected), torch.tensor([tokens[0]]), torch.tensor([tokens[1]]))


def pair_of(policy: AnswerScores, reference: AnswerScores) -> Pair:
    return Pair(policy, lambda: reference)


def forbidden() -> AnswerScores:
    raise AssertionError("the reference was computed")


def random_pair(num_pairs: int = 7, seed: int = 0) -> Pair:
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        return -20 * torch.rand(num_pairs, generator=generator, dtype=torch.float64)

    tokens = torch.randint(1, 9, (2, num_pairs), generator=generator)
    return pair_of(answers(draw(), draw(), *tokens), answers(draw(), draw(), *tokens))


def sigma(value: float) -> float:
    return 1 / (1 + math.exp(-value))


# One pair each. The second vector is given as means; three and five tokens make sums of them.
V1 = pair_of(single(-10, -14), single(-11, -13))
V2 = pair_of(single(-1.0 * 3, -1.4 * 5, (3, 5)), single(-1.1 * 3, -1.3 * 5, (3, 5)))


@pytest.mark.parametrize(
    ("loss", "pair", "expected"),
    [
        (partial(dpo, beta=0.2), V1, 0.51302),
        (partial(hinge, beta=0.2, average=True), V2, 0.96),
        (partial(ipo, beta=0.2), V2, 5.29),
        (partial(kto_pair, beta=0.2, detach_kl=False), V1, 0.42574),
        (partial(kto_pair, beta=0.2, detach_kl=True), V1, 0.42574),
        (partial(cpo, beta=0.2, nll_weight=0.0), V1, 0.37110),
        (partial(simpo, beta=0.2, gamma=1.0), V2, 1.25541),
    ],
)
def test_the_specified_vectors(loss: PairLoss, pair: Pair, expected: float) -> None:
    assert loss(pair).mean().item() == pytest.approx(expected, abs=5e-6)


def expected_losses(pair: Pair, beta: float) -> dict[str, list[float]]:
    """The equations, pair by pair, in plain Python."""
    policy, reference = pair.policy, pair.reference
    s_w, s_l = policy.chosen.tolist(), policy.rejected.tolist()
    r_w, r_l = reference.chosen.tolist(), reference.rejected.tolist()
    n_w, n_l = policy.chosen_tokens.tolist(), policy.rejected_tokens.tolist()
    rows = range(len(s_w))
    a, c = [s_w[i] - r_w[i] for i in rows], [s_l[i] - r_l[i] for i in rows]
    mean_h = [(s_w[i] - r_w[i]) / n_w[i] - (s_l[i] - r_l[i]) / n_l[i] for i in rows]
    kl_w, kl_l = max(0.0, sum(a) / len(a)), max(0.0, sum(c) / len(c))
    kto_w = [1 - sigma(beta * (a[i] - kl_l)) for i in rows]
    kto_l = [1 - sigma(beta * (kl_w - c[i])) for i in rows]
    return {
        "dpo": [-math.log(sigma(beta * (a[i] - c[i]))) for i in rows],
        "hinge": [max(0.0, 1 - beta * mean_h[i]) for i in rows],
        "hinge_sum": [max(0.0, 1 - beta * (a[i] - c[i])) for i in rows],
        "ipo": [(mean_h[i] - 1 / (2 * beta)) ** 2 for i in rows],
        "kto_pair": kto_w + kto_l,
        "cpo": [-math.log(sigma(beta * (s_w[i] - s_l[i]))) - 0.3 * s_w[i] for i in rows],
        "simpo": [-math.log(sigma(beta * (s_w[i] / n_w[i] - s_l[i] / n_l[i]) - 1.0)) for i in rows],
    }


@pytest.mark.parametrize("name", EVERY_PAIR_LOSS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pair_loss_is_its_equation(name: str, seed: int) -> None:
    pair = random_pair(seed=seed)
    expected = torch.tensor(expected_losses(pair, 0.2)[name], dtype=torch.float64)
    torch.testing.assert_close(EVERY_PAIR_LOSS[name](pair), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", EVERY_PAIR_LOSS)
def test_pair_loss_has_the_gradient_of_its_values(name: str) -> None:
    start = random_pair()
    reference = start.reference

    def compute(chosen: Tensor, rejected: Tensor) -> Tensor:
        policy = answers(chosen, rejected, reference.chosen_tokens, reference.rejected_tokens)
        return EVERY_PAIR_LOSS[name](pair_of(policy, reference))

    inputs = (start.policy.chosen.requires_grad_(), start.policy.rejected.requires_grad_())
    assert torch.autograd.gradcheck(compute, inputs)
    # A slip of sign passes gradcheck: the losses must push the chosen answers up and the rejected ones down.
    push_chosen, push_rejected = torch.autograd.grad(compute(*inputs).sum(), inputs)
    assert push_chosen.sum() < 0
    assert push_rejected.sum() > 0


@pytest.mark.parametrize("name", sorted(REFERENCE_FREE))
def test_reference_free_losses_never_compute_the_reference(name: str) -> None:
    pair = Pair(random_pair().policy, forbidden)
    EVERY_PAIR_LOSS[name](pair)
    rewards(pair, beta=0.2, average=True)
    assert not pair.reference_used


@pytest.mark.parametrize("name", sorted(EVERY_PAIR_LOSS.keys() - REFERENCE_FREE))
def test_reference_is_computed_once(name: str) -> None:
    calls: list[AnswerScores] = []
    source = random_pair()

    def reference() -> AnswerScores:
        calls.append(source.reference)
        return source.reference

    pair = Pair(source.policy, reference)
    assert not pair.reference_used
    EVERY_PAIR_LOSS[name](pair)
    rewards(pair, beta=0.2, average=False)
    assert pair.reference_used
    assert len(calls) == 1


def test_policy_that_equals_its_reference_starts_at_log_two() -> None:
    policy = random_pair().policy
    pair = pair_of(policy, policy)
    torch.testing.assert_close(dpo(pair, beta=0.1), torch.full((7,), math.log(2), dtype=torch.float64))
    chosen, rejected = rewards(pair, beta=0.1, average=False)
    assert not (chosen - rejected).any()


def test_beta_towards_zero_and_infinity() -> None:
    pair = random_pair(num_pairs=50)
    log_ratio = pair.policy.margin - pair.reference.margin
    log_two = torch.full_like(log_ratio, math.log(2))
    torch.testing.assert_close(dpo(pair, beta=1e-9), log_two, rtol=0, atol=1e-7)
    # -log sigma(x) tends to max(0, -x): what is left of a large beta is the hinge at 0.
    torch.testing.assert_close(dpo(pair, beta=1e9) / 1e9, (-log_ratio).clamp(min=0), rtol=0, atol=1e-8)
    assert torch.isfinite(dpo(pair, beta=1e300)).all()


@pytest.mark.parametrize("name", EVERY_PAIR_LOSS)
def test_extreme_scores_stay_finite_in_float32(name: str) -> None:
    chosen = torch.tensor([-1e5, 0.0, -3e4], requires_grad=True)
    rejected = torch.tensor([0.0, -1e5, -3e4], requires_grad=True)
    zeros, tokens = torch.zeros(3), torch.tensor([4, 4, 4])
    pair = pair_of(answers(chosen, rejected, tokens, tokens), answers(zeros, zeros, tokens, tokens))
    losses = EVERY_PAIR_LOSS[name](pair)
    losses.sum().backward()
    assert losses.dtype == torch.float32
    assert torch.isfinite(losses).all()
    assert chosen.grad is not None
    assert torch.isfinite(chosen.grad).all()


def test_kto_keeps_its_digits_where_the_preference_is_learnt() -> None:
    losses = kto_pair(pair_of(single(40, -40), single(0, 0)), beta=1.0, detach_kl=False)
    torch.testing.assert_close(losses, tensor(math.exp(-40), math.exp(-80)), rtol=1e-9, atol=0)


def test_kto_divergence_carries_a_gradient_unless_detached() -> None:
    # Both means are positive, so both divergences are active, and both answers see them.
    reference = answers(tensor(0, 0), tensor(0, 0), torch.ones(2), torch.ones(2))
    a, c, beta = [1.0, 3.0], [0.5, 0.7], 0.2
    kl_w, kl_l = 2.0, 0.6
    for detach in (True, False):
        chosen, rejected = tensor(*a).requires_grad_(), tensor(*c).requires_grad_()
        pair = pair_of(answers(chosen, rejected, torch.ones(2), torch.ones(2)), reference)
        kto_pair(pair, beta=beta, detach_kl=detach).sum().backward()
        slope_w = [sigma(beta * (v - kl_l)) * sigma(-beta * (v - kl_l)) * beta for v in a]
        slope_l = [sigma(beta * (kl_w - v)) * sigma(-beta * (kl_w - v)) * beta for v in c]
        through_kl = 0.0 if detach else 1.0
        expected = tensor(*[-slope_w[i] - through_kl * sum(slope_l) / 2 for i in range(2)])
        torch.testing.assert_close(chosen.grad, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", sorted(EVERY_PAIR_LOSS.keys() - {"kto_pair"}))
def test_pair_losses_do_not_depend_on_the_cut_of_the_batch(name: str) -> None:
    whole = random_pair(num_pairs=5)

    def row(scores: AnswerScores, i: int) -> AnswerScores:
        fields = (scores.chosen, scores.rejected, scores.chosen_tokens, scores.rejected_tokens)
        return answers(*(field[i : i + 1] for field in fields))

    singles = [EVERY_PAIR_LOSS[name](pair_of(row(whole.policy, i), row(whole.reference, i))) for i in range(5)]
    torch.testing.assert_close(torch.cat(singles), EVERY_PAIR_LOSS[name](whole), rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", EVERY_PAIR_LOSS)
def test_an_answer_without_tokens_is_never_nan(name: str) -> None:
    chosen, rejected = tensor(0, -3).requires_grad_(), tensor(-2, 0).requires_grad_()
    policy = answers(chosen, rejected, torch.tensor([0, 2]), torch.tensor([2, 0]))
    losses = EVERY_PAIR_LOSS[name](pair_of(policy, policy))
    losses.sum().backward()
    assert chosen.grad is not None
    assert torch.isfinite(torch.stack([losses.sum().detach(), chosen.grad.sum()])).all()


@pytest.mark.parametrize("name", EVERY_PAIR_LOSS)
def test_no_pairs_are_no_losses(name: str) -> None:
    empty = random_pair(num_pairs=0)
    losses = EVERY_PAIR_LOSS[name](empty)
    assert losses.shape == (0,)
    assert losses.sum().item() == 0


def test_rewards_of_the_specified_vector() -> None:
    dpo(V1, beta=0.2)
    chosen, rejected = rewards(V1, beta=0.2, average=False)
    torch.testing.assert_close(torch.cat([chosen, rejected, chosen - rejected]), tensor(0.2, -0.2, 0.4))


@pytest.mark.parametrize(
    ("average", "reference", "expected"),
    [
        (False, False, (-0.6, -1.4)),
        (True, False, (-0.2, -0.28)),
        (False, True, (0.06, -0.1)),
        (True, True, (0.02, -0.02)),
    ],
)
def test_rewards_follow_score_and_reference(average: bool, reference: bool, expected: tuple[float, float]) -> None:
    policy = single(-3.0, -7.0, (3, 5))
    policy.chosen.requires_grad_()
    pair = pair_of(policy, single(-3.3, -6.5, (3, 5)))
    if reference:
        dpo(pair, beta=0.2)
    chosen, rejected = rewards(pair, beta=0.2, average=average)
    torch.testing.assert_close(torch.cat([chosen, rejected]), tensor(*expected), rtol=1e-12, atol=1e-12)
    assert not chosen.requires_grad


def test_answer_scores_sums_and_means() -> None:
    scores = answers(tensor(-6, -1), tensor(-8, -9), torch.tensor([3, 1]), torch.tensor([2, 3]))
    torch.testing.assert_close(scores.margin, tensor(2, 8))
    torch.testing.assert_close(scores.mean_chosen, tensor(-2, -1))
    torch.testing.assert_close(scores.mean_rejected, tensor(-4, -3))
    torch.testing.assert_close(scores.mean_margin, tensor(2, 2))


def mean(loss: Loss) -> float:
    return loss.total.item() / int(loss.count)


# A sequence of one token with loss 1, one without a target, one of three tokens with loss 2.
SPECIFIED = TokenScores(tensor(-1, -2, -2, -2), torch.tensor([0, 2, 2, 2]), 3)


def test_cross_entropies_of_the_specified_batch() -> None:
    assert mean(token_averaged_cross_entropy(SPECIFIED)) == 1.75
    assert mean(sample_averaged_cross_entropy(SPECIFIED)) == 1.5
    assert int(token_averaged_cross_entropy(SPECIFIED).count) == 4
    assert int(sample_averaged_cross_entropy(SPECIFIED).count) == 2


def test_token_scores_sums_and_counts() -> None:
    shuffled = TokenScores(tensor(-2, -1, -4, -8), torch.tensor([2, 0, 2, 2]), 4)
    torch.testing.assert_close(shuffled.sums(), tensor(-1, 0, -14, 0))
    assert shuffled.counts().tolist() == [1, 0, 3, 0]


def masked_batch() -> tuple[Tensor, Tensor, TokenScores]:
    """Logits [4, 6, 11] with ragged labels, the third row without any, and the scores of their labelled tokens."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(4, 6, 11, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 11, (4, 6), generator=generator)
    for row, length in enumerate([2, 5, 0, 6]):
        labels[row, length:] = -100
    rows, columns = torch.nonzero(labels != -100, as_tuple=True)
    logps = logits[rows, columns].log_softmax(-1).gather(-1, labels[rows, columns, None]).squeeze(-1)
    return logits, labels, TokenScores(logps, rows, 4)


def test_token_average_is_the_library_cross_entropy() -> None:
    logits, labels, scores = masked_batch()
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    loss = token_averaged_cross_entropy(scores)
    torch.testing.assert_close(loss.total / loss.count, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (loss.total / 13, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)


def test_sample_average_is_the_mean_of_the_library_cross_entropies() -> None:
    logits, labels, scores = masked_batch()
    expected = torch.stack([F.cross_entropy(logits[row], labels[row]) for row in (0, 1, 3)]).mean()
    loss = sample_averaged_cross_entropy(scores)
    torch.testing.assert_close(loss.total / loss.count, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (loss.total / 3, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("loss", [token_averaged_cross_entropy, sample_averaged_cross_entropy])
def test_a_batch_without_targets_adds_nothing(loss: Callable[[TokenScores], Loss]) -> None:
    logps = torch.zeros(0, requires_grad=True)
    result = loss(TokenScores(logps, torch.zeros(0, dtype=torch.int64), 2))
    result.total.backward()
    assert result.total.item() == 0
    assert int(result.count) == 0


def test_which_losses_score_by_means() -> None:
    means = {name for name, loss in EVERY_PAIR_LOSS.items() if averages(loss)}
    assert means == {"hinge", "ipo", "simpo"}
