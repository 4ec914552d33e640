from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden.artifacts.csv_cells import inert, inert_table, restored
from leyden.artifacts.predictions import write_predictions
from leyden.artifacts.sweep import JobRecord, _write_table

LIVE = ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "'=1", "''@x", "- a list", "+metric=x"]
PLAIN = ["", "a=1", "1-2", " =1", "'quoted'", "-1.5", "+3e-4", "-inf", "@"[1:], "é"]


def test_what_a_spreadsheet_would_run_has_an_apostrophe_in_front() -> None:
    assert [inert(text) for text in LIVE] == [f"'{text}" for text in LIVE]
    assert [inert(text) for text in PLAIN] == PLAIN
    assert [inert(value) for value in (-1, -1.5, None, True)] == [-1, -1.5, None, True]


@settings(max_examples=60)
@given(st.text(st.sampled_from("'=+-@\t\r\n1a. ＝é"), max_size=5))
def test_one_apostrophe_taken_away_gives_the_text_again(text: str) -> None:
    written = inert(text)
    assert restored(written) == text
    assert written == text or written[0] == "'"


def test_predictions_are_inert_in_csv_and_exact_in_parquet(tmp_path: Path) -> None:
    size = len(LIVE)
    texts = [*(PLAIN * 2)[: size - 2], "a line\r=1+1", "two\n=1+1"]
    columns: dict[str, Any] = {
        "=cmd": LIVE, "prediction": LIVE[::-1], "text": texts, "loss": [-0.5] * size, "n": range(size),
    }  # fmt: skip
    table = pd.DataFrame(columns)
    write_predictions(table, tmp_path)
    with (tmp_path / "predictions.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file))
    assert header == ["'=cmd", "prediction", "text", "loss", "n"]
    assert [row[0] for row in rows] == [f"'{text}" for text in LIVE]
    assert [row[3] for row in rows] == ["-0.5"] * size
    assert [[restored(cell) for cell in row[:3]] for row in rows] == table.iloc[:, :3].to_numpy().tolist()
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "predictions.parquet"), table, check_dtype=False)


def test_a_table_of_numbers_is_not_copied_and_the_given_one_stays_as_it_was() -> None:
    numbers = pd.DataFrame({"a": [1, -2], "b": [-0.5, 1.0]})
    assert inert_table(numbers) is numbers
    texts = pd.DataFrame({"a": ["=1", None], "b": [-1, 2]})
    first, second = inert_table(texts)["a"]
    assert first == "'=1"
    assert pd.isna(second)
    assert texts["a"][0] == "=1"
    twice = pd.DataFrame([["=1", "=2"]], columns=["a", "a"])
    assert inert_table(twice).to_numpy().tolist() == [["'=1", "'=2"]]


@pytest.mark.parametrize("text", ["+metric.mine.x=1", "=cmd|' /C calc'!A0"])
def test_a_sweep_table_runs_nothing(text: str, tmp_path: Path) -> None:
    record = JobRecord(0, [text], "/f", "min", "failed", -0.25, text, {"validation/loss": -1.5})
    _write_table(tmp_path / "sweep.csv", [record])
    with (tmp_path / "sweep.csv").open(encoding="utf-8", newline="") as file:
        (row,) = list(csv.DictReader(file))
    assert (row["overrides"], row["reason"], row["metric"], row["validation/loss"]) == (
        f"'{text}", f"'{text}", "-0.25", "-1.5",
    )  # fmt: skip
