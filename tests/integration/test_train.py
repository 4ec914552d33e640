"""What `train.py` and `predict.py` leave behind on the tiny backbone, and that it is right.

The commands run inside this process; test_readme.py starts them as a user does.
"""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml
from tests.effects.small_runs import without_pages
from tests.integration.stopped_runs import BY_THE_CLOCK

from leyden.artifacts import job
from leyden.backbone.attention import attention_for_generation
from leyden.settings.composition import compose_config
from leyden.settings.read import read
from leyden.training.outcome import Run

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
CONF = Path(__file__).resolve().parents[2] / "conf"
TINY = ["backbone=tiny", "dataset.data_sample=0.1", "generation.max_length_inference=8", "tokenizer.max_length=256",
        "checkpoint.verify=false"]  # fmt: skip
FRESH_PROCESS = """
import sys
sys.modules["leyden"] = None          # any import of it fails from here on
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

messages = [{"role": "user", "content": "Where is my parcel?"}]
for run in sys.argv[1:]:
    folder = f"{run}/model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        torch.save({"ids": prompt["input_ids"], "logits": model(prompt["input_ids"]).logits}, f"{run}.pt")
"""


@pytest.fixture(scope="module")
def dpo_run(tmp_path_factory: pytest.TempPathFactory, run_here: Cli) -> SimpleNamespace:
    root = tmp_path_factory.mktemp("dpo")
    command = ["train.py", "problem=dpo", *TINY, "experiment_name=run", f"output_directory={root}"]
    return SimpleNamespace(folder=root / "run", done=run_here(command, cwd=root), root=root)


def numbers(folder: Path) -> dict[tuple[int, str], float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return {(int(row["step"]), row["name"]): float(row["value"]) for row in csv.DictReader(file)}


def test_the_run_folder_holds_what_the_design_says(dpo_run: SimpleNamespace) -> None:
    assert dpo_run.done.returncode == 0, dpo_run.done.stderr
    names = {path.name for path in dpo_run.folder.iterdir()}
    assert names == {
        "config.yaml", "manifest.json", "metrics.csv", "results.json", "predictions.parquet", "predictions.csv",
        "checkpoints", "model", "train.log", ".lock", "data.json", "progress.json", "report.html", "before.parquet",
    }  # fmt: skip
    assert {path.name for path in dpo_run.root.iterdir()} == {"run"}, "something was written outside the run folder"
    assert (dpo_run.folder / "model" / "adapter_model.safetensors").is_file()
    assert not list((dpo_run.folder / "model").glob("*.bin"))


def test_results_agree_with_metrics_and_terminal(dpo_run: SimpleNamespace) -> None:
    results = json.loads((dpo_run.folder / "results.json").read_text())
    logged = numbers(dpo_run.folder)
    final = results["final"]
    assert results["before"]["step"] == 0
    assert results["before"]["validation/reward_margin"] == 0
    for name in ("loss", "perplexity", "preference_accuracy", "reward_margin"):
        key = f"validation/{name}"
        assert logged[final["step"], key] == final[key]
        assert f"before/{key}\t{results['before'][key]!r}\n" in dpo_run.done.stdout
        assert f"final/{key}\t{final[key]!r}\n" in dpo_run.done.stdout
    assert results["best"]["validation/perplexity"] == min(
        value for (_, name), value in logged.items() if name == "validation/perplexity"
    )
    assert final["samples"] == json.loads((dpo_run.folder / "manifest.json").read_text())["counts"]["train"]["samples"]


def test_metrics_hold_every_update(dpo_run: SimpleNamespace) -> None:
    logged = numbers(dpo_run.folder)
    updates = json.loads((dpo_run.folder / "manifest.json").read_text())["updates"]
    wanted = {
        "train/loss", "train/learning_rate", "train/grad_norm", "train/tokens", "train/tokens_per_second",
        "train/peak_memory_gib",
        "train/chosen_logp", "train/rejected_logp", "train/reward_margin", "train/preference_accuracy",
    }  # fmt: skip
    for step in range(1, updates + 1):
        assert wanted <= {name for at, name in logged if at == step}
    assert logged[1, "train/loss"] == pytest.approx(0.693147, abs=1e-5)  # reference = policy at the first update


def test_predictions_follow_the_validation_rows(dpo_run: SimpleNamespace) -> None:
    parquet = pd.read_parquet(dpo_run.folder / "predictions.parquet")
    text = pd.read_csv(dpo_run.folder / "predictions.csv")
    assert list(parquet.columns) == list(text.columns)
    counts = json.loads((dpo_run.folder / "manifest.json").read_text())["counts"]
    assert len(parquet) == len(text) == counts["validation"]["rows"]
    assert parquet["id"].is_monotonic_increasing
    ends = ~parquet["id"].isin(parquet["parent_id"])  # rows that nobody answers are the samples
    assert parquet.loc[ends, "prediction"].notna().all()
    assert parquet.loc[~ends, "prediction"].isna().all()
    scored = parquet[ends]
    chosen = scored.chosen_logp - scored.reference_chosen_logp
    margin = chosen - (scored.rejected_logp - scored.reference_rejected_logp)
    torch.testing.assert_close(
        torch.tensor(scored.reward_margin.tolist()), 0.2 * torch.tensor(margin.tolist()), rtol=1e-4, atol=1e-5
    )
    results = json.loads((dpo_run.folder / "results.json").read_text())["final"]
    assert scored.reward_margin.mean() == pytest.approx(results["validation/reward_margin"], abs=1e-6)
    assert scored.score_perplexity.mean() == pytest.approx(results["validation/perplexity"], rel=1e-6)


def test_a_saved_config_repeats_the_run_bit_for_bit(dpo_run: SimpleNamespace, run_here: Cli) -> None:
    again = dpo_run.root.parent / "again"
    saved = ["--config-dir", str(dpo_run.folder), "--config-name", "config"]
    with without_pages():
        done = run_here(["train.py", *saved, f"output_directory={again}"], cwd=dpo_run.root)
    assert done.returncode == 0, done.stderr
    first, second = numbers(dpo_run.folder), numbers(again / "run")
    timeless = {key: value for key, value in first.items() if key[1] not in BY_THE_CLOCK}
    assert timeless == {key: value for key, value in second.items() if key[1] not in BY_THE_CLOCK}
    left, right = (folder / "model" / "adapter_model.safetensors" for folder in (dpo_run.folder, again / "run"))
    assert left.read_bytes() == right.read_bytes()


def test_the_config_is_resolved_and_the_manifest_says_what_became_of_it(dpo_run: SimpleNamespace) -> None:
    config = yaml.safe_load((dpo_run.folder / "config.yaml").read_text())
    assert config["optimizer"]["learning_rate"] == 1e-4
    assert config["trainer"]["gradient_clip"] == 10.0
    manifest = json.loads((dpo_run.folder / "manifest.json").read_text())
    assert manifest["effective"]["backbone.attention_implementation"]["effective"] == "segments"
    dtype = manifest["effective"]["backbone.dtype"]
    assert (dtype["requested"], dtype["effective"]) == ("auto", "float32")
    assert dtype["reason"].startswith("the device is a CPU")
    assert manifest["reference"] == "adapter switched off"
    assert manifest["parameters"]["trained"] < manifest["parameters"]["all"]


@pytest.fixture(scope="module")
def saved_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Run]]:
    """A run with an adapter and one of all weights, below one folder, with the models as they were when saved."""
    root, kept, save = tmp_path_factory.mktemp("saved"), {}, job.save_run
    for lora in ("lora", "none"):
        names = [f"lora={lora}", f"experiment_name={lora}", f"output_directory={root}", "trainer.progress=none"]
        config, faults = compose_config("train", [*TINY, *names], CONF)
        assert not faults
        assert config is not None
        with pytest.MonkeyPatch.context() as patch, without_pages():
            patch.setattr(job, "save_run", lambda run, *rest, n=lora: (kept.update({n: run}), save(run, *rest)))
            job.run_job(read(config))
    return root, kept


@pytest.fixture(scope="module")
def fresh_logits(saved_runs: tuple[Path, dict[str, Run]]) -> dict[str, dict[str, torch.Tensor]]:
    """Logits of both saved models in a process that cannot import leyden."""
    root, _ = saved_runs
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, "lora", "none"], capture_output=True, text=True, check=False, cwd=root
    )
    assert done.returncode == 0, done.stderr
    return {name: torch.load(root / f"{name}.pt", weights_only=True) for name in ("lora", "none")}


@pytest.mark.parametrize("lora", ["lora", "none"])
def test_the_model_loads_without_leyden_and_gives_the_same_logits(
    lora: str, saved_runs: tuple[Path, dict[str, Run]], fresh_logits: dict[str, dict[str, torch.Tensor]]
) -> None:
    run, fresh = saved_runs[1][lora], fresh_logits[lora]
    assert (saved_runs[0] / lora / "model" / "adapter_config.json").is_file() == (lora == "lora")
    model = run.module.backbone.eval()
    with torch.no_grad(), attention_for_generation(model, "sdpa"):
        ours = model(fresh["ids"], use_cache=False).logits
    torch.testing.assert_close(ours, fresh["logits"], rtol=1e-5, atol=1e-5)
    assert run.module.evaluation is not None


def test_predict_writes_one_prediction_per_row_in_order(dpo_run: SimpleNamespace, run_here: Cli) -> None:
    table = dpo_run.root.parent / "new.csv"
    strange = 'Ünïcödé "quoted",\nnew line'
    rows = [("b", "", "My kettle sings?"), ("a", "b", "It sings louder now."), ("c", "", strange)]
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "parent_id", "message"), *rows])
    short = "generation.max_length_inference=4"
    done = run_here(["predict.py", f"run={dpo_run.folder}", f"dataset.path={table}", short])
    assert done.returncode == 0, done.stderr
    written = pd.read_parquet(dpo_run.folder / "predictions" / "new" / "predictions.parquet")
    assert written["message"].tolist() == [text for _, _, text in rows]
    assert written["prediction"].notna().all()
    assert "My kettle sings?" in written["prompt_text"][1], "an ancestor is missing from the prompt"
    assert "3 predictions" in done.stdout


def test_predict_scores_rows_that_have_answers_as_the_run_did(dpo_run: SimpleNamespace, run_here: Cli) -> None:
    ours = pd.read_parquet(dpo_run.folder / "predictions.parquet")
    columns = ["id", "parent_id", "message", "good_reply", "poor_reply"]
    table = dpo_run.root.parent / "held_out.csv"
    ours[columns].to_csv(table, index=False)
    model = dpo_run.folder / "model"
    out = dpo_run.root.parent / "predicted"
    done = run_here(["predict.py", f"run={model}", f"dataset.path={table}", f"output={out}"])
    assert done.returncode == 0, done.stderr
    again = pd.read_parquet(out / "predictions.parquet")
    ends = ours["prediction"].notna()
    assert again.loc[ends, "prediction"].tolist() == ours.loc[ends, "prediction"].tolist()
    for name in ("chosen_logp", "rejected_logp", "reference_chosen_logp", "reward_margin", "loss"):
        torch.testing.assert_close(
            torch.tensor(again.loc[ends, name].tolist()), torch.tensor(ours.loc[ends, name].tolist()),
            rtol=1e-4, atol=1e-4,
        )  # fmt: skip


def test_a_full_fine_tuning_shows_its_progress_and_is_scored_again_against_where_it_started(
    run_here: Cli, tmp_path: Path
) -> None:
    command = ["train.py", "problem=dpo", *TINY, "lora=none", "trainer.evaluation_epochs=0.5"]
    with without_pages():
        done = run_here([*command, "experiment_name=full", "output_directory=."], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    updates = json.loads((tmp_path / "full" / "manifest.json").read_text())["updates"]
    shown = re.findall(r"^(train|evaluate|predict) +(\d+)/(\d+)", done.stderr, flags=re.MULTILINE)
    assert all(int(part) <= int(whole) for _, part, whole in shown)
    assert ("train", str(updates), str(updates)) in shown
    ours = pd.read_parquet(tmp_path / "full" / "predictions.parquet")
    table = tmp_path / "held_out.csv"
    ours[["id", "parent_id", "message", "good_reply", "poor_reply"]].to_csv(table, index=False)
    done = run_here(["predict.py", "run=full", f"dataset.path={table}", "output=again"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    again = pd.read_parquet(tmp_path / "again" / "predictions.parquet")
    ends = ours["prediction"].notna()
    assert (ours.loc[ends, "reward_margin"].abs() > 1e-3).all()
    for name in ("reference_chosen_logp", "reward_margin", "loss"):
        torch.testing.assert_close(
            torch.tensor(again.loc[ends, name].tolist()), torch.tensor(ours.loc[ends, name].tolist()),
            rtol=1e-4, atol=1e-4,
        )  # fmt: skip


def test_predictions_are_written_whatever_else_the_table_holds(run_here: Cli, tmp_path: Path) -> None:
    rows = [
        {"q": f"Question {number}?", "a": f"Answer {number}.", "prediction": "mine", "table_prediction": "mine too",
         "extra": number if number % 2 else "text"}
        for number in range(12)
    ]  # fmt: skip
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    columns = ["dataset=table", "dataset.train_dataframe=t.jsonl", "dataset.prompt_column=q", "dataset.answer_column=a"]
    short = "generation.max_length_inference=4"
    command = ["train.py", "backbone=tiny", *columns, short, "dataset.validation_size=0.4", "checkpoint.verify=false"]
    with without_pages():
        done = run_here([*command, "experiment_name=run", "output_directory=."], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "'extra' of the table holds several types" in done.stderr
    written = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    assert written["table_table_prediction"].eq("mine").all()
    assert written["table_prediction"].eq("mine too").all()
    assert set(written["extra"]) <= {"1", "3", "5", "7", "9", "11", "text"}
