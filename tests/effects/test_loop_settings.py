"""The effects of the training loop's settings (spec 1.5), through composed configs and whole runs."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from tests.effects.small_runs import Columns, material_of, settings_of, trained, write_table
from transformers import AutoTokenizer

from leyden.artifacts.export import check_disk, checkpoint_bytes
from leyden.artifacts.job import run_job
from leyden.settings.errors import ConfigError, DataError
from leyden.training.finders import memory_gib, rate_curve, suggestion

ROWS = 12
TABLE: Columns = {"p": [f"question {row}" for row in range(ROWS)], "a": [f"answer {row * 7}" for row in range(ROWS)]}
CHAIN: Columns = {
    "id": [1, 2, 3, 4],
    "parent": [None, 1, None, 3],
    "p": ["P1", "P2", "P3", "P4"],
    "a": ["A1", "A2", "A3", "A4"],
}


def test_r26_validation_rows_are_trained_on_too(tmp_path: Path) -> None:
    plain = material_of(tmp_path, TABLE, "dataset.validation_size=0.25", same_rows=False)
    both = material_of(
        tmp_path, TABLE, "dataset.validation_size=0.25", "dataset.train_validation_data=true", same_rows=False
    )
    assert [plain.counts[part]["rows"] for part in ("train", "validation")] == [9, 3]
    assert [both.counts[part]["rows"] for part in ("train", "validation")] == [12, 3]
    assert both.validation.trees.part.rows == plain.validation.trees.part.rows
    assert sum("train_validation_data=true: the 3 validation rows" in line for line in both.warnings) == 1
    assert not any("stand in training too" in line for line in both.warnings)


def test_r26_ids_count_per_table_and_the_sample_is_taken_before(tmp_path: Path) -> None:
    other = write_table(tmp_path / "other.jsonl", {**CHAIN, "p": ["V1", "V2", "V3", "V4"]})
    overrides = [
        "dataset.validation_strategy=custom", f"dataset.validation_dataframe={other}", "dataset.id_column=id",
        "dataset.parent_id_column=parent", "dataset.train_validation_data=true",
    ]  # fmt: skip
    whole = material_of(tmp_path, CHAIN, *overrides, same_rows=False)
    texts = [whole.tokenizer.decode(tree.tree.tokens.tolist()) for tree in map(whole.train.trees.__getitem__, range(4))]
    assert [text.count("<|prompt|>") for text in texts] == [2, 2, 2, 2]
    assert [("P1" in text, "V1" in text) for text in texts] == [
        (True, False),
        (False, False),
        (False, True),
        (False, False),
    ]
    many = write_table(tmp_path / "many.jsonl", {key: list(cells) * 10 for key, cells in CHAIN.items() if key in "pa"})
    half = material_of(
        tmp_path, CHAIN, "dataset.validation_strategy=custom", f"dataset.validation_dataframe={many}",
        "dataset.train_validation_data=true", "dataset.data_sample=0.3", "dataset.data_sample_choice=[validation]",
        same_rows=False,
    )  # fmt: skip
    assert [half.counts[part]["rows"] for part in ("train", "validation")] == [4 + 12, 12]


def test_r26_tables_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    other = write_table(tmp_path / "other.jsonl", {"p": ["x", "y"], "b": ["no", "answer"]})
    with pytest.raises(DataError, match="answer_column"):
        material_of(
            tmp_path, TABLE, "dataset.validation_strategy=custom", f"dataset.validation_dataframe={other}",
            "dataset.train_validation_data=true", same_rows=False,
        )  # fmt: skip


def numbers(run: Path, name: str) -> dict[int, float]:
    """A logged number by step."""
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        return {int(row["step"]): float(row["value"]) for row in csv.DictReader(file) if row["name"] == name}


def steps_of(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


LOOP = ["trainer.batch_size=4", "trainer.epochs=2", "trainer.evaluation_epochs=0.67"]  # 3 updates an epoch: 2, 4, 6


@pytest.fixture(scope="module")
def each(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that keeps the model of each evaluation."""
    folder = tmp_path_factory.mktemp("each")
    return trained(folder, TABLE, *LOOP, "checkpoint=each_evaluation_epoch", "optimizer.learning_rate=0.01")


def test_r23_last_keeps_one_whole_checkpoint_of_the_last_update(tmp_path: Path) -> None:
    run = trained(tmp_path, TABLE, *LOOP, "optimizer.learning_rate=0.01")
    assert steps_of(run) == ["step-00000006"]
    state = torch.load(run / "checkpoints" / "step-00000006" / "state.ckpt", weights_only=True)
    saved = dict(state["state_dict"].items())
    model = adapter(run / "model")
    assert len(saved) == len(model) > 0
    assert all("lora_" in name for name in saved)  # never the frozen base
    for name, weight in model.items():
        own = f"backbone.{name.replace('.weight', '.default.weight')}"
        assert torch.equal(saved[own], weight)
    assert state["optimizer_states"]
    assert state["global_step"] == 6
    manifest = json.loads((run / "checkpoints" / "step-00000006" / "manifest.json").read_text(encoding="utf-8"))
    listed = manifest["files"]["state.ckpt"]
    content = (run / "checkpoints" / "step-00000006" / "state.ckpt").read_bytes()
    assert (listed["bytes"], listed["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert manifest["metrics"]["validation/loss"] == numbers(run, "validation/loss")[6]


CLASSES: Columns = {"p": [f"{word} {row}" for row in range(6) for word in ("good", "bad")], "a": [1, 0] * 6}


def turned_around(folder: Path) -> list[str]:
    """Held-out rows that a model of the training rows scores worse and worse."""
    table = write_table(folder / "other.jsonl", {"p": CLASSES["p"], "a": [0, 1] * 6})
    return ["problem=classification", "metric=log_loss", f"dataset.validation_dataframe={table}",
            "optimizer.learning_rate=0.02", "schedule=constant"]  # fmt: skip


def test_r23_best_keeps_what_scored_best(tmp_path: Path) -> None:
    run = trained(tmp_path, TABLE, *LOOP, "checkpoint=best", "optimizer.learning_rate=0.01", "schedule=constant")
    values = numbers(run, "validation/perplexity")
    best = min(values, key=values.__getitem__)
    assert steps_of(run) == sorted({f"step-{best:08d}", "step-00000006"})
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert (results["best"]["step"], results["final"]["step"]) == (best, 6)
    # the weights that were saved score what was logged at the best step, put together by other code than ours
    again = trained(
        tmp_path / "again", TABLE, "trainer.epochs=0", f"backbone.name={merged(run, tmp_path / 'merged')}", "lora=none"
    )
    assert numbers(again, "validation/perplexity")[0] == pytest.approx(values[best], rel=1e-5)
    assert pd.read_csv(run / "predictions.csv")["score_perplexity"].mean() == pytest.approx(values[best], rel=1e-5)


def test_r23_the_evaluation_before_training_may_be_the_best(tmp_path: Path) -> None:
    run = trained(tmp_path, CLASSES, *LOOP, *turned_around(tmp_path), "checkpoint=best")
    values = numbers(run, "validation/log_loss")
    assert sorted(values) == [0, 2, 4, 6]
    assert values[6] > 2 * values[0] == 2 * min(values.values())
    assert steps_of(run) == ["step-00000000", "step-00000006"]
    assert json.loads((run / "results.json").read_text(encoding="utf-8"))["best"]["step"] == 0
    assert not any(weight.any() for name, weight in adapter(run / "model").items() if "lora_B" in name)
    assert pd.read_csv(run / "predictions.csv")["loss"].mean() == pytest.approx(values[0], rel=1e-5)


def merged(run: Path, folder: Path) -> Path:
    """The saved model as plain weights, by peft alone."""
    AutoPeftModelForCausalLM.from_pretrained(run / "model").merge_and_unload().save_pretrained(folder)
    AutoTokenizer.from_pretrained(run / "model").save_pretrained(folder)
    return folder


def test_r23_best_follows_the_direction_of_the_metric(tmp_path: Path) -> None:
    run = trained(
        tmp_path, CLASSES, *LOOP, "problem=classification", "metric=accuracy", "checkpoint=best",
        "optimizer.learning_rate=0.02", "schedule=constant",
    )  # fmt: skip
    values = numbers(run, "validation/accuracy")
    highest = max(values, key=values.__getitem__)
    assert values[highest] > min(values.values())
    assert json.loads((run / "results.json").read_text(encoding="utf-8"))["best"]["step"] == highest
    assert f"step-{highest:08d}" in steps_of(run)


def test_r23_best_of_a_metric_without_a_value_is_refused_before_training(tmp_path: Path) -> None:
    columns: Columns = {"p": TABLE["p"], "a": [0, 1] * 5 + [0, 0]}
    one_class = write_table(tmp_path / "one.jsonl", {"p": ["x", "y"], "a": [1, 1]})
    with pytest.raises(ConfigError, match=r"checkpoint=best needs a number to compare, and metric=auc is nan"):
        run_job(
            settings_of(
                tmp_path, columns, "problem=classification", "checkpoint=best", "dataset.validation_strategy=custom",
                f"dataset.validation_dataframe={one_class}", same_rows=False,
            )
        )  # fmt: skip
    assert not (tmp_path / "run" / "results.json").exists()


def test_r23_each_evaluation_keeps_a_model_that_loads(each: Path) -> None:
    run = each
    assert steps_of(run) == ["step-00000002", "step-00000004", "step-00000006"]
    last = adapter(run / "checkpoints" / "step-00000006" / "model")
    assert all(torch.equal(weight, last[name]) for name, weight in adapter(run / "model").items())
    first = adapter(run / "checkpoints" / "step-00000002" / "model")
    assert any(not torch.equal(weight, last[name]) for name, weight in first.items())
    AutoPeftModelForCausalLM.from_pretrained(run / "checkpoints" / "step-00000002" / "model")


def test_r23_a_size_budget_deletes_the_oldest_and_never_the_newest(each: Path, tmp_path: Path) -> None:
    size = sum(path.stat().st_size for path in (each / "checkpoints" / "step-00000002").rglob("*") if path.is_file())
    two = trained(tmp_path / "two", TABLE, *LOOP, "checkpoint=each_evaluation_epoch",
                  f"checkpoint.max_gib={2.5 * size / 2**30}")  # fmt: skip
    assert steps_of(two) == ["step-00000004", "step-00000006"]
    none = trained(tmp_path / "none", TABLE, *LOOP, "checkpoint=each_evaluation_epoch",
                   f"checkpoint.max_gib={0.5 * size / 2**30}")  # fmt: skip
    assert steps_of(none) == ["step-00000006"]
    assert "it stays" in (none / "train.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("overrides", "models"),
    [
        (["trainer.epochs=0"], 0),
        ([], 3),  # of one evaluation: weights and twice as much of the optimizer
        (["trainer.epochs=3"], 6),  # the next beside the last
        (["trainer.epochs=5", "checkpoint=best"], 9),  # beside the best too
        (["trainer.epochs=2", "trainer.evaluation_epochs=0.5", "checkpoint=each_evaluation_epoch"], 16),
        (["trainer.evaluation_epochs=0.001", "checkpoint=each_evaluation_epoch"], 24),  # after each of six updates
        (["trainer.epochs=99", "checkpoint=each_evaluation_epoch", f"checkpoint.max_gib={10 * 2.0**-30}"], 14),
    ],
)
def test_r23_the_disk_has_to_hold_the_checkpoints_of_the_policy(
    overrides: list[str], models: int, tmp_path: Path
) -> None:
    assert checkpoint_bytes(settings_of(tmp_path, TABLE, "lora=none", *overrides), 1, ROWS) == models


class Space(NamedTuple):
    """What the standard library says of a disk."""

    total: int
    used: int
    free: int


def test_r23_a_disk_that_holds_the_model_alone_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Space(2**40, 2**40, 200 * 2**20))
    material = material_of(tmp_path, TABLE)
    weights = tmp_path / "weights"
    weights.mkdir()
    with (weights / "model.safetensors").open("wb") as file:
        file.truncate(100 * 2**20)
    material = replace(material, checkpoint=replace(material.checkpoint, name=str(weights)))
    check_disk(settings_of(tmp_path, TABLE, "lora=lora"), material, tmp_path)
    check_disk(settings_of(tmp_path, TABLE, "lora=none", "trainer.epochs=0"), material, tmp_path)
    with pytest.raises(ConfigError, match="model and checkpoints need about 464 MiB on disk, and 200 MiB are free"):
        check_disk(settings_of(tmp_path, TABLE, "lora=none"), material, tmp_path)


def test_r23_disable_saves_nothing(tmp_path: Path) -> None:
    run = trained(tmp_path, TABLE, *LOOP, "checkpoint=disable")
    assert not (run / "checkpoints").exists()
    assert not (run / "model").exists()


def test_r24_r25_evaluations_are_counted_in_updates(tmp_path: Path) -> None:
    rows: Columns = {"p": [f"q {row}" for row in range(10)], "a": [f"a {row}" for row in range(10)]}
    loop = ["trainer.batch_size=1", "trainer.evaluation_epochs=0.3", "checkpoint=disable"]
    assert sorted(numbers(trained(tmp_path, rows, *loop), "validation/loss")) == [0, 3, 6, 9, 10]
    run = trained(tmp_path / "two", rows, "trainer.batch_size=5", "trainer.epochs=5", "trainer.evaluation_epochs=2",
                  "trainer.evaluate_before_training=false", "checkpoint=disable")  # fmt: skip
    assert sorted(numbers(run, "validation/loss")) == [4, 8, 10]


def test_early_stopping_ends_a_training_that_gets_no_better(tmp_path: Path) -> None:
    loop = ["trainer.batch_size=4", "trainer.epochs=9", "trainer.early_stopping_patience=2", "schedule=constant"]
    worse = trained(tmp_path / "worse", CLASSES, *loop, *turned_around(tmp_path))
    assert sorted(numbers(worse, "validation/log_loss")) == [0, 3, 6]
    assert "Stopped after 6 of 27 updates" in (worse / "train.log").read_text(encoding="utf-8")
    assert json.loads((worse / "results.json").read_text(encoding="utf-8"))["final"]["step"] == 6
    better = trained(
        tmp_path / "better", TABLE, *loop[:1], "trainer.epochs=3", *loop[2:], "optimizer.learning_rate=0.003"
    )
    assert sorted(numbers(better, "validation/perplexity")) == [0, 3, 6, 9]
    delta = trained(tmp_path / "delta", TABLE, *loop, "optimizer.learning_rate=0.003",
                    "trainer.early_stopping_min_delta=1000")  # fmt: skip
    assert sorted(numbers(delta, "validation/perplexity")) == [0, 3, 6]


def test_a_time_limit_ends_after_a_whole_update_with_an_evaluation_and_a_checkpoint(tmp_path: Path) -> None:
    run = trained(tmp_path, TABLE, "trainer.batch_size=1", "trainer.grad_accumulation=4", "trainer.epochs=500",
                  "trainer.max_minutes=0.005", "trainer.evaluation_epochs=500")  # fmt: skip
    steps = sorted(numbers(run, "validation/perplexity"))
    assert steps[0] == 0
    assert len(steps) == 2
    assert 0 < steps[1] < 1500
    assert steps_of(run) == [f"step-{steps[1]:08d}"]
    assert max(numbers(run, "train/loss")) == steps[1]
    assert "trainer.max_minutes=0.005 are over" in (run / "train.log").read_text(encoding="utf-8")


def test_auto_finds_a_rate_and_a_batch_size_and_leaves_the_weights_alone(tmp_path: Path) -> None:
    found = trained(
        tmp_path / "auto", TABLE, "optimizer.learning_rate=auto", "trainer.batch_size=auto", "lora.dropout=0"
    )
    effective = json.loads((found / "manifest.json").read_text(encoding="utf-8"))["effective"]
    rate, size = effective["optimizer.learning_rate"], effective["trainer.batch_size"]
    assert (rate["requested"], size["requested"]) == ("auto", "auto")
    assert 1e-6 < rate["effective"] < 1
    assert size["effective"] == 8  # the largest power of two among twelve rows, which fit easily
    same = trained(
        tmp_path / "same",
        TABLE,
        f"optimizer.learning_rate={rate['effective']}",
        "trainer.batch_size=8",
        "lora.dropout=0",
    )
    for name in ("train/loss", "validation/loss", "train/learning_rate"):
        assert numbers(found, name) == numbers(same, name)
    for name, weight in adapter(same / "model").items():
        assert torch.equal(adapter(found / "model")[name], weight)


def test_a_range_test_goes_on_over_updates_that_weigh_nothing(tmp_path: Path) -> None:
    rows = {**TABLE, "w": [1.0, 0.0, 0.0] * 4}
    run = trained(tmp_path, rows, "optimizer.learning_rate=auto", "dataset.weight_column=w", "trainer.batch_size=1",
                  "lora=none", "checkpoint=disable")  # fmt: skip
    effective = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["effective"]
    assert effective["optimizer.learning_rate"]["effective"] > 1e-6


def test_a_range_test_that_goes_wrong_speaks_of_itself_whatever_a_run_would_bear(tmp_path: Path) -> None:
    rows = {"p": TABLE["p"], "a": [1e30] * ROWS}
    with pytest.raises(ConfigError, match=r"optimizer.learning_rate=auto: the loss did not fall in the 0 updates"):
        trained(tmp_path, rows, "problem=regression", "problem.standardize=false", "optimizer.learning_rate=auto",
                "trainer.max_bad_steps=1", "trainer.evaluate_before_training=false")  # fmt: skip


def test_the_memory_of_a_container_is_what_it_may_use(tmp_path: Path) -> None:
    none, some = tmp_path / "none", tmp_path / "some"
    none.write_text("max\n")
    some.write_text(f"{2**29}\n")
    assert memory_gib([none, tmp_path / "missing"]) == memory_gib([]) > 1
    assert memory_gib([none, some]) == 0.5


def test_the_rate_is_where_the_loss_falls_fastest() -> None:
    rates = [1e-6 * rate_curve(step) for step in range(60)]
    assert rates[0] == pytest.approx(1e-6)
    assert rates[-1] == pytest.approx(1.0)
    losses = [5.0 - 4.0 / (1.0 + math.exp(-(step - 30) / 2)) for step in range(60)]
    assert 30 <= min(range(60), key=lambda step: abs(rates[step] - suggestion(losses))) <= 40  # smoothing comes late
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate=auto: the loss did not fall in the 60 updates"):
        suggestion([float(step) for step in range(60)])
    with pytest.raises(ConfigError, match="in the 3 updates"):
        suggestion([3.0, 2.0, 1.0])


def test_auto_is_for_one_process(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.batch_size=auto is found by one process"):
        settings_of(tmp_path, TABLE, "trainer=ddp", "trainer.accelerator=cpu", "trainer.batch_size=auto")
