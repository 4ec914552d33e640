"""Settings of a prediction: those of the run, or the defaults for a plain model, with what the user changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from leyden.settings.checks import check_prediction
from leyden.settings.locations import TINY, WHEEL, checkpoint_faults, table_faults
from leyden.settings.read import accept, saved_config, validate
from leyden.settings.schema import PredictSettings, Settings

CONFIG_DIR = Path(__file__).resolve().parents[3] / "conf"
RUN_CONFIG = "config.yaml"
OUTPUTS = "outputs"  # where runs are unless `output_directory` says otherwise


def read_predict(
    config: DictConfig, explicit: frozenset[str] = frozenset()
) -> tuple[PredictSettings, Settings, Path | None]:
    """The settings of the prediction, those of the run with its changes, and the run folder if there is one.

    Args:
        config: what Hydra composed from `predict.yaml`.
        explicit: keys that the user typed, so that one without effect can be refused.

    Raises:
        ConfigError: all faults of the settings, the paths and the saved config at once.
    """
    wanted, refused = validate(config, PredictSettings)
    wanted = accept(wanted, refused, _faults(wanted) if wanted else [])
    folder = run_folder(str(wanted.run))
    base = saved_config(folder / RUN_CONFIG) if folder else _plain_config(str(wanted.run))
    changes = wanted.model_dump()
    for group in ("dataset", "tokenizer", "generation"):
        base[group] |= {key: value for key, value in changes[group].items() if value is not None and key != "path"}
    base |= {"cache": wanted.cache, "debug": wanted.debug}
    base["dataset"]["train_dataframe"] = str(wanted.dataset.path)
    settings, refused = validate(OmegaConf.create(base), Settings)
    return wanted, accept(settings, refused, check_prediction(settings, explicit) if settings else []), folder


def run_folder(name: str) -> Path | None:
    """The run folder that a path names, itself or by its `model/`; None for any other model."""
    path = Path(name).expanduser()
    for folder in (path, path.parent if path.name == "model" else path):
        if (folder / RUN_CONFIG).is_file():
            return folder
    return None


def missing_runs(name: str) -> list[str] | None:
    """The runs beside a path that is not there and looks like that of a run; None for any other name."""
    path = Path(name).expanduser()
    if path.exists() or len(path.parts) == 1 or name.startswith((WHEEL, TINY)):
        return None
    folder = path.parent.parent if path.name == "model" else path.parent
    runs = sorted(str(config.parent) for config in folder.glob(f"*/{RUN_CONFIG}"))
    return runs if runs or path.parts[0] == OUTPUTS else None


def _faults(wanted: PredictSettings) -> Iterator[str]:
    if wanted.run is None:
        yield "run is not set. Set run=outputs/NAME, or run= a model folder, hub id or .gguf file."
    elif (runs := missing_runs(wanted.run)) is not None:
        yield f"run={wanted.run!r}: there is no such folder. There are: {', '.join(runs) or 'none'}."
    elif run_folder(wanted.run) is None:
        yield from checkpoint_faults(wanted.run, "run")
    elif not (Path(str(run_folder(wanted.run))) / "model").is_dir():
        yield f"run={wanted.run!r} holds no model (was it trained with checkpoint=disable, or stopped?). Name another."
    if wanted.dataset.path is None:
        yield "dataset.path is not set. Set dataset.path= the table to predict."
    else:
        yield from table_faults(wanted.dataset.path, "dataset.path")


def _plain_config(model: str) -> dict[str, Any]:
    """Defaults for a model without a run: your own columns, and its own chat template unless you say otherwise."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose(
            "train",
            ["dataset=table", "lora=none", "dataset.prompt_column=prompt", "dataset.answer_column=answer",
             "dataset.chat_template=true"],
        )  # fmt: skip
    tree = OmegaConf.to_container(config, resolve=True)
    assert isinstance(tree, dict)
    tree["backbone"]["name"] = model
    return {str(key): value for key, value in tree.items()}
