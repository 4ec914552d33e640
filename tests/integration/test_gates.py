"""What is said before training: a block for each part, every number once, the same in the manifest."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.effects.small_runs import Columns, material_of, settings_of, write_table
from tests.unit.test_fit import PROBLEMS

from leyden.artifacts.job import run_job
from leyden.settings.errors import MetricError
from leyden.training.gates import block

TRAIN: Columns = {
    "p": ["one", "two", "one", "three <|im_end|>", "four", "five"],
    "a": ["A", "B", "A", "C", "D" * 300, "E"],
    "r": ["x", "y", "x", "z", "v", "w"],
    "w": ["no", "yes", "no", "yes", "no", "yes"],
    "n": [0.5, 1.5, 0.5, 2.5, 3.5, 4.5],
}
VALIDATION: Columns = {
    "p": ["two", "ONE!", "new", "newer"], "a": ["B", "other", "F", "G"], "r": ["y", "u", "t", "s"],
    "w": ["yes", "yes", "no", "yes"], "n": [1.5, 9.5, 7.5, 6.5],
}  # fmt: skip


def overrides_of(folder: Path, problem: str) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    held_out = write_table(folder / "validation.jsonl", VALIDATION)
    return [*PROBLEMS[problem], "dataset.validation_strategy=custom", f"dataset.validation_dataframe={held_out}"]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_gate_has_its_number(problem: str, tmp_path: Path) -> None:
    material = material_of(tmp_path, TRAIN, *overrides_of(tmp_path, problem), same_rows=False)
    train, validation = material.counts["train"], material.counts["validation"]
    texts = problem in ("causal_lm", "dpo", "seq2seq")
    assert (train["rows"], train["samples"], validation["rows"]) == (6, 6, 4)
    trees = [material.train.trees[number].tree for number in range(6)]
    assert train["tokens"] == sum(len(tree.tokens) for tree in trees)
    predicted = sum(len(tree.targets) for tree in trees)
    assert train.get("tokens to predict") == (predicted if texts else None)
    assert train.get("share of tokens to predict") == (
        pytest.approx(predicted / train["tokens"], abs=1e-6) if texts else None
    )
    assert train["rows equal to an earlier one"] == 1
    assert train["rows naming a control token, read as text"] == 1
    assert train.get("samples with a cut answer") == (1 if texts else None)
    assert validation["rows also in training"] == 1
    assert validation["rows with a prompt also in training"] == 1
    assert train.get("labels to predict") == (None if texts else 6)
    for name, counts in material.counts.items():
        lines = list(block(name, counts))
        rows, samples, tokens = (f"{counts[what]:,} {what}" for what in ("rows", "samples", "tokens"))
        assert lines[0] == f"{name}: {rows}, {samples}, {tokens}."
        said = "\n".join(lines)
        own = "repeated: 1 row equal" if name == "train" else "shared with training: 1 row also in training, 1 row with"
        for what in ("to predict: ", "cut to fit: ", "dropped: none.", own):
            assert said.count(what) == 1, (what, said)
        assert (re.search(r"answers: \d", said) is not None) == texts
    places = [line for line in material.warnings if "control token" in line]
    assert places == [
        f"{tmp_path}/table.jsonl: train texts hold the name of a control token (line 4); it is read as plain text. If "
        "it was meant as markup, take it out of the cells: the template writes it."
    ]


def test_the_block_is_printed_once_and_stands_in_the_manifest(tmp_path: Path) -> None:
    overrides = overrides_of(tmp_path, "causal_lm")
    run_job(settings_of(tmp_path, TRAIN, *overrides, "generation.max_length_inference=2", same_rows=False))
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))
    log = (tmp_path / "run" / "train.log").read_text(encoding="utf-8")
    for name in ("train", "validation"):
        for line in block(name, manifest["counts"][name]):
            assert log.count(f"INFO {line}\n") == (2 if line.strip() in ("dropped: none.",) else 1), line
    assert log.count("1 row equal to an earlier one") == log.count("1 row also in training") == 1
    assert log.count("training rows repeat an earlier one, prompt and answer (line 3)") == 1
    assert manifest["backbone"]["remote_code"] is False


def test_a_validation_loss_over_nothing_is_an_error(tmp_path: Path) -> None:
    table = {"p": ["a", "b", "c", "d"], "w": ["no", "yes", "no", "yes"]}
    held_out = write_table(tmp_path / "validation.jsonl", {"p": ["x", "y"], "w": ["no", "no"]})
    settings = settings_of(
        tmp_path, table, "problem=classification", "dataset.answer_column=w", "problem.class_weights=[0,1]",
        "dataset.validation_strategy=custom", f"dataset.validation_dataframe={held_out}", same_rows=False,
    )  # fmt: skip
    with pytest.raises(MetricError, match="the validation loss is over no target"):
        run_job(settings)
