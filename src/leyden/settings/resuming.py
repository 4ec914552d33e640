"""The settings of a run that goes on: those it was started with, and the few that may change on the way."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from leyden.settings.config_files import flat
from leyden.settings.errors import ConfigError
from leyden.settings.paths import user_path
from leyden.settings.read import saved_config
from leyden.settings.run_lock import LOCK
from leyden.settings.wording import show

AUTO = "auto"
CONFIG = "config.yaml"
LOOKS = frozenset({CONFIG, "data.json", "dry_run.json", "report.html", "train.log", LOCK, "base"})  # what a look leaves
TYPED = "# Typed: "  # in the config of a run: its command line
RUN = "# Run: "  # there too: its identity, and the hash of what follows
FREE = frozenset({  # what does not touch the numbers of an update, or says how long and on what the training goes on
    "trainer.epochs", "trainer.devices", "trainer.num_nodes", "trainer.accelerator", "trainer.evaluation_epochs",
    "trainer.early_stopping_patience", "trainer.early_stopping_min_delta", "trainer.max_minutes",
    "trainer.max_bad_steps", "trainer.number_of_workers", "trainer.progress", "checkpoint.every_minutes",
    "checkpoint.max_gib", "checkpoint.verify", "log_step_size", "log_all_ranks", "cache", "debug",
})  # fmt: skip
FREE_GROUPS = ("logger",)
COPIES = ("auto", "ddp")  # strategies between which a run may change: each process has all weights
PLACE = ("experiment_name", "output_directory", "resume")  # say which run it is


def continued(config: DictConfig, overrides: Iterable[str], job: Path | None = None) -> DictConfig:
    """The settings with which a run goes on: its own, and what was typed beside `resume` where that may change.

    Args:
        config: composed from the command line; returned as it is unless it asks for a resume.
        overrides: of that command line, as text.
        job: the folder of this job inside a sweep, which is the run where `resume` is auto.

    Raises:
        ConfigError: there is no such run, or something was typed that may not change; all faults at once.
    """
    if config.get("resume") is None:
        return config
    typed = by_key(overrides)
    folder = job.absolute() if job is not None and config.resume == AUTO else _folder_of(config, typed)
    if config.resume == AUTO and (not (folder / CONFIG).exists() or is_look(folder)):
        return config
    saved = _saved(folder)
    before = typed_in(folder / CONFIG)
    wanted: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)  # type: ignore[assignment]
    faults: list[str] = []
    old, new = dict(flat(saved)), dict(flat(wanted))
    changes: dict[str, list[Any]] = {}
    for key, text in typed.items():
        if key in PLACE or (before.get(key) == text and not _is_free(key)):
            continue
        covered = [name for name in {*old, *new} if name == key or name.startswith(f"{key.replace('/', '.')}.")]
        if key not in covered:  # a choice of a group; what was typed beside it stays, unless it is typed again
            covered = [name for name in covered if name not in before or name in typed]
        differing = [name for name in sorted(covered) if old.get(name) != new.get(name)]
        if key == "experiment":
            faults.append(f"{text}: a recipe sets many keys, and the run has its own. Leave it out.")
        bound = [name for name in differing if not _may_change(name, old.get(name), new.get(name))]
        faults += [_refusal(folder, name, old.get(name), new.get(name)) for name in bound]
        changes |= {name: [old.get(name), new.get(name)] for name in differing if name not in bound}
    strategy = str(saved.get("trainer", {}).get("strategy"))
    if strategy.startswith("deepspeed"):
        faults.append(
            f"trainer.strategy={strategy}: {folder.name} cannot be gone on with, since what DeepSpeed's engine saves "
            "was never tried. Start a new run from its model, with backbone.pretrained_weights."
        )
    if config.overwrite:
        faults.append("overwrite=true does not go with resume, which keeps what is there. Leave one of them out.")
    if faults:
        raise ConfigError(dict.fromkeys(faults))
    tree = _with(saved, changes, wanted)
    return OmegaConf.create(tree | {"resume": str(folder)})


def going_on_faults(overrides: Iterable[Override]) -> list[str]:
    """What does not go with a sweep that goes on."""
    typed = {one.key_or_group: one for one in overrides}
    resume = typed.get("resume")
    if resume is None:
        return []
    faults = []
    if resume.value() != AUTO:
        faults.append(
            f"{resume.input_line} goes on with one run, not with a sweep. Name the folder of a job without -m, or "
            "write resume=auto and the experiment_name of the sweep."
        )
    if "overwrite" in typed and typed["overwrite"].value() is True:
        faults.append("overwrite=true does not go with resume, which keeps what is there. Leave one of them out.")
    return faults


def _saved(folder: Path) -> dict[str, Any]:
    """The settings of a run that may be gone on with.

    Raises:
        ConfigError: there is none, or its config is not as it was written.
    """
    saved = saved_config(folder / CONFIG)
    if is_look(folder):
        raise ConfigError(
            f"resume={folder}: nothing was trained there yet, it was only looked at. Leave resume out; the same "
            "experiment_name trains in that folder."
        )
    _check_unchanged(folder / CONFIG)
    return saved


def is_look(folder: Path) -> bool:
    """Whether mode=inspect or dry_run=true has written all that a folder holds: a run may take its place."""
    if not (folder / CONFIG).is_file():
        return False
    if not {file.name for file in folder.iterdir() if file.suffix != ".partial"} <= LOOKS:
        return False
    try:
        saved = saved_config(folder / CONFIG)
    except ConfigError:  # whatever it is, no look has written it
        return False
    return saved.get("mode") == "inspect" or saved.get("dry_run") is True


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What differs between two trees of settings: key to old and new value; where the run is does not count."""
    before, after = dict(flat(old)), dict(flat(new))
    return {
        key: [before.get(key), after.get(key)]
        for key in {**before, **after}
        if before.get(key) != after.get(key) and key not in PLACE
    }


def typed_in(path: Path) -> dict[str, str]:
    """The overrides of the command line that a saved config came from, by key or group; none if it does not say."""
    line = _comment(path, TYPED)
    return by_key(json.loads(line)) if line else {}


def identity(path: Path) -> str:
    """Of the run whose config this is: the same as long as the run goes on; empty if the config has none."""
    return (_comment(path, RUN) or " ").split(" ")[0] if path.exists() else ""


def signed(text: str, run: str) -> str:
    """The config of a run with a line in front that says which run it is, and what the text hashes to."""
    return f"{RUN}{run} {hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def _check_unchanged(path: Path) -> None:
    """Refuse a config that is not as it was written: what it says now is not what the run was trained with.

    Raises:
        ConfigError: it was edited or damaged.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    at = next((number for number, line in enumerate(lines) if line.startswith(RUN)), None)
    if at is None or signed("".join(lines[at + 1 :]), identity(path)) != "".join(lines[at:]):
        raise ConfigError(
            f"{path} is not as it was written, so the run cannot go on with it. Put the file back; what may change on "
            "the way is typed beside resume."
        )


def _comment(path: Path, start: str) -> str | None:
    """The rest of a comment at the top of a saved config; None if there is no such line."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(start):
            return line.removeprefix(start)
        if not line.startswith("#"):
            break
    return None


def by_key(overrides: Iterable[str]) -> dict[str, str]:
    """Overrides by their key or group, without signs in front: `+optimizer.eps=1` gives `optimizer.eps`."""
    return {re.split(r"[=@]", text.lstrip("+~"), maxsplit=1)[0]: text for text in overrides}


def _folder_of(config: DictConfig, typed: Mapping[str, str]) -> Path:
    """Where the run is that goes on.

    Raises:
        ConfigError: the command line does not say.
    """
    if config.resume != AUTO:
        wrong = [key for key in ("experiment_name", "output_directory") if key in typed]
        if wrong:
            raise ConfigError(f"{wrong[0]} does not go with resume=FOLDER, which names the run. Leave one of them out.")
        return user_path(str(config.resume)).absolute()
    if config.experiment_name is None:
        raise ConfigError("resume=auto looks for the run of an experiment_name. Set one, or name the folder of a run.")
    return (user_path(str(config.output_directory)) / str(config.experiment_name)).absolute()


def _may_change(key: str, old: Any, new: Any) -> bool:
    if key == "trainer.strategy":
        return old in COPIES and new in COPIES
    return _is_free(key)


def _is_free(key: str) -> bool:
    return key in FREE or key.startswith(FREE_GROUPS)


def _refusal(folder: Path, key: str, old: Any, new: Any) -> str:
    free = ", ".join([*sorted(FREE), *FREE_GROUPS])
    return (
        f"{key}={show(new)} cannot change on the way: {folder.name} was started with {show(old)}. Leave it out, or "
        f"start a new run. These may change: {free}."
    )


def _with(saved: dict[str, Any], changes: Mapping[str, list[Any]], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The saved settings with what has changed."""
    tree: dict[str, Any] = json.loads(json.dumps(saved))
    groups = {key.split(".")[0] for key in changes if key.startswith(FREE_GROUPS)}
    for group in groups:
        tree[group] = wanted[group]
    for key, (_, value) in changes.items():
        if key.split(".")[0] not in groups:
            *parents, name = key.split(".")
            place = tree
            for parent in parents:
                place = place[parent]
            place[name] = value
    return tree


def typed_lines(overrides: Iterable[str]) -> str:
    """The comment that `typed_in` reads; empty without overrides."""
    words = [text for text in overrides if not text.startswith("resume=")]
    return f"{TYPED}{json.dumps(words, ensure_ascii=False)}\n" if words else ""
