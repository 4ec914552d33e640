from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.effects.small_runs import settings_of

from leyden.training.estimate import GIB, advice, estimate, seconds_of
from leyden.training.measurements import Trial, Weights

ROWS = {"p": ["one", "two"], "a": ["yes", "no"]}
LENGTHS = np.array([10] * 95 + [100] * 5)


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    settings = settings_of(tmp_path, ROWS, "trainer.batch_size=4", "trainer.tokens_per_pass=200")
    return Trial(
        settings=settings, updates=50, tokens_per_update=40.0, evaluations=3, validation_tokens=1000, answers=20,
        scored_tokens=2000, load_seconds=5.0, longest_pass=200, longest_sample=100,
        weights=Weights(trained=GIB, frozen=4 * GIB, linear=4 * GIB, optimizer=2 * GIB), loaded_gib=6.0, peak_gib=9.0,
        available_gib=16.0, token_bytes=(GIB // 100, GIB // 1000),
        usual=[(2.0, 20), (4.0, 40), (30.0, 60)], longest=9.0, evaluation=(0.5, 100), answering=(4.0, 8),
    )  # fmt: skip


def test_seconds_are_those_of_the_formula(trial: Trial) -> None:
    assert seconds_of(trial) == pytest.approx({
        "load": 5.0,
        "score the reference": 2000 * 0.5 / 100,
        "train": 50 * 40 * 0.1,  # the middle one of 0.1, 0.1 and 0.5 seconds per token
        "evaluate": 3 * 1000 * 0.5 / 100,
        "answer": 20 * 4.0 / 8,
        "in all": 5 + 10 + 200 + 15 + 10,
        "train at most": 50 * 9.0,
    })  # fmt: skip


def test_settings_that_need_less_memory_come_with_how_much(trial: Trial) -> None:
    found = {line["setting"]: line for line in advice(trial, LENGTHS)}
    assert found["trainer.tokens_per_pass"]["to"] == 100  # half, which is the longest sample
    assert found["trainer.tokens_per_pass"]["saves_gib"] == pytest.approx(100 / 100, abs=1e-3)
    assert found["backbone.gradient_checkpointing"]["saves_gib"] == pytest.approx(200 * (0.01 - 0.001), abs=1e-3)
    assert found["lora.r"] == {
        "setting": "lora.r", "now": 4, "to": 2, "saves_gib": 2.0, "saves_time": False,
        "note": "half as many weights are trained",
    }  # fmt: skip
    assert found["backbone.dtype"]["to"] == "int4"
    assert found["backbone.dtype"]["saves_gib"] == pytest.approx(4 * (1 - 0.5625 / 4), abs=1e-3)


def test_a_lower_limit_says_what_it_would_cut(trial: Trial) -> None:
    few = replace(trial, longest_sample=100, longest_pass=100)
    found = {line["setting"]: line for line in advice(few, LENGTHS)}
    line = found["tokenizer.max_length"]
    assert line["to"] == int(np.quantile(LENGTHS, 0.95)) == 14
    assert line["note"] == "cuts 5 of 100 samples, and 29.7% of the tokens to compute"
    assert line["saves_time"]
    assert line["saves_gib"] == pytest.approx((100 - 4 * 14) / 100, abs=1e-3)  # four rows are a pass
    assert "trainer.tokens_per_pass" not in found  # a sample is one pass


def test_whole_batches_are_halved_by_their_rows(trial: Trial, tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "whole", ROWS, "trainer.batch_size=4", "trainer.tokens_per_pass=null")
    found = {line["setting"]: line for line in advice(replace(trial, settings=settings), LENGTHS)}
    assert found["trainer.batch_size"]["to"] == 2
    assert found["trainer.batch_size"]["note"] == "with trainer.grad_accumulation=2 the updates are the same"


def test_what_would_not_fit_is_said_before_it_is_tried(trial: Trial) -> None:
    untried = replace(trial, longest=None, usual=(), available_gib=8.0)
    assert untried.needed_gib == pytest.approx(6 + 3 + 2, abs=1e-3)  # weights; gradient and moments; the pass
    found = estimate(untried, LENGTHS)
    assert not found["tried"]
    assert not found["fits"]
    assert found["seconds"] == {}
    assert found["memory_gib"]["peak"] == pytest.approx(11, abs=1e-3)
    assert found["advice"]


def test_what_is_not_worth_a_line_is_left_out(trial: Trial) -> None:
    light = replace(trial, weights=Weights(0, 0, 0), token_bytes=(100, 10), peak_gib=1.0)
    assert estimate(light, np.full(10, 100))["advice"] == []
