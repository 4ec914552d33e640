"""Any table trains, or ends in an error of ours: from the file to the weights nothing else escapes.

`LEYDEN_FUZZ=1500 pytest --timeout=0 tests/integration/test_fuzz.py` draws that many new cases.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from tests.effects.small_runs import CONF, trained, without_pages
from tests.integration.fuzz_cases import ANY_COLUMN, Case, cases
from tests.integration.fuzz_tables import File, files

from leyden.artifacts.job import run_job
from leyden.artifacts.predict import predict_table
from leyden.settings.composition import compose_config
from leyden.settings.errors import LeydenError
from leyden.settings.read import read
from leyden.settings.read_predict import read_predict
from leyden.training.prepare import prepare
from leyden.training.reading import find_columns
from leyden.training.run import fit

WANTED = int(os.environ.get("LEYDEN_FUZZ", "0"))  # without it the same cases each time, so that no commit has bad luck
WHOLE_JOBS = 6  # one in so many is written into a folder too


def examples(share: float) -> Any:
    """How many, and which."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    return settings(
        max_examples=math.ceil((WANTED or 40) * share), derandomize=not WANTED, suppress_health_check=checks,
        database=None,
    )  # fmt: skip


@cache
def composed(name: str, *choices: str) -> DictConfig:
    config, faults = compose_config(name, choices, CONF)
    assert config is not None, faults
    assert not faults
    return config


def with_changes(config: DictConfig, changes: Mapping[str, Any]) -> DictConfig:
    """A copy with other values."""
    own = OmegaConf.create(OmegaConf.to_container(config))
    for key, value in changes.items():
        OmegaConf.update(own, key, value, force_add=True)
    return own


def train_once(case: Case, folder: Path, *, whole: bool) -> None:
    """One short training; the loss of its evaluation is a number."""
    table = case.table.write(folder, "table")
    second = case.second.write(folder, "second") if case.second else table
    changes = {
        "tokenizer.max_length": 96, "trainer.batch_size": 16, "trainer.progress": "none",
        "generation.max_length_inference": 3, "checkpoint.verify": False,
        "output_directory": str(folder), "experiment_name": "run",
        "dataset.train_dataframe": table, **case.changes,
    }  # fmt: skip
    if case.changes.get("dataset.validation_strategy") == "custom":
        changes["dataset.validation_dataframe"] = second
    elif "dataset.train_ratios" in case.changes:
        changes["dataset.train_dataframe"] = [table, second]
    wanted = read(with_changes(composed("train", "trainer=cpu", *case.choices), changes))
    if whole:
        with without_pages():
            run_job(wanted)
        assert len(pd.read_parquet(folder / "run" / "predictions.parquet")) > 0
        return
    wanted = find_columns(wanted.model_copy(update={"seed": max(wanted.seed, 0)}))
    run = fit(wanted, prepare(wanted), [], folder)
    assert math.isfinite(run.final.metrics["validation/loss"])
    assert run.module.skipped_updates == 0 or wanted.dataset.weight_column is not None or wanted.problem.class_weights


def ends_well(function: Any) -> str:
    """`success`, or the kind of our error; nothing else is caught."""
    try:
        function()
    except LeydenError as error:
        if not error.faults or not all(fault.strip() for fault in error.faults):
            raise AssertionError("an error that says nothing") from error
        return error.kind
    return "success"


@examples(1.0)
@given(cases(), st.integers(0, WHOLE_JOBS - 1))
def test_any_table_trains_or_is_refused(case: Case, whole: int) -> None:
    with TemporaryDirectory() as folder:
        event(ends_well(lambda: train_once(case, Path(folder), whole=not whole)))


PROBLEMS: dict[str, tuple[str, ...]] = {
    "causal_lm": ("dataset.id_column=id", "dataset.parent_id_column=parent", "dataset.system_column=s"),
    "seq2seq": ("problem=seq2seq",),
    "dpo": ("problem=dpo", "dataset.rejected_answer_column=r", "dataset.answer_column=a"),
    "binary": ("problem=classification", "dataset.answer_column=y"),
    "words": ("problem=classification", "problem/loss=cross_entropy", "dataset.answer_column=c"),
    "labels": ("problem=classification", "dataset.answer_column=[y,z]"),
    "regression": ("problem=regression", "dataset.answer_column=[n,k]"),
    "messages": ("dataset=messages", "dataset.messages_column=m", "dataset.prompt_column=prompt",
                 "dataset.answer_column=answer"),
}  # fmt: skip
GOOD = {
    "p": ["one", "two", "three", "four"], "a": ["x", "y", "z", "x"], "r": ["no", "nein", "non", "x"],
    "s": ["be kind", "", "", ""], "y": [0, 1, 0, 1], "z": [1, 1, 0, 0], "c": ["x", "y", "é", "x"],
    "n": [0.5, 1, 2, 3], "k": [1, 2, 3, 0], "id": [0, 1, 2, 3], "parent": [None, 0, None, None],
    "m": [[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]] * 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Models of all problems; what they have learnt is nothing to a table."""
    folders = {name: tmp_path_factory.mktemp(f"fuzz-{name}") for name in PROBLEMS}
    yield {name: trained(folder, GOOD, *PROBLEMS[name], "trainer.epochs=0") for name, folder in folders.items()}
    for folder in folders.values():
        shutil.rmtree(folder)


CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "dataset.prompt_column": ANY_COLUMN | st.sampled_from([["p", "q"], []]),
        "dataset.answer_column": ANY_COLUMN | st.sampled_from([["y", "z"], ["n", "k"]]),
        "dataset.rejected_answer_column": ANY_COLUMN,
        "dataset.system_column": ANY_COLUMN,
        "dataset.chat_template": st.booleans(),
        "tokenizer.max_length": st.sampled_from([1, 24, 64]),
        "generation.max_length_inference": st.sampled_from([1, 5]),
        "generation.batch_size_inference": st.sampled_from([0, 1, 3]),
        "generation.num_beams": st.just(2),
    },
)


@examples(0.4)
@given(table=files(), name=st.sampled_from(list(PROBLEMS)), changes=CHANGES, few=st.integers(0, 2))
def test_any_table_is_predicted_or_refused(
    runs: dict[str, Path], table: File, name: str, changes: dict[str, Any], few: int
) -> None:
    def predict(folder: Path) -> None:
        asked = {"run": str(runs[name]), "dataset.path": table.write(folder, "table"), "output": str(folder / "out"),
                 **(changes if not few else {})}  # fmt: skip
        out = predict_table(*read_predict(with_changes(composed("predict"), asked)))
        assert len(pd.read_parquet(out / "predictions.parquet")) > 0

    with TemporaryDirectory() as folder:
        event(ends_well(lambda: predict(Path(folder))))
