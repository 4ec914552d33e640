"""Settings of a prediction: those of the run, or the defaults for a plain model, with what the user changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from leyden.settings.checks import check_prediction
from leyden.settings.checks_data import HEADS
from leyden.settings.errors import ConfigError
from leyden.settings.locations import TINY, WHEEL, checkpoint_faults, table_faults
from leyden.settings.paths import user_path
from leyden.settings.read import accept, saved_config, validate
from leyden.settings.schema import PredictSettings, Settings
from leyden.settings.wording import show

CONFIG_DIR = Path(__file__).resolve().parents[3] / "conf"
RUN_CONFIG = "config.yaml"
TYPED, SYSTEM = "prompt", "system"  # names of a table and its column for what is typed, where no run has any
OF_TABLES = ("output", "overwrite", "generation.batch_size_inference")
COLUMNS, FOR_ALL = "dataset.", ("dataset.path", "dataset.chat_template")
BROKEN = {chr(code) for code in range(0xDC80, 0xDD00)}  # what Python makes of bytes that are no UTF-8
OUTPUTS = "outputs"  # where runs are unless `output_directory` says otherwise


def read_predict(
    config: DictConfig, explicit: frozenset[str] = frozenset()
) -> tuple[PredictSettings, Settings, Path | None]:
    """The settings of the prediction, those of the run with its changes, and the run folder if there is one.

    Args:
        config: what Hydra composed from `predict.yaml`.
        explicit: keys that the user typed, so that one without effect can be refused.

    Raises:
        ConfigError: all faults of the settings, of what is asked, of the paths and of the saved config at once.
    """
    wanted, refused = validate(config, PredictSettings)
    if wanted is None:
        raise ConfigError(refused.values())
    found, unusable = [*_input_faults(wanted), *_typed_faults(wanted, explicit)], list(_run_faults(wanted))
    if unusable or "run" in refused:
        raise ConfigError([*refused.values(), *unusable, *found])
    folder = run_folder(str(wanted.run))
    try:
        base = saved_config(folder / RUN_CONFIG) if folder else _plain_config(str(wanted.run))
    except ConfigError as error:
        raise ConfigError([*refused.values(), *found, *error.faults]) from error
    settings, unfit = validate(OmegaConf.create(_changed(base, wanted, folder)), Settings)
    if settings is not None:
        found += [*check_prediction(settings, explicit), *_unfit(wanted, settings, folder)]
    wanted = accept(wanted, refused | unfit, found)
    return wanted, accept(settings, {}), folder


def _changed(base: dict[str, Any], wanted: PredictSettings, folder: Path | None) -> dict[str, Any]:
    """The settings of the run with what is asked for otherwise."""
    changes, own = wanted.model_dump(), ("path", "num_history")
    for group in ("dataset", "tokenizer", "generation"):
        base[group] |= {key: value for key, value in changes[group].items() if value is not None and key not in own}
    base |= {"cache": wanted.cache, "debug": wanted.debug}
    if wanted.seed is not None:
        base["seed"] = wanted.seed
    if wanted.dataset.path is not None:
        base["dataset"]["train_dataframe"] = wanted.dataset.path
    elif folder is None:
        base["dataset"] |= {"train_dataframe": TYPED} | ({"system_column": SYSTEM} if wanted.system else {})
    return base


def run_folder(name: str) -> Path | None:
    """The run folder that a path names, itself or by its `model/`; None for any other model."""
    path = user_path(name)
    for folder in (path, path.parent if path.name == "model" else path):
        if (folder / RUN_CONFIG).is_file():
            return folder
    return None


def missing_runs(name: str) -> list[str] | None:
    """The runs beside a path that is not there and looks like that of a run; None for any other name."""
    path = user_path(name)
    if path.exists() or len(path.parts) == 1 or name.startswith((WHEEL, TINY)):
        return None
    folder = path.parent.parent if path.name == "model" else path.parent
    runs = sorted(str(config.parent) for config in folder.glob(f"*/{RUN_CONFIG}"))
    return runs if runs or path.parts[0] == OUTPUTS else None


def _run_faults(wanted: PredictSettings) -> Iterator[str]:
    if wanted.run is None:
        yield "run is not set. Set run=outputs/NAME, or run= a model folder, hub id or .gguf file."
    elif (runs := missing_runs(wanted.run)) is not None:
        yield f"run={wanted.run!r}: there is no such folder. There are: {', '.join(runs) or 'none'}."
    elif run_folder(wanted.run) is None:
        yield from checkpoint_faults(wanted.run, "run")
    elif not (Path(str(run_folder(wanted.run))) / "model").is_dir():
        yield f"run={wanted.run!r} holds no model (was it trained with checkpoint=disable, or stopped?). Name another."


def _input_faults(wanted: PredictSettings) -> Iterator[str]:
    """Whether the model is asked one thing: a table, a prompt, or what is typed in a chat."""
    path, prompt, chat = wanted.dataset.path, wanted.prompt, wanted.mode == "chat"
    if path is None and prompt is None and not chat:
        yield (
            "dataset.path is not set, so there is nothing to predict. Set dataset.path= a table, or prompt= one "
            "prompt, or mode=chat to talk to the model."
        )
    if path is not None:
        yield from table_faults(path, "dataset.path")
    if path is not None and prompt is not None:
        yield f"prompt={show(prompt)} goes without dataset.path={show(path)}: a prompt or a table. Leave one out."
    if chat and path is not None:
        yield f"mode=chat reads no table, and dataset.path={show(path)} is one. Leave one out."
    if chat and prompt is not None:
        yield f"mode=chat asks for every question, and prompt={show(prompt)} is one. Leave one out."
    if wanted.system is not None and path is not None and not chat:
        yield "system has no effect on a table, which has its own in dataset.system_column. Leave it out."


def _typed_faults(wanted: PredictSettings, explicit: frozenset[str]) -> Iterator[str]:
    """What was typed and cannot be read, or would not be looked at."""
    for key, text in (("prompt", wanted.prompt), ("system", wanted.system)):
        if text is not None and any(sign in BROKEN for sign in text):
            yield f"{key} holds bytes that are no UTF-8. Write it as UTF-8."
    chat = wanted.mode == "chat"
    why = "mode=chat" if chat else "a prompt" if wanted.prompt is not None else None
    for key in sorted(explicit) if why is not None else ():
        if key in OF_TABLES or (key.startswith(COLUMNS) and key not in FOR_ALL):
            yield f"{key} has no effect here ({why} reads no table). Leave it out."
    if "generation.num_history" in explicit and not chat:
        yield "generation.num_history has no effect here (it is of mode=chat). Leave it out."


def _unfit(wanted: PredictSettings, settings: Settings, folder: Path | None) -> Iterator[str]:
    """What the model that was trained cannot be asked."""
    kind, data = settings.problem.target.rpartition(".")[2], settings.dataset
    if wanted.mode == "chat" and settings.problem.scores in HEADS:
        yield f"mode=chat: {wanted.run} is a model of {kind}, which writes no text. Set prompt= or dataset.path=."
    elif wanted.mode == "chat" and not data.prompt_columns:
        yield f"mode=chat: {wanted.run} was trained on texts without prompts. Set prompt= the beginning of a text."
    if wanted.system is not None and folder is not None and data.system_column is None:
        yield (
            f"system={show(wanted.system)}: {wanted.run} was trained without dataset.system_column, so the model knows "
            "no system texts. Leave it out."
        )
    if wanted.seed is not None and not (settings.generation.do_sample and settings.problem.scores not in HEADS):
        yield f"seed={wanted.seed} has no effect here (nothing is sampled). Leave it out."


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
