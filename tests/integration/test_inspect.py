from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import yaml
from tests.conftest import RunCli
from tests.effects.small_runs import CONF, settings_of, trained

from leyden.artifacts.folder import RunFolder
from leyden.artifacts.job import run_job
from leyden.artifacts.look import last_words
from leyden.backbone import generate
from leyden.backbone.checkpoint import Checkpoint
from leyden.backbone.tiny import tiny_model, tiny_tokenizer
from leyden.settings.composition import compose_config
from leyden.settings.errors import ConfigError, DataError
from leyden.settings.read import read
from leyden.settings.resuming import continued, is_look

ROWS = {"p": ["one", "two", "three", "four"], "a": ["yes", "no", "yes", "no"], "r": ["no", "yes", "maybe", "so"]}
LOOK = {"config.yaml", "data.json", "report.html", "train.log", ".lock"}
PROBLEMS = {
    "causal_lm": [],
    "dpo": ["problem=dpo", "dataset.rejected_answer_column=r"],
    "classification": ["problem=classification"],
    "seq2seq": ["problem=seq2seq"],
}


def faults(*overrides: str) -> list[str]:
    config, wrong = compose_config("train", ["backbone=tiny", *overrides], CONF)
    assert not wrong, wrong
    assert config is not None
    with pytest.raises(ConfigError) as error:
        read(config)
    return error.value.faults


def look_at(folder: Path, *overrides: str) -> Path:
    run_job(settings_of(folder, ROWS, "mode=inspect", *overrides))
    return folder / "run"


@pytest.mark.parametrize("problem", PROBLEMS)
def test_an_inspection_writes_what_it_saw_and_builds_no_model(
    problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an inspection has asked for a model")

    with patch.object(torch.nn.Module, "__init__", refuse), patch.object(Checkpoint, "location", property(refuse)):
        run = look_at(tmp_path, *PROBLEMS[problem], "optimizer.learning_rate=1", "overwrite=true")
    assert {file.name for file in run.iterdir()} == LOOK
    data = json.loads((run / "data.json").read_text(encoding="utf-8"))
    assert data["counts"]["train"]["rows"] == 4
    assert yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["mode"] == "inspect"
    said, shown = (run / "train.log").read_text(encoding="utf-8"), capsys.readouterr()
    assert "train: 4 rows" in said
    assert "train: 4 rows" in shown.err
    assert str(run / "report.html") in shown.out
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Looked at, not trained" in page
    assert 'id="data"' in page


def test_weights_that_cannot_be_read_are_not_missed(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "checkpoint")
    tiny_tokenizer().save_pretrained(tmp_path / "checkpoint")
    (weights,) = (tmp_path / "checkpoint").glob("*.safetensors")
    weights.write_bytes(b"no weights")
    weights.chmod(0)
    assert (look_at(tmp_path, f"backbone.name={tmp_path / 'checkpoint'}") / "data.json").is_file()
    weights.unlink()
    again = ["experiment_name=again", f"backbone.name={tmp_path / 'checkpoint'}"]
    look_at(tmp_path, *again)
    assert (tmp_path / "again" / "data.json").is_file()


def test_a_training_takes_the_place_of_an_inspection_without_overwrite(tmp_path: Path) -> None:
    look_at(tmp_path)
    look_at(tmp_path)  # and so does another inspection
    run = trained(tmp_path, ROWS, "trainer.epochs=1")
    assert (run / "model").is_dir()
    assert json.loads((run / "data.json").read_text(encoding="utf-8"))["counts"]["train"]["rows"] == 4
    assert yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["mode"] == "train"
    assert not is_look(run)
    for more in ((), ("overwrite=true",)):
        with pytest.raises(ConfigError, match=r"is a run, which mode=inspect and dry_run=true do not replace"):
            look_at(tmp_path, *more)
    assert (run / "model").is_dir()


def test_what_is_not_of_an_inspection_keeps_its_folder(tmp_path: Path) -> None:
    run = look_at(tmp_path)
    (run / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="is there already"):
        trained(tmp_path, ROWS)
    assert (run / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_faults_of_a_table_end_an_inspection_as_they_end_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no_such_column"):
        look_at(tmp_path, "dataset.answer_column=no_such_column")
    assert not (tmp_path / "run").exists()


def test_resume_auto_begins_where_there_was_a_look_only_and_a_folder_cannot_be_resumed(tmp_path: Path) -> None:
    run = look_at(tmp_path)
    settings = settings_of(tmp_path, ROWS, "trainer.epochs=1", "resume=auto")
    assert run_job(settings) > 0
    assert (run / "model").is_dir()
    shutil.rmtree(run)
    look_at(tmp_path)
    overrides = [f"resume={run}"]
    config, _ = compose_config("train", overrides, CONF)
    assert config is not None
    with pytest.raises(ConfigError, match="it was only looked at"):
        continued(config, overrides)


def test_what_does_not_go_with_a_look() -> None:
    assert list(faults("mode=inspect", "dry_run=true")) == [
        "dry_run=true has no effect with mode=inspect, which loads no weights. Leave one of them out; a dry run "
        "writes what mode=inspect writes, too."
    ]
    assert list(faults("mode=look")) == [
        "mode='look' is not allowed (Train; or look at the tables, write the data part of the report, and load no "
        "weights). Allowed: one of train, inspect."
    ]
    (fault,) = faults("dry_run=true", "trainer.epochs=0")
    assert fault.startswith("dry_run=true has no update to try")
    (fault,) = faults("dry_run=7")
    assert fault.startswith("dry_run=7 is not allowed")


def test_a_look_is_a_matter_of_one_process() -> None:
    several = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2",
               "GROUP_RANK": "0"}  # fmt: skip
    with patch.dict(os.environ, several):
        (fault,) = faults("mode=inspect", "trainer=ddp", "trainer.devices=2")
    assert fault.startswith("mode=inspect is a matter of one process")


def test_the_next_command_is_the_same_one_with_a_training(tmp_path: Path) -> None:
    folder, page = RunFolder(tmp_path / "my run"), tmp_path / "my run" / "report.html"
    said = last_words(folder, page, ["problem=dpo", "mode=inspect", "dataset.text_prompt_start='a b'"])
    assert said.endswith("Next: python train.py problem=dpo 'dataset.text_prompt_start='\"'\"'a b'\"'\"'' "
                         "'experiment_name=my run'")  # fmt: skip
    assert last_words(folder, page, ["+mode=inspect", "experiment_name=x"]).endswith("train.py experiment_name=x")


@pytest.mark.parametrize("problem", ["dpo", "classification"])
def test_a_dry_run_makes_real_updates_and_keeps_none(
    problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["trainer.batch_size=1", "trainer.grad_accumulation=2", "trainer.epochs=3", "optimizer.learning_rate=auto"]
    run_job(settings_of(tmp_path, ROWS, "dry_run=true", *own, *PROBLEMS[problem]))
    run, said = tmp_path / "run", capsys.readouterr().out
    assert {file.name for file in run.iterdir()} == LOOK | {"dry_run.json"}
    found = json.loads((run / "dry_run.json").read_text(encoding="utf-8"))
    assert found["tried"]
    assert found["fits"]
    assert found["updates"] == 6  # four samples, two of them in an update, three times
    assert len(found["measured"]["seconds of usual updates"]) == 2  # an epoch has no more
    lengths = json.loads((run / "data.json").read_text(encoding="utf-8"))["counts"]["train"]
    assert found["measured"]["tokens of an update in the mean"] == lengths["tokens"] / 2
    assert sum(found["measured"]["tokens of usual updates"]) == lengths["tokens"]
    assert found["memory_gib"]["optimizer"] > 0
    assert (found["seconds"]["score the reference"] > 0) == (problem == "dpo")
    assert "6 updates: about" in said
    assert "Memory: at most" in said
    assert (trained(tmp_path, ROWS, "trainer.epochs=1") / "model").is_dir()  # in the same folder


def test_a_dry_run_that_would_not_fit_is_not_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with patch("leyden.training.trial.memory_gib", lambda: 0.001):
        run_job(settings_of(tmp_path, ROWS, "dry_run=true"))
    found = json.loads((tmp_path / "run" / "dry_run.json").read_text(encoding="utf-8"))
    assert not found["tried"]
    assert not found["fits"]
    assert "The longest batch was not tried: it would need about" in capsys.readouterr().out


def test_a_dry_run_tries_the_longest_batch(tmp_path: Path) -> None:
    rows = {"p": [*"abcdefgh"], "a": ["x"] * 7 + ["long " * 15]}
    run_job(settings_of(tmp_path, rows, "dry_run=true", "trainer.batch_size=1"))
    found = json.loads((tmp_path / "run" / "dry_run.json").read_text(encoding="utf-8"))
    data = json.loads((tmp_path / "run" / "data.json").read_text(encoding="utf-8"))
    assert found["measured"]["tokens of the largest pass"] == data["lengths"][0]["parts"]["train"]["longest"]


@pytest.mark.parametrize(("allowed", "tried"), [(60, 48), (7, 7)])
def test_answers_of_a_dry_run_are_as_long_as_is_tried(
    allowed: int, tried: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that would end at once, or at a stop string, says nothing of what answers may take."""
    monkeypatch.setattr(generate, "end_ids", lambda texts: {*range(len(texts))} - {texts.convert_tokens_to_ids("x")})
    written, original = list[int](), generate._generate

    def counted(*given: Any) -> list[list[int]]:
        new = original(*given)
        written.extend(map(len, new))
        return new

    monkeypatch.setattr(generate, "_generate", counted)
    stops = ["generation.min_length_inference=0", f"generation.max_length_inference={allowed}",
             "generation.stop_tokens=x"]  # fmt: skip
    run_job(settings_of(tmp_path, ROWS, "dry_run=true", *stops))
    assert set(written) == {tried}


def test_the_command_says_where_the_page_is_and_what_to_type_next(run_here: RunCli, tmp_path: Path) -> None:
    done = run_here(["train.py", "backbone=tiny", "problem=dpo", "mode=inspect", f"output_directory={tmp_path}"])
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.iterdir()
    assert {file.name for file in run.iterdir()} == LOOK
    page = run / "report.html"
    assert f"The data check is in {page}. Nothing was trained. Next: python train.py backbone=tiny" in done.stdout
    assert done.stdout.strip().endswith(f"experiment_name={run.name}")
    assert 'id="configuration"' in page.read_text(encoding="utf-8")  # composed inside of Hydra's own job
