"""Settings of an export: the run, and what is made of its model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from leyden.settings.composition import compose_config
from leyden.settings.errors import ConfigError
from leyden.settings.gguf_converter import find_converter, missing_converter
from leyden.settings.locations import ADAPTER_CONFIG, HUB, folder_faults
from leyden.settings.overrides import misfits, read_overrides
from leyden.settings.paths import user_path
from leyden.settings.read import accept, parse, saved_config, validate
from leyden.settings.read_predict import CONFIG_DIR, RUN_CONFIG, missing_runs, run_folder
from leyden.settings.schema import ExportSettings, Settings
from leyden.settings.wording import fields_of, show

NAME = "export"
MERGED, MERGED_GGUF = "merged", "merged-gguf"
HUB_TARGET = re.compile(r"hub:(?P<path>(\w[\w.-]{0,95}/)?\w[\w.-]{0,95})", re.ASCII)


def compose_export(texts: Sequence[str]) -> DictConfig:
    """Compose the config of an export from words of the command line.

    Raises:
        ConfigError: all words that cannot be read, or name no setting.
    """
    overrides, faults = read_overrides(texts)
    sweeps = [str(override.input_line) for override in overrides if override.is_sweep_override()]
    faults += [f"{text} lists several values. An export takes one; call it once for each." for text in sweeps]
    overrides = [override for override in overrides if not override.is_sweep_override()]
    wrong = misfits(overrides, [CONFIG_DIR], dict(fields_of(ExportSettings)))
    fitting = [str(one.input_line) for one in overrides if str(one.input_line) not in wrong]
    config, unfit = compose_config(NAME, fitting, CONFIG_DIR)
    faults += [*wrong.values(), *unfit]
    if faults or config is None:
        raise ConfigError(faults)
    return config


def read_export(config: DictConfig) -> tuple[ExportSettings, Settings, Path]:
    """The settings of the export, those of the run, and the run folder.

    Raises:
        ConfigError: all faults of the settings and paths at once.
    """
    wanted, refused = validate(config, ExportSettings)
    wanted = accept(wanted, refused, _faults(wanted) if wanted else [])
    folder = run_folder(str(wanted.run))
    assert folder is not None
    settings = parse(OmegaConf.create(saved_config(folder / RUN_CONFIG)), Settings)
    if faults := list(_faults_of_run(wanted, settings, folder)):
        raise ConfigError(faults)
    return wanted, settings, folder


def hub_target(name: str) -> str | None:
    """The repository that `hub:name` or `hub:owner/name` names; None when it is written otherwise, or no legal name."""
    found = HUB_TARGET.fullmatch(name)
    if found is None:
        return None
    parts, path = found["path"].split("/"), found["path"]
    legal = all(part[-1] not in "-." for part in parts) and not any(odd in path for odd in ("--", ".."))
    return path if legal and not path.endswith(".git") else None


def output_of(wanted: ExportSettings, run: Path) -> Path | None:
    """The folder that is written; None where the model folder of the run itself is what is exported."""
    if wanted.output is not None:
        return user_path(wanted.output)
    if wanted.format == "gguf":
        return run / MERGED_GGUF
    return run / MERGED if wanted.merge else None


def _faults_of_run(wanted: ExportSettings, settings: Settings, folder: Path) -> Iterator[str]:
    """What does not go with how the run was trained."""
    if wanted.merge and settings.lora is None:
        yield (
            f"merge=true: {folder} was trained with lora=none, so {folder / 'model'} holds the whole model already. "
            "Leave merge out."
        )
    output = output_of(wanted, folder) if wanted.format == "gguf" and settings.lora is not None else None
    if output is not None and (weights := output.with_name(f"{output.name}-weights")).exists():
        yield f"format=gguf: {weights} is there already, where the merged weights go meanwhile. Move it away."
    if wanted.format == "gguf" and _json(folder / "model" / "config.json").get("problem_type"):
        yield f"format=gguf: {folder} was trained with a head, and a GGUF file holds a model that writes text."
    if wanted.to is None or settings.lora is None or wanted.merge or wanted.format == "gguf":
        return
    base = str(_json(folder / "model" / ADAPTER_CONFIG).get("base_model_name_or_path"))
    if Path(base).is_absolute() or Path(base).exists():
        yield (
            f"to={wanted.to}: the adapter lies on a base that is only on this machine ({base}), so nobody could load "
            "it. Add merge=true to send a whole model."
        )


def _json(path: Path) -> dict[str, Any]:
    """A file of a model folder; empty where it is not there or damaged, which the export finds and tells."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _faults_of_target(wanted: ExportSettings) -> Iterator[str]:
    """What stands against sending; nothing is sent to find out."""
    if wanted.to is None:
        for name in ("public", "overwrite"):
            if getattr(wanted, name):
                yield f"{name}=true has no effect without to. Set to=hub:NAME, or leave it out."
        return
    if hub_target(wanted.to) is None:
        yield (
            f"to={show(wanted.to)} names no repository of the hub. Write it {HUB}NAME or {HUB}OWNER/NAME: letters, "
            "digits, -, _ and ., at most 96 each, with no -- or .. and no - or . at an end."
        )
    from huggingface_hub import get_token, is_offline_mode

    if is_offline_mode():
        yield f"to={show(wanted.to)}: HF_HUB_OFFLINE is set, so nothing is sent. Unset it, or leave to out."
    elif get_token() is None:
        yield f"to={show(wanted.to)}: there is no token of the hub. Log in with `hf auth login`, or set HF_TOKEN."


def _faults(wanted: ExportSettings) -> Iterator[str]:
    yield from _faults_of_target(wanted)
    if wanted.format == "gguf" and find_converter() is None:
        yield missing_converter()
    elif wanted.format != "gguf" and wanted.gguf_type != "auto":
        yield f"gguf_type={wanted.gguf_type} has no effect without format=gguf. Set that, or leave it out."
    if wanted.run is None:
        yield "run is not set. Set run=outputs/NAME."
        return
    folder = run_folder(wanted.run)
    if (runs := missing_runs(wanted.run)) is not None:
        yield f"run={wanted.run!r}: there is no such folder. There are: {', '.join(runs) or 'none'}."
    elif folder is None:
        yield f"run={wanted.run!r} is no run folder: it has no {RUN_CONFIG}. Name one that train.py has written."
    elif not (folder / "model").is_dir():
        yield f"run={wanted.run!r} holds no model (was it trained with checkpoint=disable, or stopped?). Name another."
    if folder is None or (output := output_of(wanted, folder)) is None:
        return
    said = f"output={show(str(output))}"
    if output.exists():
        yield f"{said} is there already. Name a new folder, or remove that one."
    else:
        yield from folder_faults(str(output), "output")
