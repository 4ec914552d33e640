"""The last words of a run: numbers that can be read, and a next command that a shell and Hydra take."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from leyden.artifacts.summary import Summary, number, summary_of
from leyden.settings.escapes import argument

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.25, "0.2500"), (-12345.678, "-12345.6780"), (3.2e59, "3.2e+59"), (-2e6, "-2e+06"), (NAN, "nan")],
)
def test_a_large_number_is_short(value: float, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    "path",
    ["outputs/a", "outputs/a:b*c?", "outputs/a b", "outputs/a,b", "outputs/a=b", "outputs/ä", "outputs/it's", "a\\b",
     "outputs/a(b)", "outputs/[x]", "a\\\\", "outputs/$HOME", "outputs/123", 'a"b', "a{b}"],
)  # fmt: skip
def test_the_next_command_survives_shell_and_hydra(path: str) -> None:
    (word,) = shlex.split(argument("run", path))
    parsed = OverridesParser.create().parse_override(word)
    assert not parsed.is_sweep_override()
    assert parsed.value() == path


def told(
    before: float, after: float, status: str = "done", folder: Path = Path("outputs/a"), generates: bool = True,
    remarks: tuple[str, ...] = (), **counts: int,
) -> Summary:  # fmt: skip
    problem = SimpleNamespace(generates=generates)
    module = SimpleNamespace(**{"skipped_updates": 0, "empty_updates": 0, **counts}, problem=problem)
    ends = None if status == "stopped" else {"validation/loss": 2.0, "validation/auc": after}
    points = {"before": {"validation/loss": 1.0, "validation/auc": before}, "best": None, "final": ends}
    latest = SimpleNamespace(metrics={"validation/auc": after})
    history = SimpleNamespace(metric=SimpleNamespace(name="auc"), seconds=1.0, points=[latest])
    settings = SimpleNamespace(trainer=SimpleNamespace(progress="auto"), dataset=SimpleNamespace(prompt_columns=["p"]))
    run: Any = SimpleNamespace(
        module=module, history=history, updates=2, seconds={"in all": 3.0}, settings=settings, best=None,
        trainer=SimpleNamespace(global_step=1), stopped="SIGINT" if status == "stopped" else None,
    )  # fmt: skip
    return summary_of(points, folder, run, status, remarks)


def test_a_metric_without_a_value_is_said() -> None:
    said = "validation/auc has no value on these rows, so it says nothing about the training (see train.log)."
    assert told(NAN, NAN).sentences[0] == said
    assert said not in told(NAN, 0.5).sentences
    assert said not in told(0.5, NAN).sentences


def test_the_time_of_a_run_that_was_gone_on_with_is_that_since_then(tmp_path: Path) -> None:
    (tmp_path / "resumes.jsonl").touch()
    said = told(0.5, 0.5, folder=tmp_path).sentences
    assert said == ["1 update in 1 s of training, 3 s since it was gone on with."]


def test_updates_that_did_nothing_are_told_apart() -> None:
    assert told(0.5, 0.5).sentences == ["1 update in 1 s of training, 3 s in all."]
    assert (
        told(0.5, 0.5, empty_updates=3).sentences[0].endswith("; 3 updates left out, as all their rows have weight 0.")
    )
    assert told(0.5, 0.5, skipped_updates=1).sentences[0].endswith("; 1 update not applied (see train.log).")


def test_what_can_be_typed_next_follows_how_the_run_ended(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert told(0.5, 0.6, folder=run).commands == [], "there is no model"
    assert told(0.5, 0.6, "stopped", run).commands == [f"python train.py resume={run}"]
    (run / "model").mkdir(parents=True)
    predict = f"python predict.py run={run}"
    assert told(0.5, 0.6, folder=run).commands == [f"{predict} dataset.path=new.csv", f"{predict} mode=chat"]
    assert told(0.5, 0.6, folder=run, generates=False).commands == [f"{predict} dataset.path=new.csv"]


def test_a_program_reads_a_name_and_a_value_on_each_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run\nrun\tdone"
    (run / "model").mkdir(parents=True)
    told(0.5, 1 / 3, folder=run, remarks=("a \x1b[31mred\x1b[0m [red]line\nand another",)).show()
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert {len(line) for line in lines} == {2}
    found = dict(lines)
    assert found["status"] == "done"
    assert found["final/validation/auc"] == repr(1 / 3)
    assert list(found).index("final/validation/auc") < list(found).index("final/validation/loss"), "what is monitored"
    assert found["model"] == f"{tmp_path}/run\\nrun\\tdone/model"
    assert found["warning"] == r"a \x1b[31mred\x1b[0m [red]line\nand another"
    assert "report" not in found, "there is no page"


def test_a_stopped_run_tells_of_its_latest_evaluation() -> None:
    stopped = told(0.5, 0.25, "stopped")
    assert stopped.sentences == ["Stopped by a signal after 1 of 2 updates: 1 s of training, 3 s in all."]
    assert {name: values["validation/auc"] for name, values in stopped.metrics.items()} == {
        "before": 0.5, "latest": 0.25,
    }  # fmt: skip
