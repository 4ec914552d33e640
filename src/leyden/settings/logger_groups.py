"""Settings of the trackers: services and local stores that get every number beside `metrics.csv`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from leyden.settings.base import Group, Text


class TensorBoard(Group):
    """Event files in the run folder."""

    flush_seconds: Annotated[int, Field(ge=1)] = Field(description="Numbers reach the file at least so often.")


class Wandb(Group):
    """Weights & Biases; the key comes from WANDB_API_KEY or from `wandb login`."""

    project: Text = Field(description="Project on W&B; it is made when it is not there.")
    entity: Text = Field(description="Account or team on W&B that the project belongs to.")
    mode: Literal["online", "offline"] = Field(description="offline: files only, for `wandb sync` later.")


class Neptune(Group):
    """Neptune; the key comes from NEPTUNE_API_TOKEN."""

    project: Text = Field(description="Project: workspace/name.")
    mode: Literal["online", "offline", "debug"] = Field(
        description="offline: files only, for `neptune sync` later; debug: the client runs and keeps nothing."
    )


class MLflow(Group):
    """MLflow; without a server a sqlite store in the run folder."""

    tracking_uri: Text | None = Field(description="Store or server; null: mlflow/mlflow.db in the run folder.")
    experiment: Text = Field(description="MLflow's experiment, which holds the run.")


class Loggers(Group):
    """The trackers of a run; `metrics.csv` is written with or without them."""

    tensorboard: TensorBoard | None = Field(default=None, description="Event files in the run folder.")
    wandb: Wandb | None = Field(default=None, description="Weights & Biases.")
    neptune: Neptune | None = Field(default=None, description="Neptune.")
    mlflow: MLflow | None = Field(default=None, description="MLflow.")

    @property
    def chosen(self) -> list[str]:
        """Names of the trackers that are on."""
        return [name for name in type(self).model_fields if getattr(self, name) is not None]
