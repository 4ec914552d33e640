"""Whole tiny runs of every problem type: what stands in the predictions, and that `model/` loads without our code."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score
from tests.effects.small_runs import Columns, material_of, predicted, predictions, results, trained
from tests.report_runs import with_a_page
from tests.unit.chat_server import Call, ChatServer, says
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from leyden.settings.errors import ConfigError, MetricError

ROWS = 12
PROMPTS = [f"text number {number} {'x' * (number % 5)}" for number in range(ROWS)]
TABLE: Columns = {
    "p": PROMPTS,
    "a": [f"answer {number}" for number in range(ROWS)],
    "word": [("no", "yes")[number % 2] for number in range(ROWS)],
    "kind": [("red", "green", "blue")[number % 3] for number in range(ROWS)],
    "x": [number % 2 for number in range(ROWS)],
    "y": [int(number % 3 == 0) for number in range(ROWS)],
    "n": [100.0 + 10 * number for number in range(ROWS)],
    "m": [-0.5 * number * number for number in range(ROWS)],
    "w": [1.0 + number % 3 for number in range(ROWS)],
}
ADAPTERS = ["lora=none", "lora=lora"]
BINARY = ["problem=classification", "dataset.answer_column=word"]
MULTICLASS = ["problem=classification", "dataset.answer_column=kind"]
MULTILABEL = ["problem=classification", "dataset.answer_column=[x,y]"]
REGRESSION = ["problem=regression", "dataset.answer_column=[n,m]"]
LEARN = ["optimizer.learning_rate=1e-3", "trainer.batch_size=4", "trainer.evaluate_before_training=false"]


@contextmanager
def as_any_user() -> Iterator[None]:
    """A warning of a library is no error to whoever only loads a model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def plain_head(run: Path) -> Any:
    """The saved model, loaded with transformers and peft alone."""
    folder = str(run / "model")
    adapter = run / "model" / "adapter_config.json"
    with as_any_user():
        if not adapter.is_file():
            return AutoModelForSequenceClassification.from_pretrained(folder).eval()
        base = json.loads(adapter.read_text())["base_model_name_or_path"]
        model = AutoModelForSequenceClassification.from_pretrained(base, config=AutoConfig.from_pretrained(folder))
        return PeftModel.from_pretrained(model, folder).eval()


@torch.no_grad()
def plain_logits(run: Path) -> tuple[Any, Tensor]:
    """Config of the saved model, and its logits of each row alone."""
    model, tokenizer = plain_head(run), AutoTokenizer.from_pretrained(str(run / "model"))
    rows = [model(**tokenizer(p, add_special_tokens=False, return_tensors="pt")).logits[0] for p in PROMPTS]
    return model.config, torch.stack(rows)


def close(found: pd.DataFrame, wanted: Tensor) -> None:
    np.testing.assert_allclose(found.to_numpy(), wanted.double().numpy(), rtol=1e-5, atol=1e-6)


def same(one: pd.DataFrame, two: pd.DataFrame) -> None:
    """Two tables of predictions, but for rounding."""
    pd.testing.assert_frame_equal(one, two, rtol=1e-5, atol=1e-6)


def card_works(run: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The lines of the model card run, in the model's folder; what they have made."""
    names: dict[str, Any] = {}
    code = (run / "model" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(run / "model")
    with as_any_user():
        exec(compile(code, "README.md", "exec"), names)
    return names


@pytest.mark.parametrize("lora", ADAPTERS)
def test_binary(tmp_path: Path, lora: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path, TABLE, *BINARY, lora, *LEARN)
    config, logits = plain_logits(run)
    assert (config.num_labels, config.id2label, config.problem_type) == (1, {0: "yes"}, "multi_label_classification")
    table = predictions(run)
    close(table[["probability_yes"]], logits.sigmoid())
    assert table["target"].tolist() == TABLE["word"]
    assert table["score_accuracy"].tolist() == (table["target"] == table["prediction"]).astype(float).tolist()
    assert table["prediction"].tolist() == ["yes" if z > 0 else "no" for z in logits[:, 0].tolist()]
    wanted = np.array([word == "yes" for word in TABLE["word"]])
    assert results(run)["validation/auc"] == pytest.approx(roc_auc_score(wanted, table["probability_yes"]))
    same(predicted(run, tmp_path / "table.jsonl"), table)
    card_works(run, monkeypatch)


@pytest.mark.parametrize("lora", ADAPTERS)
def test_multiclass_with_several_metrics(tmp_path: Path, lora: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path, TABLE, *MULTICLASS, lora, *LEARN, "metric=[log_loss,accuracy,f1,auc]")
    config, logits = plain_logits(run)
    names = ["blue", "green", "red"]
    assert config.id2label == dict(enumerate(names))
    assert config.label2id == {name: number for number, name in enumerate(names)}
    assert config.problem_type == "single_label_classification"
    table = predictions(run)
    shares = table[[f"probability_{name}" for name in names]]
    close(shares, logits.softmax(-1))
    assert table["target"].tolist() == TABLE["kind"]
    assert table["score_accuracy"].mean() == pytest.approx(results(run)["validation/accuracy"])
    assert table["prediction"].tolist() == [names[number] for number in logits.argmax(-1).tolist()]
    found, kinds = results(run), TABLE["kind"]
    assert found["validation/accuracy"] == pytest.approx(accuracy_score(kinds, table["prediction"]))
    assert found["validation/log_loss"] == pytest.approx(log_loss(kinds, shares, labels=names), rel=1e-5)
    assert found["validation/loss"] == pytest.approx(table["loss"].mean(), rel=1e-5)
    assert found["validation/auc"] == pytest.approx(roc_auc_score(kinds, shares, multi_class="ovr", labels=names))
    assert found["validation/f1"] == pytest.approx(f1_score(kinds, table["prediction"], average="macro"))
    same(predicted(run, tmp_path / "table.jsonl"), table)
    card_works(run, monkeypatch)


@pytest.mark.parametrize("lora", ADAPTERS)
def test_multilabel(tmp_path: Path, lora: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path, TABLE, *MULTILABEL, lora, *LEARN)
    config, logits = plain_logits(run)
    assert (config.id2label, config.problem_type) == ({0: "x", 1: "y"}, "multi_label_classification")
    table = predictions(run)
    close(table[["probability_x", "probability_y"]], logits.sigmoid())
    assert table[["prediction_x", "prediction_y"]].to_numpy().tolist() == (logits > 0).long().tolist()
    assert table[["target_x", "target_y"]].to_numpy().tolist() == [*map(list, zip(TABLE["x"], TABLE["y"], strict=True))]
    right = (logits > 0).numpy() == np.array([TABLE["x"], TABLE["y"]]).T
    assert table["score_accuracy"].tolist() == right.mean(axis=1).tolist()
    same(predicted(run, tmp_path / "table.jsonl"), table)
    card_works(run, monkeypatch)


@pytest.mark.parametrize("lora", ADAPTERS)
def test_regression_predicts_on_the_scale_of_the_table(
    tmp_path: Path, lora: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(tmp_path, TABLE, *REGRESSION, lora, *LEARN, "metric=[mae,mse]")
    config, logits = plain_logits(run)
    assert (config.id2label, config.problem_type) == ({0: "n", 1: "m"}, "regression")
    wanted = torch.tensor([TABLE["n"], TABLE["m"]], dtype=torch.float64).T
    mean, deviation = wanted.mean(dim=0), wanted.std(dim=0, correction=0)
    assert config.target_mean == pytest.approx(mean.tolist())
    assert config.target_deviation == pytest.approx(deviation.tolist())
    table = predictions(run)
    found = mean + deviation * logits.double()
    close(table[["prediction_n", "prediction_m"]], found)
    close(table[["target_n", "target_m"]], wanted)
    assert table["score_mse"].mean() == pytest.approx(results(run)["validation/mse"])
    assert table["score_mae"].mean() == pytest.approx(results(run)["validation/mae"])
    assert results(run)["validation/mse"] == pytest.approx(float(((found - wanted) ** 2).mean()), rel=1e-5)
    assert results(run)["validation/mae"] == pytest.approx(float((found - wanted).abs().mean()), rel=1e-5)
    same(predicted(run, tmp_path / "table.jsonl"), table)
    card_works(run, monkeypatch)


def test_a_table_without_labels_is_predicted_with_the_classes_of_the_run(tmp_path: Path) -> None:
    run = trained(tmp_path, TABLE, *MULTICLASS, *LEARN)
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({"p": prompt}) + "\n" for prompt in PROMPTS))
    found, whole = predicted(run, bare), predictions(run)
    names = [name for name in whole.columns if name.startswith("probability_")]
    np.testing.assert_allclose(found[names].to_numpy(), whole[names].to_numpy(), rtol=1e-5, atol=1e-6)
    assert found["prediction"].tolist() == whole["prediction"].tolist()


@pytest.mark.parametrize("lora", ADAPTERS)
def test_seq2seq_loads_in_plain_transformers_and_repeats_its_answers(
    tmp_path: Path, lora: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = ["generation.min_length_inference=0", "metric=[bleu,perplexity]"]
    run = trained(tmp_path, TABLE, "problem=seq2seq", lora, *LEARN, *generation)
    table = predictions(run).fillna("")
    folder, adapter = str(run / "model"), run / "model" / "adapter_config.json"
    with as_any_user():
        base = json.loads(adapter.read_text())["base_model_name_or_path"] if adapter.is_file() else folder
        model: Any = AutoModelForSeq2SeqLM.from_pretrained(base)
        model = PeftModel.from_pretrained(model, folder) if adapter.is_file() else model
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for prompt, answer, text, loss in zip(
        table["prompt_text"], table["a"], table["prediction"], table["loss"], strict=True
    ):
        inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
        labels = tokenizer(f"{answer}<|im_end|>", add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            assert model(**inputs, labels=labels).loss.item() == pytest.approx(loss, rel=1e-5)
            ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        assert str(tokenizer.decode(ids[0], skip_special_tokens=True)).strip() == text
    same(predicted(run, tmp_path / "table.jsonl").fillna(""), table)
    assert set(results(run)) >= {"validation/bleu", "validation/perplexity", "validation/loss"}
    card_works(run, monkeypatch)


def test_texts_of_any_length_have_one_row_with_the_sum_of_their_pieces(tmp_path: Path) -> None:
    texts = ["word " * count for count in (1, 7, 13, 30)]
    run = trained(tmp_path, {"a": texts}, "dataset.prompt_column=[]", "tokenizer.max_length=16", *LEARN)
    table = predictions(run)
    assert len(table) == len(texts)
    assert "prediction" not in table.columns  # nothing is generated
    with as_any_user():
        model: Any = AutoPeftModelForCausalLM.from_pretrained(str(run / "model")).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(run / "model"))
    total = count = 0.0
    for text, loss, perplexity in zip(texts, table["loss"], table["score_perplexity"], strict=True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        pieces = [ids[start : start + 16] for start in range(0, len(ids), 16)]
        if len(pieces[-1]) == 16:
            pieces[-1:] = [pieces[-1][:-1], pieces[-1][-1:]]
        pieces[-1].append(tokenizer.eos_token_id)
        summed = scored = 0.0
        for piece in pieces:
            if len(piece) > 1:
                with torch.no_grad():
                    mean = model(torch.tensor([piece]), labels=torch.tensor([piece])).loss.item()
                summed, scored = summed + mean * (len(piece) - 1), scored + len(piece) - 1
        assert loss == pytest.approx(summed / scored, rel=1e-5)
        assert perplexity == pytest.approx(np.exp(summed / scored), rel=1e-5)
        total, count = total + summed, count + scored
    assert results(run)["validation/loss"] == pytest.approx(total / count, rel=1e-5)
    same(predicted(run, tmp_path / "table.jsonl"), table)


@pytest.mark.parametrize("lora", [["lora=none"], ["lora=lora"], ["lora=lora", "lora.unfreeze_layers=[embed]"]])
def test_markers_that_became_tokens_are_saved_with_their_embeddings(tmp_path: Path, lora: list[str]) -> None:
    run = trained(tmp_path, TABLE, *lora, *LEARN, "tokenizer.add_prompt_answer_tokens=true")
    tokenizer = AutoTokenizer.from_pretrained(str(run / "model"))
    assert len(tokenizer) == 264
    ids = [tokenizer(marker)["input_ids"] for marker in ("<|system|>", "<|prompt|>", "<|answer|>")]
    assert ids == [[261], [262], [263]]
    with as_any_user():
        auto = AutoPeftModelForCausalLM if lora[0] == "lora=lora" else None
        model: Any = (auto or AutoModelForCausalLM).from_pretrained(str(run / "model")).eval()
    assert model.get_input_embeddings().weight.shape[0] == 264
    table = predictions(run)
    for prompt, answer, loss in zip(table["prompt_text"], table["a"], table["loss"], strict=True):
        history = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        target = tokenizer(f"{answer}<|im_end|>", add_special_tokens=False)["input_ids"]
        labels = [-100] * len(history) + target
        with torch.no_grad():
            plain = model(torch.tensor([history + target]), labels=torch.tensor([labels])).loss.item()
        assert loss == pytest.approx(plain, rel=1e-5)
    same(predicted(run, tmp_path / "table.jsonl"), table)


@pytest.mark.parametrize("problem", ["causal_lm", "seq2seq", "dpo", "classification", "regression"])
def test_rows_weigh_in_the_loss_of_an_evaluation_what_their_column_says(tmp_path: Path, problem: str) -> None:
    column = {"classification": "kind", "regression": "n"}.get(problem, "a")
    extra = ["dataset.rejected_answer_column=kind", "problem/loss=simpo"] if problem == "dpo" else []
    run = trained(
        tmp_path, TABLE, f"problem={problem}", f"dataset.answer_column={column}", "dataset.weight_column=w",
        "trainer.epochs=0", *extra,
    )  # fmt: skip
    table = predictions(run)
    weights = table["w"].to_numpy()
    if problem in ("causal_lm", "seq2seq"):
        weights = weights * np.array([len(answer) + 1 for answer in TABLE["a"]])
    expected = float((table["loss"] * weights).sum() / weights.sum())
    assert results(run)["validation/loss"] == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(float(table["loss"].mean()), rel=1e-4)


def test_an_update_of_rows_that_weigh_nothing_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = {**TABLE, "w": [float(number == 5) for number in range(ROWS)]}
    one = ["trainer.batch_size=1", "trainer.max_bad_steps=1", "dataset.weight_column=w", "trainer.epochs=2"]
    run = trained(tmp_path, table, *one)
    manifest = json.loads((run / "manifest.json").read_text())
    assert (manifest["empty_updates"], manifest["skipped_updates"]) == (2 * (ROWS - 1), 0)
    assert manifest["counts"]["train"]["rows of weight 0"] == ROWS - 1
    said = capsys.readouterr()
    assert f"{2 * (ROWS - 1)} updates left out, as all their rows have weight 0" in said.out
    assert "was not applied" not in said.err


def test_a_batch_larger_than_the_data_is_told_once(tmp_path: Path) -> None:
    lines = material_of(tmp_path, TABLE, "trainer.batch_size=64").warnings
    assert [line for line in lines if "batch_size" in line] == [
        f"trainer.batch_size=64 is more than the {ROWS} training samples; one batch holds them all."
    ]
    assert not any("batch_size" in line for line in material_of(tmp_path, TABLE, "trainer.batch_size=12").warnings)


def test_the_card_answers_as_the_run_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path, TABLE, "trainer.epochs=0", "generation.max_length_inference=3")
    names = card_works(run, monkeypatch)
    assert names["generation"].max_new_tokens == 3
    assert "generation_config=generation" in (run / "model" / "README.md").read_text()


def test_an_endpoint_that_takes_no_connection_is_told_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "AZURE_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    with ChatServer(lambda call: says("SCORE: 1")) as server:
        judge = ["metric=gpt", "metric.gpt.model=judge-1", f"metric.gpt.base_url={server.url}"]
        material_of(tmp_path, TABLE, *judge)
        assert not server.calls
    with pytest.raises(ConfigError, match=r"metric\.gpt\.base_url='http://127\.0\.0\.1:\d+/v1' takes no connection "
                       r"\(Connection refused\)"):  # fmt: skip
        material_of(tmp_path, TABLE, *judge)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    material_of(tmp_path, TABLE, *judge)  # a proxy would connect, so nothing is known


def shortest_answer(predicted_texts: list[str], target_texts: list[str], *, floor: int = 0) -> float:
    """A metric of a user: no decorator, two columns and a knob."""
    assert len(predicted_texts) == len(target_texts) == ROWS
    return float(max(floor, min(map(len, target_texts))))


def test_a_metric_of_the_user_by_its_dotted_path(tmp_path: Path) -> None:
    path = f"{__name__}.shortest_answer"
    mine = [f"+metric.mine._target_={path}", "+metric.mine.direction=max", "+metric.mine.floor=3"]
    found = results(trained(tmp_path, TABLE, *mine, "trainer.epochs=0"))
    assert found["validation/mine"] == 8.0
    assert "validation/perplexity" in found


def fails_later(logps: torch.Tensor) -> float:
    """A metric that gives a number in the evaluation before training, and none afterwards."""
    CALLS.append(len(logps))
    if len(CALLS) > 1:
        raise KeyError("boom")
    return 1.0


def test_a_metric_that_fails_in_training_costs_nothing_but_its_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = [f"+metric.mine._target_={__name__}.fails_later", "+metric.mine.direction=max"]
    CALLS.clear()
    with pytest.raises(MetricError, match=rf"mine is NaN in 2 evaluations.*metric\.mine \({__name__}.fails_later\) "
                       rf"raised KeyError: 'boom' on {ROWS} rows"):  # fmt: skip
        trained(tmp_path, TABLE, *mine, "trainer.epochs=2", "checkpoint=best", "overwrite=true")
    run = tmp_path / "run"
    numbers = json.loads((run / "results.json").read_text())
    assert numbers["before"]["validation/mine"] == 1.0
    assert numbers["final"]["validation/mine"] is None
    assert numbers["final"]["validation/perplexity"] > 0
    assert {"model", "predictions.csv", "manifest.json"} <= {path.name for path in run.iterdir()}
    assert capsys.readouterr().err.count("error: validation/mine is NaN after update") == 2


CALLS: list[int] = []


def test_a_metric_that_fails_before_training_ends_the_run(tmp_path: Path) -> None:
    mine = [f"+metric.mine._target_={__name__}.fails_later", "+metric.mine.direction=max"]
    CALLS[:] = [0]
    with pytest.raises(MetricError, match=r"metric\.mine .* raised KeyError: 'boom'"):
        trained(tmp_path, TABLE, *mine)
    assert not (tmp_path / "run" / "model").exists()


def test_a_judge_scores_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "AZURE_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789")

    def grade(call: Call) -> Any:
        row = next(number for number in reversed(range(ROWS)) if f"answer {number}" in call.text)
        return says(f"Row {row} is <b>fine</b>.\nSCORE: {row / 20}")

    with ChatServer(grade) as server:
        judge = ["metric=gpt", "metric.gpt.model=judge-1", f"metric.gpt.base_url={server.url}"]
        run = with_a_page(tmp_path, TABLE, *judge, "trainer.evaluate_before_training=false")
        assert len(server.calls) == ROWS
        assert {call.body["model"] for call in server.calls} == {"judge-1"}
        assert all(any(prompt in call.text for prompt in PROMPTS) for call in server.calls)
    table = predictions(run)
    assert results(run)["validation/gpt"] == pytest.approx(np.mean([row / 20 for row in range(ROWS)]))
    scores = [name for name in table.columns if "score" in name and "perplexity" not in name]
    remarks = [name for name in table.columns if "explanation" in name]
    assert table[scores[0]].tolist() == pytest.approx([row / 20 for row in range(ROWS)])
    assert [text.split("\n")[0] for text in table[remarks[0]]] == [f"Row {row} is <b>fine</b>." for row in range(ROWS)]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<b>fine</b>" not in page, "what a judge says is text"
    data = re.search(r'<script type="application/json" id="predictions-data">(.*?)</script>', page, re.DOTALL)
    assert data
    shown = {field["title"]: field["cells"] for field in json.loads(data[1])["fields"]}
    assert [text.split("\n")[0] for text in shown["Explanation GPT"]] == [
        f"Row {row} is <b>fine</b>." for row in range(ROWS)
    ]
    written = b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())
    assert b"sk-secret" not in written
