"""Every command of the documents on a small setting: the tutorial as it is written, the others one by one."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import pandas as pd
import pytest
from tests.effects.small_runs import without_pages
from tests.integration.documented_commands import commands_of, make_tables, tables_of

from leyden import compare
from leyden.artifacts.job import run_job
from leyden.settings.composition import compose_config
from leyden.settings.read import read

Cli = Callable[..., "CompletedProcess[str]"]

SMALL = ("generation.max_length_inference=2", "trainer.progress=none", "checkpoint.verify=false")
HELPDESK = ("dataset.data_sample=0.01", "dataset.data_sample_choice=[train,validation]", "tokenizer.max_length=160")
SO_FEW_ROWS = "dataset.validation_size=0.3"  # as docs/problems.md says of the tables that it shows
OF_A_MODEL = ("backbone=", "backbone.name=", "backbone.revision=")  # the tiny one takes their place
TUTORIAL = "docs/tutorial.md"
QUESTIONS = "My back brake squeals in the rain.\n/compare\nAre you open on Saturdays?\n"

# What is not run here but composed and checked (test_readme.py, test_docs.py): words of the command, and why.
COMPOSED = {
    "trainer=gpu": "there is no GPU",
    "trainer=ddp": "two processes: test_processes.py",
    "trainer=fsdp": "two processes: test_fsdp.py",
    " -m ": "many runs: test_sweeps.py, and with processes test_processes.py",
    "sweep=dpo": "many runs: test_sweeps.py",
    "--cfg job": "it prints settings and runs nothing",
    "resume=": "it needs a run that was stopped: test_resume.py",
    "logger=": "trackers: test_logging_settings.py",
    "backbone=qwen": "the hub; as backbone=tiny it is the first command",
    "backbone.name=": "the hub",
    "run=HuggingFaceTB": "the hub",
    "run=owner/model": "the hub",
    "-m leyden.export": "a fresh process each: test_export_settings.py, test_export_command.py, test_upload.py",
    "-m leyden.import_h2o": "test_import_h2o.py",
}  # fmt: skip
# What is run by another test, as it stands.
ELSEWHERE = {
    "outputs/mine": "test_readme.py, the first screen",
    "experiment_name=mine": "test_readme.py, the first screen",
    "experiment_name=first": "test_notebooks.py",
    "experiment_name=pairs": "test_notebooks.py",
    "experiment_name=garden": "test_notebooks.py",
    "experiment=simpo": "test_readme.py, every recipe",
    "problem=dpo backbone=llama": "test_train.py",
    "-m leyden.compare outputs/*": "the tutorial, by name; test_compare.py",
    "outputs/NAME": "the same words with another name: the tutorial, test_predict.py, test_chat.py",
}  # fmt: skip


def reasons(words: list[str]) -> list[str]:
    """The words of a command that say why it is not run here."""
    line = " ".join(words)
    return [part for part in {**COMPOSED, **ELSEWHERE} if part in line]


@pytest.fixture(scope="module")
def pages(documents: dict[str, str]) -> dict[str, str]:
    """The tables that the pages show, by their names."""
    found: dict[str, str] = {}
    for text in documents.values():
        tables = tables_of(text)
        assert not set(found) & set(tables), "two pages show tables of one name"
        found |= tables
    assert len(found) >= 8
    return found


@pytest.fixture(scope="module")
def tutorial(
    documents: dict[str, str], code_blocks: Callable[..., list[str]], run_here: Cli,
    tmp_path_factory: pytest.TempPathFactory,
) -> SimpleNamespace:  # fmt: skip
    """The tutorial, command by command in one folder, on the tiny backbone; exports are left out."""
    page, folder = documents[TUTORIAL], tmp_path_factory.mktemp("tutorial")
    for name, rows in tables_of(page).items():
        (folder / name).write_text(rows, encoding="utf-8")
    lines = (line for block in code_blocks(page) for line in block.splitlines())
    ended: dict[str, CompletedProcess[str]] = {}
    for program, *words in commands_of(lines):
        if program == "-m leyden.export":
            continue
        small = ["backbone=tiny", *SMALL] if "dataset=table" in words else []
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(sys, "stdin", io.StringIO(QUESTIONS))
            if program == "-m leyden.compare":
                out = io.StringIO()
                with redirect_stdout(out):
                    done = CompletedProcess(words, compare.main(words), out.getvalue(), "")
            else:
                done = run_here([program, *words, *small], cwd=folder)
        ended[" ".join([program, *words])] = done
    return SimpleNamespace(folder=folder, ended=ended)


def ending(tutorial: SimpleNamespace, part: str) -> CompletedProcess[str]:
    (line,) = [line for line in tutorial.ended if part in line]
    done: CompletedProcess[str] = tutorial.ended[line]
    return done


def test_every_command_of_the_tutorial_ends_well(tutorial: SimpleNamespace) -> None:
    assert len(tutorial.ended) == 7
    for line, done in tutorial.ended.items():
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_the_tutorial_leaves_what_it_says(tutorial: SimpleNamespace) -> None:
    folder = tutorial.folder
    assert "Nothing was trained" in ending(tutorial, "mode=inspect").stdout
    for run in ("repair", "repair-r16"):
        assert (folder / "outputs" / run / "report.html").is_file()
        assert (folder / "outputs" / run / "model" / "README.md").is_file()
    assert json.loads((folder / "outputs/repair/data.json").read_text())["tables"][0]["rows"] == 24
    assert (folder / "outputs" / "comparison.html").is_file()
    rank = [json.loads((folder / f"outputs/{run}/model/adapter_config.json").read_text())["r"]
            for run in ("repair", "repair-r16")]  # fmt: skip
    assert rank == [4, 16]


def test_the_tutorial_is_answered(tutorial: SimpleNamespace) -> None:
    table = pd.read_csv(tutorial.folder / "outputs/repair/predictions/new/predictions.csv", keep_default_na=False)
    assert table["question"].tolist() == ["My back brake squeals in the rain.", "Are you open on Saturdays?"]
    (alone,) = ending(tutorial, "prompt=My back brake").stdout.split("\n")[:-1]
    assert alone == table["prediction"][0], "the answer and nothing else"
    first, with_adapter, with_base = ending(tutorial, "mode=chat").stdout.splitlines()
    assert first == alone
    assert with_adapter.startswith("adapter: ")
    assert with_base.startswith("base: ")


def test_every_command_is_run_or_said_not_to_be(commands: list[list[str]], tutorial: SimpleNamespace) -> None:
    used = {part for words in commands for part in reasons(words)}
    assert used == {*COMPOSED, *ELSEWHERE}, "no command is left out for this reason any more"
    others = {" ".join(words) for words in commands if words[0] != "train.py" and not reasons(words)}
    assert others <= {*tutorial.ended}


def small_run(words: list[str], tables: dict[str, str], folder: Path) -> Path:
    """Run a command that trains on the tiny backbone; a table that a page shows is used as it stands there."""
    make_tables(words, folder)
    shown = [name for name in tables if f"dataset.train_dataframe={name}" in words]
    for name in shown:
        (folder / name).write_text(tables[name], encoding="utf-8")
    kept = [word for word in words if not word.startswith(OF_A_MODEL)]
    own = any(word.startswith("dataset=") for word in words)
    backbone = "backbone=tiny_t5" if "problem=seq2seq" in words else "backbone=tiny"
    few = [SO_FEW_ROWS] if shown else () if own else HELPDESK
    small = [*kept, backbone, *SMALL, *few, "trainer.evaluate_before_training=false", "experiment_name=run",
             f"output_directory={folder}"]  # fmt: skip
    config, faults = compose_config("train", small, Path(__file__).resolve().parents[2] / "conf")
    assert config is not None
    assert not faults, faults
    with without_pages():
        run_job(read(config))
    return folder / "run"


def test_every_other_training_runs(
    commands: list[list[str]], pages: dict[str, str], tutorial: SimpleNamespace, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    done = {*tutorial.ended}
    lines = {" ".join(words): words for words in commands if words[0] == "train.py" and not reasons(words)}
    assert len(lines) > 20
    for number, (line, (_, *words)) in enumerate(lines.items()):
        if line in done:
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        run = small_run(words, pages, folder)
        if {"mode=inspect", "dry_run=true"}.isdisjoint(words):
            assert json.loads((run / "results.json").read_text())["final"]["step"] > 0, line
