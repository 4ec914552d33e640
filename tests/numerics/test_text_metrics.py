"""Text metrics against their formulas, sacrebleu row by row, and torchmetrics."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.text.rouge import rouge_score

from leyden.problem import text_metrics
from leyden.problem.metrics import Metric, direction_of
from leyden.problem.text_metrics import TOKENIZERS, bleu, chrf, exact_match, rouge

ALL = (bleu, chrf, rouge, exact_match)
WORDS = ("the", "cat", "Cat", "sat", "on", "mat.", "a", "42", "don't", "--", "", "\n")
TEXTS = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)
ROWS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("predicted", "target", "expected"),
    [
        ("Hello universe", "Hello world", 50.0),
        ("Python is awesome", "Python is great", 55.0321),
        ("Hello world", "Hello world", 100.0),
        ("anything", "", 0.0),
        ("", "anything", 0.0),
        ("", "", 0.0),
    ],
)
def test_bleu_of_known_rows(predicted: str, target: str, expected: float) -> None:
    assert bleu([predicted], [target]) == pytest.approx(expected, abs=1e-4)


def test_bleu_is_the_mean_of_rows_and_not_of_the_corpus() -> None:
    predicted, target = ["Hello universe", "Python is awesome"], ["Hello world", "Python is great"]
    assert bleu(predicted, target) == pytest.approx((50 + 55.0321) / 2, abs=1e-4)
    assert abs(bleu(predicted, target) - sacrebleu.corpus_bleu(predicted, [target]).score) > 1


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_bleu_and_chrf_are_sacrebleu_row_by_row(rows: list[tuple[str, str]]) -> None:
    predicted, target = zip(*rows, strict=True)
    for ours, library in ((bleu, sacrebleu.sentence_bleu), (chrf, sacrebleu.sentence_chrf)):
        expected = sum(library(one, [other]).score for one, other in rows) / len(rows)
        assert ours(predicted, target) == pytest.approx(expected, rel=1e-12)
        assert ours(predicted, target) <= 100


def test_one_scorer_serves_all_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = sacrebleu.BLEU
    monkeypatch.setattr(text_metrics, "BLEU", lambda **knobs: made.append(knobs) or original(**knobs))
    text_metrics._bleu_scorer.cache_clear()
    for _ in range(3):
        bleu(["a b c", "d"], ["a b", "d e"])
    assert made == [{"effective_order": True, "tokenize": "13a"}]
    text_metrics._bleu_scorer.cache_clear()


def test_the_tokenizer_of_bleu_counts() -> None:
    predicted, target = ["我喜欢猫"], ["我喜欢狗"]
    assert bleu(predicted, target) == 0.0
    assert bleu(predicted, target, tokenize="zh") == pytest.approx(
        sacrebleu.sentence_bleu(predicted[0], target, tokenize="zh").score
    )
    assert bleu(predicted, target, tokenize="zh") > 50
    for tokenize in TOKENIZERS:
        assert bleu(["same words, here"], ["same words, here"], tokenize=tokenize) == pytest.approx(100)
    with pytest.raises(ValueError, match=r"metric\.bleu\.tokenize='flores200' is not available; choose 13a"):
        bleu(["a"], ["a"], tokenize="flores200")


def written_out_chrf(predicted: str, target: str, word_order: int) -> float:
    """F2 of the mean precision and the mean recall, over the orders that both texts have (Popović 2015, section 2)."""
    units = [("".join(text.split()), text.split()) for text in (predicted, target)]
    orders = [(0, n) for n in range(1, 7)] + [(1, n) for n in range(1, word_order + 1)]
    precisions, recalls = [], []
    for kind, n in orders:
        first, second = (Counter(tuple(u[kind][i : i + n]) for i in range(len(u[kind]) - n + 1)) for u in units)
        if first and second:
            precisions.append((first & second).total() / first.total())
            recalls.append((first & second).total() / second.total())
    if not any(precisions):
        return 0.0
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return 100 * 5 * precision * recall / (4 * precision + recall)


@pytest.mark.parametrize("word_order", [0, 2])
@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(*[st.text("aab c", max_size=14)] * 2), min_size=1, max_size=4))
def test_chrf_is_its_formula(word_order: int, rows: list[tuple[str, str]]) -> None:
    predicted, target = zip(*rows, strict=True)
    expected = sum(written_out_chrf(one, other, word_order) for one, other in rows) / len(rows)
    assert chrf(predicted, target, word_order=word_order) == pytest.approx(expected, rel=1e-9)


def test_chrf_refuses_a_negative_word_order() -> None:
    with pytest.raises(ValueError, match=r"metric\.chrf\.word_order=-1 must be at least 0"):
        chrf(["a"], ["a"], word_order=-1)


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_rouge_is_that_of_torchmetrics_on_ascii(rows: list[tuple[str, str]]) -> None:
    predicted, target = map(list, zip(*rows, strict=True))
    expected = rouge_score(predicted, target, rouge_keys="rougeL")["rougeL_fmeasure"].item()
    assert rouge(predicted, target) == pytest.approx(100 * expected, rel=1e-5, abs=1e-5)


def test_rouge_of_long_texts_is_that_of_torchmetrics() -> None:
    pick = random.Random(0)
    predicted, target = (" ".join(pick.choices("abcdefg", k=length)) for length in (150, 130))
    expected = rouge_score(predicted, target, rouge_keys="rougeL")["rougeL_fmeasure"].item()
    assert rouge([predicted], [target]) == pytest.approx(100 * expected, rel=1e-5)


@pytest.mark.parametrize(
    ("predicted", "target", "expected"),
    [
        ("police kill the gunman", "police killed the gunman", 75.0),  # Lin 2004, section 3.1
        ("the gunman kill police", "police killed the gunman", 50.0),
        ("the the the", "the", 50.0),
        ("снег идёт в городе", "снег идёт", 2 * 2 / 6 * 100),
        ("CAFÉ, olé!", "café olé", 100.0),
        ("!!!", "!!!", 0.0),
        ("", "", 0.0),
        ("", "words", 0.0),
    ],
)
def test_rouge_of_known_rows(predicted: str, target: str, expected: float) -> None:
    assert rouge([predicted], [target]) == pytest.approx(expected)


def test_exact_match() -> None:
    predicted = ["yes", " yes\n", "Yes", "yes.", "", "日本"]
    target = ["yes", "yes", "yes", "yes", "  ", "日本"]
    assert exact_match(predicted, target) == pytest.approx(4 / 6)


@pytest.mark.parametrize("function", ALL)
def test_equal_texts_reach_the_top_and_unequal_ones_the_bottom(function: Callable[..., float]) -> None:
    top = function(["one two three", "x"], ["one two three", "x"])
    assert top == (1 if function is exact_match else 100)
    assert function(["aaa bbb"], ["ccc ddd"]) == 0


@pytest.mark.parametrize("function", ALL)
@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), min_size=1, max_size=4))
def test_any_text_has_a_score_in_range(function: Callable[..., float], rows: list[tuple[str, str]]) -> None:
    predicted, target = zip(*rows, strict=True)
    assert 0 <= function(predicted, target) <= (1 if function is exact_match else 100)


@pytest.mark.parametrize("function", ALL)
def test_columns_of_unequal_length_or_without_a_row_are_refused(function: Callable[..., float]) -> None:
    with pytest.raises(ValueError, match="got 1 texts and 2 targets"):
        function(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="nothing to score"):
        function([], [])


@pytest.mark.parametrize("function", ALL)
def test_more_is_better_and_only_columns_are_read(function: Callable[..., float]) -> None:
    assert direction_of(function) == "max"
    found = Metric(function.__name__, "max", function)
    assert found.reads == ("predicted_texts", "target_texts")
    assert found.compute({"predicted_texts": ["a b"], "target_texts": ["a b"], "logps": [0.0]}).value in (1, 100)
