"""Trackers with their real clients, offline: what they leave on the disk against `metrics.csv` and `config.yaml`."""

from __future__ import annotations

import ast
import json
import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lightning import Trainer
from tests.effects import tracker_files
from tests.effects.small_runs import Columns, settings_of, trained
from tests.integration.stopped_runs import BY_THE_CLOCK
from tests.integration.test_secrets import SECRETS, leaks

from leyden.artifacts.job import run_job
from leyden.artifacts.metrics_file import MetricsFile
from leyden.artifacts.trackers import NeptuneTracker, TensorBoardTracker, make_trackers
from leyden.artifacts.tracking import Axis, Place, running
from leyden.settings.checks import check
from leyden.settings.config_files import flat
from leyden.settings.errors import ConfigError
from leyden.settings.logger_groups import Loggers, MLflow, Neptune, TensorBoard
from leyden.settings.read import dump
from leyden.settings.schema import Settings
from leyden.training.checkpoints import Checkpoints

TABLE: Columns = {"p": [f"question {n}" for n in range(7)], "a": [f"answer {n}" for n in range(7)]}
WANDB = ["logger.wandb.project=trials", "logger.wandb.entity=team"]
NEPTUNE = ["logger.neptune.project=team/trials"]
ALL = ["logger=[tensorboard,wandb,neptune,mlflow]", *WANDB, *NEPTUNE]
OFFLINE = ["logger.wandb.mode=offline", "logger.neptune.mode=offline"]

PARTS = 1_000_000
SOURCE = Path(__file__).resolve().parents[2] / "src"

pytestmark = [
    pytest.mark.skipif(
        any(find_spec(name) is None for name in ("tensorboard", "wandb", "neptune", "mlflow")),
        reason="the clients of the trackers are not installed",
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the clients, inside their own code
]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One run that every tracker followed, with keys of all kinds in the environment and a home of its own.

    It broke down after the fifth update and was gone on with from the checkpoint of the fourth.
    """
    root, home = tmp_path_factory.mktemp("tracked"), tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**SECRETS, "HOME": str(home)}.items():
            patch.setenv(name, value)
        patch.chdir(home)
        settings = settings_of(root, TABLE, *ALL, *OFFLINE, "trainer.epochs=2", "trainer.evaluation_epochs=0.5")
        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(Checkpoints, "on_train_batch_end", break_down)
            with pytest.raises(RuntimeError, match="the machine broke down"):
                run_job(settings)
        assert tracker_files.metrics_csv(root / "run")[9.0, "step"] == 5
        run_job(settings.model_copy(update={"resume": str(root / "run")}))
    return SimpleNamespace(run=root / "run", home=home, settings=settings)


def break_down(self: Checkpoints, trainer: Trainer, *rest: Any) -> None:
    if trainer.global_step == 5:
        raise RuntimeError("the machine broke down")


def place(folder: Path, *, relative: bool = False, planned: int = 8) -> Place:
    return Place(folder, "named", Axis(relative, planned))


def same(found: Mapping[Any, float], expected: Mapping[Any, float]) -> None:
    assert found.keys() == expected.keys()
    assert len(expected) > 20
    for key, value in expected.items():  # how fast an update was that came twice, the trackers know from the first time
        assert found[key] == value or key[1] in BY_THE_CLOCK, key


def as_texts(settings: Settings) -> dict[str, str]:
    """The settings that are set, by dotted key, as text."""
    pairs = [(key, value) for key, value in flat(dump(settings)) if value is not None]
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in pairs}


def test_l3_tensorboard_has_the_settings_and_every_number(tracked: SimpleNamespace) -> None:
    numbers, config = tracker_files.tensorboard(tracked.run)
    local = tracker_files.metrics_csv(tracked.run)
    same(numbers, {key: float(np.float32(value)) for key, value in local.items()})
    assert config == dump(tracked.settings)


def test_l3_l5_l6_wandb_has_the_settings_and_every_number(tracked: SimpleNamespace) -> None:
    numbers, config, about = tracker_files.wandb(tracked.run)
    same(numbers, tracker_files.metrics_csv(tracked.run))
    assert config == dump(tracked.settings)
    assert about == {"project": "trials", "entity": "team", "name": "run"}


def test_l3_neptune_has_the_settings_and_every_number(tracked: SimpleNamespace) -> None:
    numbers, config, name = tracker_files.neptune(tracked.run)
    same(numbers, tracker_files.metrics_csv(tracked.run))
    assert name == "run"
    leaves = dict(flat(dump(tracked.settings)))
    assert {key for key, value in leaves.items() if value not in ({}, [])} <= config.keys()
    assert all(config[key] in (value, str(value)) for key, value in leaves.items() if key in config)


def test_l3_mlflow_has_the_settings_and_every_number(tracked: SimpleNamespace) -> None:
    numbers, config, about = tracker_files.mlflow(tracked.run)
    same(numbers, tracker_files.metrics_csv(tracked.run))
    expected = as_texts(tracked.settings)
    assert {key: config[key] for key in expected if expected[key]} == {k: v for k, v in expected.items() if v}
    assert about == ("run", "FINISHED")


def test_l1_the_last_absolute_x_is_epochs_times_samples(tracked: SimpleNamespace) -> None:
    local = tracker_files.metrics_csv(tracked.run)
    assert max(samples for samples, _ in local) == 2 * 7
    axis = Axis(relative=False, planned=14)
    assert (axis.at(14), axis.whole_at(14)) == (14.0, 14)


@pytest.mark.parametrize("kind", ["tensorboard", "neptune", "mlflow"])
def test_l1_the_last_relative_x_is_one(kind: str, tmp_path: Path) -> None:
    """Neptune takes shares as they are; the other two have axes of whole numbers and get millionths."""
    settings = Loggers(
        tensorboard=TensorBoard(flush_seconds=1) if kind == "tensorboard" else None,
        neptune=Neptune(project="team/trials", mode="offline") if kind == "neptune" else None,
        mlflow=MLflow(tracking_uri=None, experiment="trials") if kind == "mlflow" else None,
    )
    trackers = make_trackers(settings, place(tmp_path, relative=True))
    with running(trackers, {"seed": 1}):
        for samples in (0, 3, 8):
            trackers[0].log_metrics({"train/loss": 0.1 + samples, "samples": float(samples)}, step=samples // 3)
    numbers = getattr(tracker_files, kind)(tmp_path)[0]
    scale = 1 if kind == "neptune" else PARTS
    assert [x for x, name in numbers if name == "train/loss"] == [0, 0.375 * scale, scale]


def test_b6_without_planned_samples_the_share_is_zero() -> None:
    assert Axis(relative=True, planned=0).at(0) == 0
    assert Axis(relative=True, planned=0).whole_at(0) == 0


def test_b6_a_run_of_no_epochs_is_tracked(tmp_path: Path) -> None:
    run = trained(tmp_path, TABLE, "logger=tensorboard", "log_step_size=relative", "trainer.epochs=0")
    numbers, _ = tracker_files.tensorboard(run)
    assert {x for x, _ in numbers} == {0}
    assert {name for _, name in numbers} >= {"validation/loss", "validation/perplexity"}


def test_g4_trackers_call_the_run_like_its_folder(tracked: SimpleNamespace) -> None:
    names = {tracker_files.wandb(tracked.run)[2]["name"], tracker_files.neptune(tracked.run)[2],
             tracker_files.mlflow(tracked.run)[2][0], tracked.run.name}  # fmt: skip
    assert names == {tracked.settings.experiment_name}


def test_x31_no_file_holds_a_key_and_none_is_written_elsewhere(tracked: SimpleNamespace) -> None:
    files = [path for path in tracked.run.rglob("*") if path.is_file()]
    assert {path.relative_to(tracked.run).parts[0] for path in files} >= {"tensorboard", "wandb", "neptune", "mlflow"}
    for path in files:
        content = path.read_bytes()
        assert not leaks(content), path
    assert not [path for path in tracked.home.rglob("*") if path.is_file()], "a tracker wrote outside the run folder"
    assert {path.name for path in tracked.run.parent.iterdir()} == {"run", "table.jsonl"}


def test_x31_a_setting_that_holds_a_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
    with pytest.raises(ConfigError, match=r"tokenizer\.tokenizer_kwargs\.token holds the value of HF_TOKEN"):
        settings_of(tmp_path, TABLE, f"+tokenizer.tokenizer_kwargs.token={SECRETS['HF_TOKEN']}")


def test_x30_neptunes_debug_mode_keeps_nothing(tmp_path: Path) -> None:
    tracker = NeptuneTracker(place(tmp_path), Neptune(project="team/trials", mode="debug"))
    with running([tracker], {"seed": 1}):
        tracker.log_metrics({"train/loss": 1.0, "samples": 1.0}, step=1)
    assert tracker.failure is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


REFUSED = {
    "l1-wandb": (["logger=wandb", *WANDB, "logger.wandb.mode=offline", "log_step_size=relative"],
                 "log_step_size=relative does not go with logger=wandb"),
    "l1-word": (["log_step_size=epochs"], "log_step_size='epochs' is not allowed"),
    "l1-no-logger": (["log_step_size=relative"], "log_step_size has no effect here"),
    "l2-one-process": (["log_all_ranks=true"], "log_all_ranks has no effect here"),
    "l2-word": (["log_all_ranks=7"], "log_all_ranks=7 is not allowed"),
    "l3-key": (["logger=wandb", *WANDB], "logger.wandb.mode=online needs a key"),
    "l3-neptune-key": (["logger=neptune", *NEPTUNE], "logger.neptune.mode=online needs a key"),
    "l4-project": (["logger=neptune", "logger.neptune.mode=offline"], "logger.neptune.project is not set"),
    "l4-workspace": (["logger=neptune", "logger.neptune.mode=offline", "logger.neptune.project=trials"],
                     "logger.neptune.project='trials' names no project"),
    "l5-project": (["logger=wandb", "logger.wandb.entity=team"], "logger.wandb.project is not set"),
    "l5-empty": (["logger=wandb", "logger.wandb.entity=team", "logger.wandb.project="], "logger.wandb.project=''"),
    "l6-entity": (["logger=wandb", "logger.wandb.project=trials"], "logger.wandb.entity is not set"),
    "x30-mode": (["logger=neptune", *NEPTUNE, "logger.neptune.mode=fast"], "logger.neptune.mode='fast' is not allowed"),
    "mlflow-password": (["logger=mlflow", "logger.mlflow.tracking_uri=http://me:pw@localhost:5000"],
                        "logger.mlflow.tracking_uri holds a password"),
}  # fmt: skip


@pytest.mark.parametrize(("overrides", "fault"), REFUSED.values(), ids=REFUSED)
def test_l1_to_l6_are_refused_before_anything_starts(
    overrides: Sequence[str], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NEPTUNE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(ConfigError) as error:
        settings_of(tmp_path, TABLE, *overrides, explicit=frozenset(text.split("=")[0] for text in overrides))
    assert any(fault in line for line in error.value.faults), error.value.faults


def test_l3_a_login_of_the_machine_is_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 0123\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not check(settings_of(tmp_path, TABLE, "logger=wandb", *WANDB))


def test_l3_a_package_that_is_not_there_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leyden.settings.checks_logging.find_spec", lambda name: None if name == "mlflow" else name)
    with pytest.raises(ConfigError, match=r"logger=mlflow needs the package mlflow.*pip install -e '\.\[mlflow\]'"):
        settings_of(tmp_path, TABLE, "logger=[tensorboard,mlflow]")


@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
def test_b71_a_service_that_refuses_ends_the_run_at_its_start(
    tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow is told of a port where nobody listens, W&B gets a key that is none; no update happens."""
    monkeypatch.setenv("WANDB_API_KEY", "short")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    own = ["logger.mlflow.tracking_uri=http://127.0.0.1:9"] if tracker == "mlflow" else WANDB
    with pytest.raises(ConfigError, match=f"logger={tracker} cannot start: "):
        run_job(settings_of(tmp_path, TABLE, f"logger=[tensorboard,{tracker}]", *own))
    assert not (tmp_path / "run" / "metrics.csv").exists()


def cut(*values: Any, **options: Any) -> None:
    raise ConnectionError("the wire was cut\nlong story")


def test_b71_a_tracker_that_fails_later_is_one_warning_and_nothing_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(tmp_path / "whole", TABLE)
    monkeypatch.setattr(TensorBoardTracker, "_send", cut)
    run = trained(tmp_path, TABLE, "logger=[tensorboard,neptune]", *NEPTUNE, "logger.neptune.mode=offline")
    sentence = "logger=tensorboard failed and was left out from there on (ConnectionError: the wire was cut)"
    assert (run / "train.log").read_text(encoding="utf-8").count(sentence) == 1
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert sentence in manifest["trackers"].pop("tensorboard")
    assert manifest["trackers"] == {"neptune": "complete"}
    local, expected = tracker_files.metrics_csv(run), tracker_files.metrics_csv(whole)
    same(tracker_files.neptune(run)[0], local)
    timeless = [{k: v for k, v in one.items() if k[1] not in BY_THE_CLOCK} for one in (local, expected)]
    same(*timeless)
    assert (run / "predictions.csv").exists()


def test_b71_a_tracker_that_cannot_finish_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(TensorBoardTracker, "_close", cut)
    tracker = TensorBoardTracker(place(tmp_path), TensorBoard(flush_seconds=1))
    with caplog.at_level(logging.WARNING, logger="leyden"), running([tracker], {"seed": 1}):
        tracker.log_metrics({"train/loss": 1.0, "samples": 1.0}, step=1)
    assert tracker.state.startswith("logger=tensorboard failed")
    assert [record.message for record in caplog.records] == [tracker.state]


def test_l3_no_client_is_loaded_unless_chosen() -> None:
    """Some talk to the network as soon as they are imported: each import stands inside the function that starts one."""
    assert make_trackers(Loggers(), place(Path())) == []
    clients, seen = {"wandb", "neptune", "mlflow", "tensorboard"}, set()
    for file in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if found := clients & {name.split(".")[0] for name in names}:
                seen |= found
                assert node not in tree.body, f"{file.name}, line {node.lineno}"
    assert seen == {"wandb", "neptune", "mlflow"}


def test_b76_a_logged_number_appends_and_rereads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    open_file = Path.open

    def watched(self: Path, mode: str = "r", **rest: Any) -> Any:
        modes.append(mode)
        return open_file(self, mode, **rest)

    monkeypatch.setattr(Path, "open", watched)
    file = MetricsFile(tmp_path / "metrics.csv")
    for step in range(3):
        file.log_metrics({"train/loss": 0.5, "samples": 2.0 * step}, step=step)
    assert modes == ["a"] * 3
    assert (tmp_path / "metrics.csv").read_text().count("train/loss") == 3
