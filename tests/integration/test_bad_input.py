"""Each kind of bad input ends a run before weights are loaded: nothing is written, and the message says the cure."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from leyden.artifacts.job import run_job
from leyden.settings.composition import compose_config
from leyden.settings.errors import DataError, LeydenError
from leyden.settings.read import read

CONF = Path(__file__).resolve().parents[2] / "conf"
HEADER = "id,parent,system,question,answer,worse"
ROWS = [f"{row},,Be kind,What is {row}?,It is {row},It is not" for row in range(20)]
COLUMNS = ["dataset.prompt_column=question", "dataset.answer_column=answer"]
PAIRS = ["problem=dpo", "dataset.rejected_answer_column=worse"]
CHAINS = ["dataset.id_column=id", "dataset.parent_id_column=parent"]
Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def lines(*changed: str) -> str:
    """A good table whose first rows are replaced."""
    return "\n".join([HEADER, *changed, *ROWS[len(changed) :]]) + "\n"


def refused(folder: Path, *overrides: str) -> list[str]:
    """The faults of a run; proves that it wrote no run folder, which is made before any weights are loaded."""
    output = folder / "outputs"
    before = sorted(output.rglob("*"))
    config, faults = compose_config(
        "train", ["backbone=tiny", "dataset=table", *COLUMNS, f"output_directory={output}", *overrides], CONF
    )
    assert config is not None, faults
    assert not faults
    with pytest.raises(LeydenError) as caught:
        run_job(read(config))
    assert sorted(output.rglob("*")) == before, "the run had begun"
    return list(caught.value.faults)


def table(folder: Path, content: str | bytes, name: str = "table.csv") -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return f"dataset.train_dataframe={path}"


@pytest.mark.parametrize(
    ("content", "overrides", "parts"),
    [
        pytest.param(lines("0,,s,q"), [], ["line 2", "4 cells", "6 columns", "double quotes"], id="ragged row"),
        pytest.param("", [], ["is empty", "must name the columns"], id="no header"),
        pytest.param(HEADER + "\n", [], ["has no rows", "at least one row"], id="no rows"),
        pytest.param(f"{HEADER}\n{ROWS[0]}\n", [], ["has one row", "Give a table"], id="one row"),
        pytest.param(lines(), ["dataset.prompt_column=quesiton"],
                     ["dataset.prompt_column='quesiton' is not a column", "Did you mean 'question'?"], id="prompt"),
        pytest.param(lines(), ["dataset.answer_column=reply"],
                     ["dataset.answer_column='reply' is not a column", "'answer', 'worse'"], id="answer"),
        pytest.param(lines(), [*PAIRS, "dataset.rejected_answer_column=bad"],
                     ["dataset.rejected_answer_column='bad' is not a column"], id="rejected"),
        pytest.param(lines(), ["dataset.system_column=sys"],
                     ["dataset.system_column='sys' is not a column", "Did you mean 'system'?"], id="system"),
        pytest.param(lines(), [*CHAINS, "dataset.parent_id_column=paernt"],
                     ["dataset.parent_id_column='paernt' is not a column", "Did you mean 'parent'?"], id="parent"),
        pytest.param(lines(), [*CHAINS, "dataset.id_column=idd"],
                     ["dataset.id_column='idd' is not a column", "Did you mean 'id'?"], id="id"),
        pytest.param(lines("0,,s,q,,w", "1,,s,q,,w"), [],
                     ["column 'answer'", "lines 2, 3", "2 of 20", "Fill these cells"], id="empty answers"),
        pytest.param(lines("0,,s,q,a,"), PAIRS,
                     ["column 'worse'", "line 2", "dataset.rejected_answer_column"], id="empty rejected answers"),
        pytest.param(lines("1,,s,q,a,w"), CHAINS,
                     ["dataset.id_column='id'", "more than once", "lines 2, 3", "its own id"], id="duplicate ids"),
        pytest.param(lines("0,0,s,q,a,w"), CHAINS,
                     ["dataset.parent_id_column='parent'", "its own parent", "line 2", "empty"], id="self-parent"),
        pytest.param(lines("0,1,s,q,a,w", "1,0,s,q,a,w"), CHAINS,
                     ["circle of 2 rows", "lines 2, 3", "Leave the parent"], id="cycle"),
        pytest.param("\n".join([HEADER, *(f"{row},{(row + 1) % 9},s,q,a,w" for row in range(9))]), CHAINS,
                     ["every row a parent", "no conversation has a start", "parent_id_column=null"], id="no root"),
        pytest.param(lines(), ["tokenizer.max_length=24"],
                     ["tokenizer.max_length=24 is smaller than every prompt", "Raise tokenizer.max_length"], id="fit"),
        pytest.param(lines(), ["dataset.validation_size=0.01"],
                     ["dataset.validation_size=0.01 of 20 rows leaves 20 to train on and 0"], id="no validation"),
        pytest.param(lines(), ["dataset.validation_size=0.99"],
                     ["leaves 0 to train on", "0.95"], id="nothing to train on"),
        pytest.param(lines() + 'x,,s,"q,a,w', [], ["line 22", "never closed", "Double the quotes"], id="open quote"),
        pytest.param(lines().encode("utf-16"), [], ["is not UTF-8", "Save the file as UTF-8"], id="encoding"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_train(
    tmp_path: Path, content: str | bytes, overrides: list[str], parts: list[str]
) -> None:
    name = table(tmp_path, content)
    found = refused(tmp_path, name, *overrides)
    assert any(all(part in fault for part in parts) for fault in found), found
    assert "table.csv" in found[0] or "dataset.validation_size" in found[0]


def test_a_parquet_file_that_cannot_be_read(tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    pd.DataFrame({"question": ["a"] * 50, "answer": ["b"] * 50}).to_parquet(whole)
    for content in (whole.read_bytes()[:-20], b"no parquet at all"):
        found = refused(tmp_path, table(tmp_path, content, "broken.parquet"))
        assert len(found) == 1
        for part in ("broken.parquet", "truncated or not a Parquet file", "Write or download it again"):
            assert part in found[0]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    name = table(tmp_path, lines())
    (tmp_path / "table.csv").chmod(0)
    assert "Check the file and its permissions" in refused(tmp_path, name)[0]


def test_a_custom_validation_table_is_checked_like_the_other(tmp_path: Path) -> None:
    name = table(tmp_path, lines())
    other = table(tmp_path, "question,answer\nq,\n", "held_out.csv").replace("train_dataframe", "validation_dataframe")
    found = refused(tmp_path, name, other, "dataset.validation_strategy=custom")
    assert "held_out.csv" in found[0]
    assert "line 2" in found[0]


def test_all_faults_of_a_table_are_told_together(tmp_path: Path) -> None:
    name = table(tmp_path, lines("0,0,s,q,,w", "1,,s,q,a,", "2,,s,q,a,w", "2,,s,q,a,w"))
    found = refused(tmp_path, name, *PAIRS, *CHAINS)
    assert len(found) == 4, found
    names = refused(tmp_path, name, *PAIRS, "dataset.prompt_column=[p1,question]", "dataset.answer_column=p2")
    assert len(names) == 3, names


def test_a_run_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    name = table(tmp_path, lines())
    folder = tmp_path / "outputs" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("kept")
    found = refused(tmp_path, name, "experiment_name=mine")
    assert "experiment_name='mine'" in found[0]
    assert "overwrite=true" in found[0]
    (folder / "config.yaml").rename(folder / "thesis.txt")
    assert "is no run folder" in refused(tmp_path, name, "experiment_name=mine", "overwrite=true")[0]
    assert (folder / "thesis.txt").read_text() == "kept"


def test_a_model_that_cannot_be_reached_answers_soon(tmp_path: Path) -> None:
    clock = time.perf_counter()
    found = refused(tmp_path, table(tmp_path, lines()), "backbone.name=leyden-tests/no-such-model")
    assert time.perf_counter() - clock < 20
    assert "backbone.name='leyden-tests/no-such-model'" in found[0]
    assert "backbone=llama" in found[0] or "Check the id" in found[0]


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    found = refused(tmp_path, table(tmp_path, lines()), f"backbone.name={tmp_path / 'model'}")
    assert "cannot be read" in found[0]
    assert "save_pretrained" in found[0]


def test_too_little_disk_for_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 2**20, 2**20))
    found = refused(tmp_path, table(tmp_path, lines()))
    for part in ("output_directory=", "1 MiB are free", "checkpoint=disable"):
        assert part in found[0]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_small(small_disk: Path, tmp_path: Path) -> None:
    found = refused(tmp_path, table(tmp_path, lines()), f"output_directory={small_disk / 'outputs'}")
    assert "8 MiB are free" in found[0]
    assert not list(small_disk.iterdir())


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["data error", "column 'answer'", "line 2", "Fill these cells"]),
        (["problem=dpo", "problem/loss=hinje", "optimizer.learning_rate=nan", r"dataset.text_prompt_start='a\q'",
          "backbone.name=wheel:not-installed", "experiment_name=a/b", "dataset.validation_dataframe=nix.csv"],
         ["6 config errors", "hinje", "learning_rate=nan", "broken escape", "make install", "a/b", "nix.csv"]),
    ],
)  # fmt: skip
def test_the_command_ends_with_2_and_without_a_traceback(
    run_cli: Cli, run_here: Cli, tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    """Faults that are found before the libraries are loaded, by a process that is started; those of a table here."""
    columns = [*COLUMNS, "dataset.rejected_answer_column=worse"] if "problem=dpo" in arguments else COLUMNS
    name = table(tmp_path, lines("0,,s,q,,w"))
    run = run_cli if arguments else run_here
    done = run(["train.py", "backbone=tiny", "dataset=table", name, *columns, *arguments], cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv"}


def test_data_faults_have_their_own_type(tmp_path: Path) -> None:
    config, _ = compose_config(
        "train", ["backbone=tiny", "dataset=table", *COLUMNS, table(tmp_path, HEADER + "\n")], CONF
    )
    assert config is not None
    with pytest.raises(DataError):
        run_job(read(config))
