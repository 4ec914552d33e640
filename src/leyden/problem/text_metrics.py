"""Metrics of generated text: each row's text against its target, one number for all rows.

Every one is a mean over rows, so it depends neither on the order of the rows nor on how they were batched.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from math import fsum

from sacrebleu import BLEU, CHRF

from leyden.problem.metrics import metric

# Those of sacrebleu that need no further package and fetch no model from the network.
TOKENIZERS = ("13a", "intl", "zh", "char", "none")

_WORD = re.compile(r"[^\W_]+")


def _bleu_faults(*, tokenize: object = "13a") -> Iterator[str]:
    if tokenize not in TOKENIZERS:
        yield f"tokenize={tokenize!r} is not available; choose {', '.join(TOKENIZERS)}."


def _chrf_faults(*, word_order: object = 0) -> Iterator[str]:
    if not isinstance(word_order, int) or isinstance(word_order, bool) or word_order < 0:
        yield f"word_order={word_order!r} must be at least 0, a whole number; 2 is chrF++."


@metric("max", _bleu_faults)
def bleu(predicted_texts: Sequence[str], target_texts: Sequence[str], *, tokenize: str = "13a") -> float:
    """Mean over rows of sentence BLEU: up to four words in a row, exponential smoothing, effective order.

    Effective order: a text of three words is judged by runs of up to three. Sentence BLEU is not corpus BLEU, which
    papers on translation report; the two cannot be compared.

    Args:
        predicted_texts: [R].
        target_texts: [R]; a row with an empty target, or an empty prediction, has 0.
        tokenize: how sacrebleu cuts words, one of `TOKENIZERS`; `zh` for Chinese, which has no spaces.

    Returns:
        0 to 100; 100 if every text equals its target.

    Raises:
        ValueError: no row, columns of unequal length, or another tokenizer.

    Source: Papineni et al. 2002, ACL P02-1040; Post 2018, arXiv:1804.08771.
    """
    if faults := [*_bleu_faults(tokenize=tokenize)]:
        raise ValueError(f"metric.bleu.{faults[0]}")
    scorer = _bleu_scorer(tokenize)
    # Equal texts reach 100 by exp(log), and so miss it by rounding.
    return _mean_of_rows(
        lambda predicted, target: min(scorer.sentence_score(predicted, [target]).score, 100.0),
        predicted_texts,
        target_texts,
    )


@metric("max", _chrf_faults)
def chrf(predicted_texts: Sequence[str], target_texts: Sequence[str], *, word_order: int = 0) -> float:
    """Mean over rows of sentence chrF: F2 of character runs of length 1 to 6, white space left out.

    Precision and recall are averaged over the lengths first, as in the paper and in sacrebleu; averaging F2 over the
    lengths, as torchmetrics and NLTK do, gives slightly less.

    Args:
        predicted_texts: [R].
        target_texts: [R]; a row with an empty target, or an empty prediction, has 0.
        word_order: >= 0; also runs of up to so many words. 2 is chrF++.

    Returns:
        0 to 100; 100 if every text equals its target.

    Raises:
        ValueError: no row, columns of unequal length, or a negative word order.

    Source: Popović 2015, ACL W15-3049; chrF++: Popović 2017, ACL W17-4770.
    """
    if faults := [*_chrf_faults(word_order=word_order)]:
        raise ValueError(f"metric.chrf.{faults[0]}")
    scorer = _chrf_scorer(word_order)
    return _mean_of_rows(
        lambda predicted, target: scorer.sentence_score(predicted, [target]).score, predicted_texts, target_texts
    )


@metric("max")
def rouge(predicted_texts: Sequence[str], target_texts: Sequence[str]) -> float:
    """Mean over rows of ROUGE-L: F1 of the longest common subsequence of words.

    A word is a run of letters and digits of any script, in lower case, not stemmed. On ASCII text this equals the usual
    implementations, which drop every other letter. Scripts without spaces have few words: `chrf` suits them better.

    Args:
        predicted_texts: [R].
        target_texts: [R]; a row where either text has no word has 0.

    Returns:
        0 to 100, as BLEU and chrF; other tools give a share from 0 to 1.

    Raises:
        ValueError: no row, or columns of unequal length.

    Source: Lin 2004, ACL W04-1013, section 3.
    """
    return _mean_of_rows(_rouge_of_row, predicted_texts, target_texts)


@metric("max")
def exact_match(predicted_texts: Sequence[str], target_texts: Sequence[str]) -> float:
    """Share of rows whose text equals its target, white space at both ends apart; case and punctuation count.

    Args:
        predicted_texts: [R].
        target_texts: [R]; an empty prediction of an empty target is right.

    Returns:
        0 to 1.

    Raises:
        ValueError: no row, or columns of unequal length.
    """
    return _mean_of_rows(
        lambda predicted, target: float(predicted.strip() == target.strip()), predicted_texts, target_texts
    )


@cache
def _bleu_scorer(tokenize: str) -> BLEU:
    # Kept from one evaluation to the next: it remembers the words of targets it has seen.
    return BLEU(effective_order=True, tokenize=tokenize)


@cache
def _chrf_scorer(word_order: int) -> CHRF:
    return CHRF(word_order=word_order)


def _mean_of_rows(score: Callable[[str, str], float], predicted: Sequence[str], targets: Sequence[str]) -> float:
    if len(predicted) != len(targets):
        raise ValueError(f"Text metrics compare row by row, but got {len(predicted)} texts and {len(targets)} targets.")
    if not len(targets):
        raise ValueError("Text metrics have nothing to score: there is no row.")
    return fsum(map(score, predicted, targets)) / len(targets)


def _rouge_of_row(predicted: str, target: str) -> float:
    first, second = (_WORD.findall(text.lower()) for text in (predicted, target))
    # F1 = 2PR / (P + R), and P and R have the same numerator.
    return 200 * _common_length(first, second) / (len(first) + len(second)) if first and second else 0.0


def _common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence: a row of its table is one integer, a bit per word of `first`.

    Source: Hyyrö 2004, Bit-parallel LCS-length computation revisited, AWOCA.
    """
    places: defaultdict[str, int] = defaultdict(int)
    for place, word in enumerate(first):
        places[word] |= 1 << place
    row = full = (1 << len(first)) - 1
    for word in second:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(first) - row.bit_count()
