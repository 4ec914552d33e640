"""Weights of an earlier run as the start of another (A4), and weights drawn from the seed (X14)."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file, save_file
from tests.effects.small_runs import Columns, predicted, results, settings_of, trained
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from leyden.settings.errors import ConfigError, ModelError
from leyden.training.assembly import load_backbone
from leyden.training.prepare import prepare

COLUMNS: Columns = {"p": ["one", "two", "three", "four"], "a": ["eins", "zwei", "drei", "vier"],
                    "r": ["uno", "dos", "tres", "cuatro"], "k": ["odd", "even", "odd", "even"]}  # fmt: skip
PROBLEMS: dict[str, tuple[str, ...]] = {
    "causal_lm": ("problem=causal_lm",),
    "dpo": ("problem=dpo", "dataset.rejected_answer_column=r"),
    "classification": ("problem=classification", "dataset.answer_column=k"),
}
QUICK = ("trainer.batch_size=2", "trainer.epochs=2", "optimizer.learning_rate=0.02", "optimizer.weight_decay=0")
CASES = [("lora", "lora"), ("lora", "none"), ("none", "none"), ("none", "lora")]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """A finished run of each problem with an adapter, and one without."""
    found = {}
    for problem, words in PROBLEMS.items():
        for kind in ("lora", "none"):
            folder = tmp_path_factory.mktemp("source")
            found[problem, kind] = trained(folder, COLUMNS, *words, *QUICK, f"lora={kind}")
    return found


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """The loss of the checkpoint itself; of a start that is its own reference, no loss a test would pass with."""
    found = {"dpo": 0.0}
    for problem in ("causal_lm", "classification"):
        run = trained(tmp_path_factory.mktemp("untrained"), COLUMNS, *PROBLEMS[problem], "trainer.epochs=0")
        found[problem] = results(run)["validation/loss"]
    return found


def loaded_alone(run: Path, problem: str, base: str | None = None) -> Any:
    """The saved model as transformers and peft load it."""
    model = run / "model"
    adapter = (model / "adapter_config.json").is_file()
    if problem != "classification":
        return (AutoPeftModelForCausalLM if adapter else AutoModelForCausalLM).from_pretrained(model).eval()
    if not adapter:
        return AutoModelForSequenceClassification.from_pretrained(model).eval()
    named = json.loads((model / "adapter_config.json").read_text())["base_model_name_or_path"]
    config = AutoConfig.from_pretrained(model)
    base_model = AutoModelForSequenceClassification.from_pretrained(base or named, config=config)
    return PeftModel.from_pretrained(base_model, model).eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=torch.arange(40, 60)[None]).logits
    return found


@pytest.mark.parametrize(("source", "own"), CASES, ids=["-".join(case) for case in CASES])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_a4_a_run_starts_where_the_earlier_one_ended(
    problem: str,
    source: str,
    own: str,
    sources: dict[tuple[str, str], Path],
    untrained: dict[str, float],
    tmp_path: Path,
) -> None:
    earlier = sources[problem, source]
    run = trained(
        tmp_path, COLUMNS, *PROBLEMS[problem], *QUICK, f"lora={own}", f"backbone.pretrained_weights={earlier}",
        "trainer.epochs=0", "trainer.evaluate_before_training=true",
    )  # fmt: skip
    before, expected = results(run), results(earlier)
    reference = {"validation/reward_margin", "validation/preference_accuracy", "validation/loss"}
    for name, value in expected.items():
        if name not in ("step", "samples") and not (problem == "dpo" and name in reference):
            assert before[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    if problem == "dpo":  # the reference is the start too
        assert before["validation/loss"] == pytest.approx(0.6931472, abs=1e-5)
        assert before["validation/reward_margin"] == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(
        logits(loaded_alone(run, problem)), logits(loaded_alone(earlier, problem)), rtol=1e-4, atol=1e-4
    )
    assert before["validation/loss"] != pytest.approx(untrained[problem], abs=1e-2)


@pytest.mark.parametrize(("source", "own"), CASES, ids=["-".join(case) for case in CASES])
def test_a4_a_prediction_finds_the_reference_of_its_run(
    source: str, own: str, sources: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    earlier = tmp_path / "earlier"
    shutil.copytree(sources["dpo", source], earlier)
    words = (*PROBLEMS["dpo"], *QUICK, f"lora={own}", f"backbone.pretrained_weights={earlier}")
    run = trained(tmp_path, COLUMNS, *words)
    alone = loaded_alone(run, "dpo")
    needed = own == "lora" and source == "none"  # an adapter on the earlier run's weights needs them
    if not needed:
        shutil.rmtree(earlier)
    table = predicted(run, tmp_path / "table.jsonl", "dataset.rejected_answer_column=r")
    at_the_end = pd.read_csv(run / "predictions.csv")
    scores = [name for name in at_the_end if "reward" in name or "logp" in name]
    assert scores
    for name in scores:
        torch.testing.assert_close(
            torch.tensor(table[name].to_numpy()), torch.tensor(at_the_end[name].to_numpy()), rtol=1e-4, atol=1e-4
        )
    assert results(run)["validation/loss"] < 0.69
    assert not needed or (Path(alone.peft_config["default"].base_model_name_or_path) == earlier / "model")


def test_a4_a_file_of_weights_gives_its_run_a_base_of_its_own(
    sources: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    earlier = sources["causal_lm", "none"]
    file = tmp_path / "some.safetensors"
    shutil.copy(earlier / "model" / "model.safetensors", file)
    run = trained(tmp_path, COLUMNS, f"backbone.pretrained_weights={file}", "trainer.epochs=0")
    file.unlink()
    model = loaded_alone(run, "causal_lm")
    assert Path(model.peft_config["default"].base_model_name_or_path) == run / "base"
    torch.testing.assert_close(logits(model), logits(loaded_alone(earlier, "causal_lm")), rtol=0, atol=0)
    assert len(predicted(run, tmp_path / "table.jsonl")) == 4
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["backbone"]
    assert manifest["start"] == str(file)
    assert Path(manifest["location"]) == run / "base"


def test_a4_what_finds_no_place_is_named_in_one_warning(
    sources: dict[tuple[str, str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = load_file(sources["causal_lm", "none"] / "model" / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(3)
    weights["model.layers.7.mlp.up_proj.weight"] = weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, tmp_path / "odd.safetensors")
    settings = settings_of(tmp_path, COLUMNS, "lora=none", f"backbone.pretrained_weights={tmp_path}/odd.safetensors")
    with caplog.at_level(logging.WARNING, "leyden"):
        load_backbone(settings, prepare(settings))
    (said,) = [record.getMessage() for record in caplog.records if "pretrained_weights" in record.getMessage()]
    assert "1 weights of the model are not in it and stay as they were (backbone.model.layers.1.mlp.up_proj" in said
    assert "1 of its weights have no place in what is trained here (model.layers.7.mlp.up_proj.weight)" in said
    assert "1 have another shape here and were left out (model.norm.weight: [3], here [64])" in said


def test_a4_weights_of_something_else_are_refused(sources: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    save_file({"encoder.w": torch.ones(2)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"{}")
    for name, words in (("other", "none of its 1 weights fits a weight of"), ("broken", "cannot be read")):
        settings = settings_of(tmp_path, COLUMNS, f"backbone.pretrained_weights={tmp_path}/{name}.safetensors")
        with pytest.raises(ModelError, match=words):
            load_backbone(settings, prepare(settings))
    other = sources["causal_lm", "lora"]
    settings = settings_of(tmp_path, COLUMNS, f"backbone.pretrained_weights={other}", "lora.r=3")
    with pytest.raises(ModelError, match=r"have another shape, such as .*lora_A.*, here \[3, \d+\]. Name .* and rank"):
        load_backbone(settings, prepare(settings))
    alone = tmp_path / "adapter.safetensors"
    shutil.copy(sources["causal_lm", "lora"] / "model" / "adapter_model.safetensors", alone)
    settings = settings_of(tmp_path, COLUMNS, "lora=none", f"backbone.pretrained_weights={alone}")
    with pytest.raises(ModelError, match=r"adapter without adapter_config.json beside it"):
        load_backbone(settings, prepare(settings))


def test_a4_an_adapter_that_means_something_else_here_is_said(
    sources: dict[tuple[str, str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = f"backbone.pretrained_weights={sources['classification', 'lora']}/model"
    settings = settings_of(tmp_path, {**COLUMNS, "k": ["a", "b", "a", "b"]}, *PROBLEMS["classification"], start,
                           "lora.alpha=99", "backbone.name=tiny:qwen2")  # fmt: skip
    with caplog.at_level(logging.WARNING, "leyden"):
        load_backbone(settings, prepare(settings))
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert "another scale than the adapter here (lora_alpha" in said
    assert "was trained on" in said
    assert "its outputs stand for something else than here (id2label" in said


def test_a4_paths_are_checked_before_anything_is_loaded(sources: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.bin").write_bytes(b"")
    for name, words in (
        ("nix", "does not exist"), ("empty", "holds no .safetensors file"), ("weights.bin", "is no .safetensors file"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=rf"backbone.pretrained_weights='.+ {words}"):
            settings_of(tmp_path, COLUMNS, f"backbone.pretrained_weights={tmp_path / name}")
    run = sources["causal_lm", "lora"]
    with pytest.raises(ConfigError, match="is in the folder of this run, which overwrite=true would empty"):
        settings_of(run.parent, COLUMNS, f"backbone.pretrained_weights={run}", "overwrite=true")


def drawn(folder: Path, seed: int, *words: str) -> Any:
    settings = settings_of(folder, COLUMNS, "backbone.pretrained=false", f"seed={seed}", "lora=none", *words)
    return load_backbone(settings, prepare(settings))[0]


def test_x14_weights_are_drawn_from_the_seed(tmp_path: Path) -> None:
    models = [drawn(tmp_path, seed).state_dict() for seed in (1, 1, 2)]
    assert models[0].keys() == models[2].keys()
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    matrices = [name for name, weight in models[0].items() if weight.ndim > 1]
    assert not any(torch.equal(models[0][name], models[2][name]) for name in matrices)
    checkpoint = settings_of(tmp_path, COLUMNS, "lora=none")
    pretrained = load_backbone(checkpoint, prepare(checkpoint))[0].state_dict()
    assert not any(torch.equal(models[0][name], pretrained[name]) for name in matrices)


@pytest.mark.parametrize("problem", ["causal_lm", "dpo"])
def test_x14_an_adapter_on_drawn_weights_loads_without_our_code(problem: str, tmp_path: Path) -> None:
    run = trained(tmp_path, COLUMNS, *PROBLEMS[problem], *QUICK, "backbone.pretrained=false", "seed=3")
    model = loaded_alone(run, "causal_lm")
    assert Path(model.peft_config["default"].base_model_name_or_path) == run / "base"
    with model.disable_adapter():
        base = drawn(tmp_path, 3, "backbone.attention_implementation=sdpa").eval()
        torch.testing.assert_close(logits(model), logits(base), rtol=0, atol=0)
    words = ("dataset.rejected_answer_column=r",) if problem == "dpo" else ()
    table = predicted(run, tmp_path / "table.jsonl", *words)
    at_the_end = pd.read_csv(run / "predictions.csv")
    numbers = at_the_end.select_dtypes("number").columns
    assert len(numbers)
    for name in numbers:
        torch.testing.assert_close(
            torch.tensor(table[name].to_numpy()), torch.tensor(at_the_end[name].to_numpy()), rtol=1e-4, atol=1e-4
        )
