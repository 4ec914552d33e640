"""`backbone.dtype=auto` on a CPU: when bfloat16 is tried, what makes it the type of the weights, and that it stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.effects.small_runs import material_of, results, settings_of, trained

from leyden.training import weight_types
from leyden.training.assembly import load_backbone
from leyden.training.weight_types import Loaded, Trial, choose_weights, verdict

COLUMNS = {"p": ["one two", "three", "four five six", "seven"], "a": ["a b", "c", "d e", "f"]}
GRADIENT = torch.tensor([3.0, 4.0])


@pytest.fixture
def with_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that says it multiplies bfloat16."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})


def dtype_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    dtype: dict[str, Any] = found["effective"]["backbone.dtype"]
    return dtype


@pytest.mark.parametrize(
    ("narrow", "fits", "said"),
    [
        (Trial(0.5, 2.01, GRADIENT), True, "took 0.50 of the time in float32, with a loss that differs by 0.50%"),
        (Trial(0.95, 2.0, GRADIENT), False, "it has to be below 0.9"),
        (Trial(0.5, 2.03, GRADIENT), False, "differs by 1.50% and a gradient of cosine 1.0000; allowed are 1%"),
        (Trial(0.5, 2.0, torch.tensor([4.0, -3.0])), False, "cosine 0.0000; allowed are 1% and 0.99"),
        (Trial(0.5, float("nan"), GRADIENT), False, "differs by nan%"),
    ],
)
def test_a1_bfloat16_has_to_be_faster_and_to_agree(narrow: Trial, fits: bool, said: str) -> None:
    found, why = verdict(Trial(1.0, 2.0, GRADIENT), narrow)
    assert found is fits
    assert said in why


def test_a1_without_products_of_bfloat16_the_weights_are_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    settings, material = settings_of(tmp_path, COLUMNS), material_of(tmp_path, COLUMNS)
    after, loaded = choose_weights(settings, material, lambda wanted: Loaded(*load_backbone(wanted, material)))
    assert after.backbone.dtype == "auto"
    assert loaded.dtype.effective == "float32"
    assert loaded.dtype.reason == "the device is a CPU whose processor has no bfloat16 products"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["lora=none"], "weights of the base are trained"),
        (["lora.unfreeze_layers=[norm]"], "weights of the base are trained"),
        (["backbone.pretrained=false"], "do not start from a checkpoint alone"),
        (["trainer.precision=bf16-mixed"], "trainer.precision=bf16-mixed has a type"),
        (["trainer.epochs=0"], "nothing is trained"),
    ],
)
@pytest.mark.usefixtures("with_products")
def test_a1_where_bfloat16_is_not_tried(tmp_path: Path, overrides: list[str], said: str) -> None:
    settings, material = settings_of(tmp_path, COLUMNS, *overrides), material_of(tmp_path, COLUMNS, *overrides)
    after, loaded = choose_weights(settings, material, lambda wanted: Loaded(*load_backbone(wanted, material)))
    assert (after.backbone.dtype, loaded.dtype.effective) == ("auto", "float32")
    assert said in loaded.dtype.reason


@pytest.mark.usefixtures("with_products")
def test_a1_a_trial_that_is_lost_leaves_the_run_as_it_would_have_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_types, "NEAR", -1.0)  # no loss can agree
    tried = trained(tmp_path / "tried", COLUMNS, "trainer.epochs=2", "lora.dropout=0.1")
    written = trained(tmp_path / "written", COLUMNS, "trainer.epochs=2", "lora.dropout=0.1", "backbone.dtype=float32")
    assert dtype_of(tried)["effective"] == "float32"
    assert "allowed are -100%" in dtype_of(tried)["reason"]
    assert results(tried) == results(written)


@pytest.mark.usefixtures("with_products")
@pytest.mark.parametrize("problem", ["causal_lm", "dpo"])
def test_a1_a_trial_that_is_won_is_the_run_with_the_type_written_out_and_a_resume_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    monkeypatch.setattr(weight_types, "FASTER", 1e9)  # this processor need not be fast at it
    columns = COLUMNS | ({"r": ["x", "y", "z", "w"]} if problem == "dpo" else {})
    more = [f"problem={problem}", "dataset.rejected_answer_column=r"] if problem == "dpo" else []
    won = trained(tmp_path / "won", columns, "trainer.epochs=1", *more)
    written = trained(tmp_path / "written", columns, "trainer.epochs=1", "backbone.dtype=bfloat16", *more)
    dtype = dtype_of(won)
    assert (dtype["requested"], dtype["effective"]) == ("auto", "bfloat16")
    assert "of the time in float32" in dtype["reason"]
    assert results(won) == results(written)
    monkeypatch.setattr(weight_types, "trial", None)  # measuring again would fail
    again = trained(tmp_path / "won", columns, "trainer.epochs=2", f"resume={won}", *more)
    assert dtype_of(again)["effective"] == "bfloat16"
