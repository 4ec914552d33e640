"""What a run keeps of its evaluations: rows before training, and those of the last one until the run has ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.effects.small_runs import settings_of
from tests.integration.stopped_runs import run

from leyden.artifacts.job import run_job


def test_before_training_the_model_is_its_own_reference(preference_run: Path) -> None:
    """So each row before is known from the same row after; a row in another place would differ."""
    before, after = (pd.read_parquet(preference_run / f"{name}.parquet") for name in ("before", "predictions"))
    assert list(before.columns) == [name for name in after.columns if name in before.columns]
    assert not {"p", "a", "rejected", "prompt_text", "target"} & {*before.columns}
    for name in ("chosen_logp", "rejected_logp"):
        assert before[name].tolist() == pytest.approx(after[f"reference_{name}"].tolist(), rel=1e-5)
        assert before[name].tolist() != pytest.approx(after[name].tolist(), rel=1e-5)
    assert before[name].nunique() > 1
    assert not (preference_run / "evaluation.parquet").exists()


def test_texts_before_training_are_kept_where_there_are_any(text_run: Path, preference_run: Path) -> None:
    before = pd.read_parquet(text_run / "before.parquet")
    assert before["prediction"].notna().all()
    results = json.loads((text_run / "results.json").read_text(encoding="utf-8"))
    assert len(before) == len(pd.read_parquet(text_run / "predictions.parquet"))
    assert "prediction" not in pd.read_parquet(preference_run / "before.parquet").columns
    pairs = json.loads((preference_run / "results.json").read_text(encoding="utf-8"))["before"]
    rows = pd.read_parquet(preference_run / "before.parquet")
    assert rows["score_perplexity"].mean() == pytest.approx(pairs["validation/perplexity"], rel=1e-6)
    assert results["before"]["step"] == 0


def test_a_run_that_ends_early_shows_its_last_evaluation_and_going_on_keeps_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {"p": ["one", "two", "three"], "a": ["1", "2", "3"], "mixed": [1, "x", None]}
    settings = settings_of(tmp_path, columns, "trainer.epochs=2", "trainer.evaluation_epochs=1")
    with monkeypatch.context() as patch:
        patch.setattr("leyden.artifacts.job.save_predictions", fail)
        with pytest.raises(RuntimeError, match="no prediction"):
            run_job(settings)
    folder = tmp_path / "run"
    before, last = (folder / "before.parquet").read_bytes(), pd.read_parquet(folder / "evaluation.parquet")
    updates = json.loads((folder / "progress.json").read_text(encoding="utf-8"))["updates"]
    assert last.attrs == {"step": updates}
    assert last["mixed"].fillna("").tolist() == ["1", "x", ""]
    assert not (folder / "predictions.parquet").exists()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"the 3 validation rows, as the evaluation after update {updates} found it" in page
    run(f"resume={folder}", pages=True)
    assert (folder / "before.parquet").read_bytes() == before
    assert not (folder / "evaluation.parquet").exists()
    after = pd.read_parquet(folder / "predictions.parquet")
    assert last["loss"].tolist() == after["loss"].tolist()
    assert last["prompt_text"].tolist() == after["prompt_text"].tolist()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "the 3 validation rows. “Before” is the model before its training." in page


def fail(*rest: Any) -> None:
    raise RuntimeError("no prediction")
