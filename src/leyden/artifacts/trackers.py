"""The trackers there are: TensorBoard, Weights & Biases, Neptune, MLflow. Their packages are imported when they start.

What they count along the x axis, with `log_step_size=absolute` and `relative`:

| tracker | absolute | relative | exactness |
| --- | --- | --- | --- |
| TensorBoard | samples | millionths of the training, since its steps are whole numbers | float32 |
| W&B | `samples`, set as the step metric of all others | refused | float64 |
| Neptune | samples | share of the training | float64; numbers that are not finite are left out by the client |
| MLflow | samples | millionths of the training, since its steps are whole numbers | float64 |
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from leyden.artifacts.tracking import Place, Tracker
from leyden.settings.config_files import flat
from leyden.settings.logger_groups import Loggers, MLflow, Neptune, TensorBoard, Wandb

log = logging.getLogger(__name__)

LONGEST = 6000  # characters of a value among MLflow's parameters


class TensorBoardTracker(Tracker):
    """Event files under `tensorboard` in the run folder; the settings are a text named `config`."""

    kind = "tensorboard"

    def __init__(self, place: Place, settings: TensorBoard) -> None:
        super().__init__(place)
        self._settings = settings

    def _open(self, config: Mapping[str, Any]) -> None:
        from lightning.pytorch.loggers import TensorBoardLogger

        self._logger = TensorBoardLogger(
            self.place.folder, name=self.kind, version="", flush_secs=self._settings.flush_seconds
        )
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=120)
        self._logger.experiment.add_text("config", "\n".join(f"    {line}" for line in text.splitlines()))

    def _send(self, values: Mapping[str, float], samples: int) -> None:
        self._logger.log_metrics(values, step=self.place.axis.whole_at(samples))

    def _close(self, *, done: bool) -> None:  # noqa: ARG002
        self._logger.experiment.close()


class WandbTracker(Tracker):
    """A run of Weights & Biases, its files under `wandb` in the run folder.

    Lightning's logger makes the number of updates the x axis and sets an option that the client warns about, so the
    client is used as it is. It gets the settings and the numbers: no terminal, code, machine or git state.
    """

    kind = "wandb"

    def __init__(self, place: Place, settings: Wandb) -> None:
        super().__init__(place)
        self._settings = settings

    def _open(self, config: Mapping[str, Any]) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # of the client's own faults, over the network
        import wandb

        quiet = wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, save_code=False, x_disable_meta=True,
            x_disable_stats=True, x_disable_machine_info=True,
        )  # fmt: skip
        with variables(WANDB_CACHE_DIR=self.place.folder / self.kind / "cache"):
            self._run = wandb.init(
                project=self._settings.project, entity=self._settings.entity, mode=self._settings.mode,
                name=self.place.name, dir=self.place.folder, config=dict(config), settings=quiet, reinit="create_new",
                id=self.identity, resume="allow" if self.identity and self._settings.mode == "online" else None,
            )  # fmt: skip
        self.identity = self._run.id
        self._run.define_metric("samples")
        self._run.define_metric("*", step_metric="samples")
        if self._settings.mode == "online":
            log.info("logger=wandb: %s", self._run.url)

    def _send(self, values: Mapping[str, float], samples: int) -> None:
        self._run.log({**values, "samples": samples})

    def _close(self, *, done: bool) -> None:
        self._run.finish(exit_code=0 if done else 1)


class NeptuneTracker(Tracker):
    """A run of Neptune, its files under `neptune` in the run folder.

    Lightning has given up its own logger, so the client is used as it is. It gets the settings and the numbers: no
    output of the terminal, code, hardware or git state. The public service has ended; there are servers of one's own.
    """

    kind = "neptune"

    def __init__(self, place: Place, settings: Neptune) -> None:
        super().__init__(place)
        self._settings = settings

    def _open(self, config: Mapping[str, Any]) -> None:
        import neptune
        from neptune.utils import stringify_unsupported

        logging.getLogger("neptune").setLevel(logging.WARNING)
        if self._settings.mode != "debug":
            self.identity = self.identity or uuid4().hex
        mode = "async" if self._settings.mode == "online" else self._settings.mode
        with variables(NEPTUNE_DATA_DIRECTORY=self.place.folder / "neptune"):
            self._run = neptune.init_run(
                project=self._settings.project, mode=mode, name=self.place.name, source_files=[], git_ref=False,
                custom_run_id=self.identity,
                capture_stdout=False, capture_stderr=False, capture_hardware_metrics=False, capture_traceback=False,
            )  # fmt: skip
        self._run["config"] = stringify_unsupported(dict(config))

    def _send(self, values: Mapping[str, float], samples: int) -> None:
        place = self.place.axis.at(samples)
        for name, value in values.items():
            if math.isfinite(value):
                self._run[name].append(value, step=place)

    def _close(self, *, done: bool) -> None:  # noqa: ARG002
        self._run.stop()


class MLflowTracker(Tracker):
    """A run of MLflow; without a server in a sqlite store under `mlflow` in the run folder."""

    kind = "mlflow"

    def __init__(self, place: Place, settings: MLflow) -> None:
        super().__init__(place)
        self._settings = settings

    def _open(self, config: Mapping[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from lightning.pytorch.loggers import MLFlowLogger
        from mlflow.entities import Param

        for name in ("mlflow", "alembic", "lightning.pytorch.loggers.mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)
        uri, artifacts = self._settings.tracking_uri, None
        if uri is None:
            store = self.place.folder.absolute() / self.kind
            store.mkdir(parents=True, exist_ok=True)
            uri, artifacts = f"sqlite:///{store / 'mlflow.db'}", (store / "artifacts").as_uri()
        self._logger = MLFlowLogger(
            self._settings.experiment, self.place.name, tracking_uri=uri, artifact_location=artifacts,
            run_id=self.identity,
        )  # fmt: skip
        goes_on, run = self.identity is not None, self._logger.run_id
        self.identity = run
        if goes_on:  # its parameters cannot change
            return
        entries = [Param(key, _text(value)[:LONGEST]) for key, value in flat(config)]
        self._logger.experiment.log_batch(run, params=[entry for entry in entries if entry.value])

    def _send(self, values: Mapping[str, float], samples: int) -> None:
        self._logger.log_metrics(values, step=self.place.axis.whole_at(samples))

    def _close(self, *, done: bool) -> None:
        self._logger.finalize("success" if done else "failed")


def make_trackers(settings: Loggers, place: Place) -> list[Tracker]:
    """The trackers that the settings choose; nothing starts yet."""
    found: list[Tracker] = []
    if settings.tensorboard is not None:
        found.append(TensorBoardTracker(place, settings.tensorboard))
    if settings.wandb is not None:
        found.append(WandbTracker(place, settings.wandb))
    if settings.neptune is not None:
        found.append(NeptuneTracker(place, settings.neptune))
    if settings.mlflow is not None:
        found.append(MLflowTracker(place, settings.mlflow))
    return found


@contextmanager
def variables(**values: Path) -> Iterator[None]:
    """Set variables of the environment for the block alone: some clients read the places of their files there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: str(value) for name, value in values.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
