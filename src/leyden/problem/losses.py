"""Loss functions: each one equation over log-probabilities, with no knowledge of models, batches or loops.

Notation: B pairs, N target tokens, sigma the logistic function. Of a pair, w is the chosen and l the rejected answer, s
an answer's score (sum or mean of its tokens' log-probabilities under the policy), r the same under the reference,
a = s_w - r_w, c = s_l - r_l and h = a - c. Everything is in nats. A preference loss gives one number per pair, [B],
kto_pair two, [2B]; their mean is the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from leyden.problem.scores import AnswerScores, Loss, Pair, TokenScores

Function = TypeVar("Function", bound=Callable[..., Any])


def token_averaged_cross_entropy(scores: TokenScores) -> Loss:
    """Cross-entropy in which every target token weighs the same: -sum(logps) over N tokens.

    Where rows have weights w: -sum(w logps) over sum(w).
    """
    return Loss(total=-(scores.shares * scores.logps).sum(), count=scores.shares.sum())


def sample_averaged_cross_entropy(scores: TokenScores) -> Loss:
    """Cross-entropy in which every sequence weighs the same: the sum over sequences of their mean over tokens.

    A sequence without a target token adds nothing, neither to the total nor to the count. Where rows have weights,
    each sequence weighs the mean weight of its tokens.
    """
    counts = scores.counts().clamp(min=1)
    total = -(scores.summed(scores.shares * scores.logps) / counts).sum()
    return Loss(total, count=(scores.summed(scores.shares) / counts).sum())


def of_means(loss: Function) -> Function:
    """Mark a preference loss whose scores are means over tokens; a loss with a knob `average` needs no mark."""
    loss.average = True  # type: ignore[attr-defined]
    return loss


def of_batches(loss: Function) -> Function:
    """Mark a preference loss that reads the pairs of a batch together, so that no batch may be split."""
    loss.compares_pairs = True  # type: ignore[attr-defined]
    return loss


def averages(loss: Callable[..., Any]) -> bool:
    """Whether a preference loss, its knobs filled in or not, scores answers by means over tokens."""
    knobs = loss.keywords if isinstance(loss, partial) else {}
    function = loss.func if isinstance(loss, partial) else loss
    return bool(knobs.get("average", getattr(function, "average", False)))


def compares_pairs(loss: Callable[..., Any]) -> bool:
    """Whether a loss, its knobs filled in or not, reads the pairs of a batch together.

    One from elsewhere is taken to do so, unless its attribute `compares_pairs` is false.
    """
    function = loss.func if isinstance(loss, partial) else loss
    elsewhere = not str(getattr(function, "__module__", "")).startswith("leyden.")
    return bool(getattr(function, "compares_pairs", elsewhere))


def _scores(answers: AnswerScores, average: bool) -> tuple[Tensor, Tensor]:
    return (answers.mean_chosen, answers.mean_rejected) if average else (answers.chosen, answers.rejected)


def _log_ratios(pair: Pair, *, average: bool) -> tuple[Tensor, Tensor]:
    policy, reference = _scores(pair.policy, average), _scores(pair.reference, average)
    return policy[0] - reference[0], policy[1] - reference[1]


def dpo(pair: Pair, *, beta: float) -> Tensor:
    """Direct preference optimization: -log sigma(beta h), scores summed; log 2 where policy and reference agree.

    Args:
        pair: the scores.
        beta: > 0; how strongly the reference holds the policy.

    Source: Rafailov et al. 2023, arXiv:2305.18290, equation 7.
    """
    chosen, rejected = _log_ratios(pair, average=False)
    return -F.logsigmoid(beta * (chosen - rejected))


def hinge(pair: Pair, *, beta: float, average: bool) -> Tensor:
    """Hinge loss on the preference: max(0, 1 - beta h).

    Args:
        pair: the scores.
        beta: > 0; from h = 1 / beta on, the loss and its gradient are 0.
        average: scores are means over tokens; false takes sums, as the paper does.

    Source: Zhao et al. 2023, arXiv:2305.10425, with the reference's scores subtracted as in Liu et al. 2023,
    arXiv:2309.06657.
    """
    chosen, rejected = _log_ratios(pair, average=average)
    return (1 - beta * (chosen - rejected)).clamp(min=0)


@of_means
def ipo(pair: Pair, *, beta: float) -> Tensor:
    """Identity preference optimization: (h - 1 / (2 beta))^2, scores averaged over tokens.

    Args:
        pair: the scores.
        beta: > 0; the margin h is pulled to 1 / (2 beta), never beyond.

    Source: Azar et al. 2023, arXiv:2310.12036, equation 17.
    """
    chosen, rejected = _log_ratios(pair, average=True)
    return (chosen - rejected - 1 / (2 * beta)) ** 2


@of_batches
def kto_pair(pair: Pair, *, beta: float, detach_kl: bool) -> Tensor:
    """Kahneman-Tversky loss of both answers: 1 - sigma(beta (a - K_l)) and 1 - sigma(beta (K_w - c)), scores summed.

    K_w = max(0, mean of a) and K_l = max(0, mean of c) estimate how far the policy has moved. They are means over the
    pairs at hand, so this loss, alone among those here, depends on how a batch is cut.

    Args:
        pair: the scores.
        beta: > 0; how soon the value of a gain or a loss saturates.
        detach_kl: take K_w and K_l as constants, as the paper does; false lets the gradient through them.

    Returns:
        [2B], first the losses of the chosen answers, then those of the rejected ones; without pairs, empty.

    Source: Ethayarajh et al. 2024, arXiv:2402.01306, section 4.
    """
    chosen, rejected = _log_ratios(pair, average=False)
    kl_chosen, kl_rejected = chosen.mean().clamp(min=0), rejected.mean().clamp(min=0)
    if detach_kl:
        kl_chosen, kl_rejected = kl_chosen.detach(), kl_rejected.detach()
    # 1 - sigma(x) is written sigma(-x): it keeps its digits where sigma(x) rounds to 1.
    return torch.cat([torch.sigmoid(beta * (kl_rejected - chosen)), torch.sigmoid(beta * (rejected - kl_chosen))])


def cpo(pair: Pair, *, beta: float, nll_weight: float) -> Tensor:
    """Contrastive preference optimization: -log sigma(beta (s_w - s_l)) - nll_weight s_w, scores summed, no reference.

    Args:
        pair: the scores; the reference is not read.
        beta: > 0; scale of the preference.
        nll_weight: >= 0; weight of the chosen answer's negative log-likelihood, 1 in the paper. A sum over tokens, it
            grows with the answer, while the first term does not.

    Source: Xu et al. 2024, arXiv:2401.08417, section 3.
    """
    return -F.logsigmoid(beta * pair.policy.margin) - nll_weight * pair.policy.chosen


@of_means
def simpo(pair: Pair, *, beta: float, gamma: float) -> Tensor:
    """Simple preference optimization: -log sigma(beta (s_w - s_l) - gamma), scores averaged over tokens, no reference.

    Args:
        pair: the scores; the reference is not read.
        beta: > 0; scale of the preference.
        gamma: >= 0; how far, in units of beta (s_w - s_l), the chosen answer is to lead.

    Source: Meng et al. 2024, arXiv:2405.14734, equation 6.
    """
    return -F.logsigmoid(beta * pair.policy.mean_margin - gamma)


def rewards(pair: Pair, *, beta: float, average: bool) -> tuple[Tensor, Tensor]:
    """What a loss implicitly pays for each answer, for the log: beta a and beta c, or beta s_w and beta s_l.

    The reference counts if the loss has read it, so call this after the loss; it never computes a reference by itself.

    Args:
        pair: the scores, as a loss has left them.
        beta: > 0, that of the loss.
        average: scores are means over tokens, as in hinge (unless told otherwise), ipo and simpo; false: sums.

    Returns:
        Chosen and rejected rewards, [B] each, without gradient. Their difference is the reward margin.
    """
    chosen, rejected = _log_ratios(pair, average=average) if pair.reference_used else _scores(pair.policy, average)
    return beta * chosen.detach(), beta * rejected.detach()
