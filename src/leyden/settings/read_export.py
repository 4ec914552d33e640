"""Settings of an export: the run, and what is made of its model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from leyden.settings.composition import compose_config
from leyden.settings.errors import ConfigError
from leyden.settings.locations import folder_faults
from leyden.settings.overrides import misfits, read_overrides
from leyden.settings.read import accept, parse, saved_config, validate
from leyden.settings.read_predict import CONFIG_DIR, RUN_CONFIG, missing_runs, run_folder
from leyden.settings.schema import ExportSettings, Settings
from leyden.settings.wording import fields_of, show

NAME = "export"
MERGED = "merged"


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
    if wanted.merge and settings.lora is None:
        raise ConfigError(
            f"merge=true: {folder} was trained with lora=none, so {folder / 'model'} holds the whole model already. "
            "Leave merge out."
        )
    return wanted, settings, folder


def output_of(wanted: ExportSettings, run: Path) -> Path | None:
    """The folder that is written; None where the model folder of the run itself is what is exported."""
    if wanted.output is not None:
        return Path(wanted.output).expanduser()
    return run / MERGED if wanted.merge else None


def _faults(wanted: ExportSettings) -> Iterator[str]:
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
