"""The model of a run is written for use elsewhere, held against what was trained, and sent where that is asked for."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

import leyden.artifacts.libraries  # noqa: F401  first, and for what it leaves out
from leyden.artifacts.export_folder import write_copy
from leyden.artifacts.export_gguf import FILE, convert
from leyden.artifacts.export_merge import merge
from leyden.artifacts.export_source import Export, opened, probe_of
from leyden.artifacts.folder import DONE, FAILED
from leyden.artifacts.manifest import write_json
from leyden.artifacts.probe import Answers
from leyden.artifacts.run_log import RunLog
from leyden.artifacts.upload import send
from leyden.artifacts.verification import FOLDER, Conditions, verified
from leyden.artifacts.whole import write_whole
from leyden.settings.errors import ExportError
from leyden.settings.read_export import hub_target, output_of
from leyden.settings.schema import ExportSettings, Settings
from leyden.training.quiet import filtered_warnings, quiet_libraries

Records = dict[str, dict[str, Any]]


def export_run(wanted: ExportSettings, settings: Settings, run: Path) -> Path:
    """Write what is asked for, verify it and the run's own model folder, and send it; return the folder.

    Args:
        wanted: of the export.
        settings: of the run.
        run: its folder.

    Raises:
        ConfigError, DataError, ModelError: nothing was written.
        ExportError: what was written is not what was trained, or could not be checked; the folder is kept, and was not
            sent.
        UploadError: it could not be sent; the folder is kept.
    """
    quiet_libraries()
    output = output_of(wanted, run)
    with RunLog(), filtered_warnings(), ExitStack() as stack:
        export = opened(settings, run, stack)
        found = _written(export, wanted, output)
        folder = output or export.model
        _record(export, found)
        if faults := list(dict.fromkeys(fault for one in found.values() for fault in one["faults"])):
            raise ExportError(faults)
        _write_cards(export, folder, found)
    print(f"{folder} is what was trained.")
    if wanted.to is not None:
        sent = send(folder, str(hub_target(wanted.to)), public=wanted.public, overwrite=wanted.overwrite)
        print(f"It is at {sent.address}, {'for everyone' if wanted.public else 'private'}, commit {sent.commit}.")
    return folder


def _written(export: Export, wanted: ExportSettings, output: Path | None) -> Records:
    """Write what is asked for, and say what a fresh process finds of it, by the name of its part.

    A GGUF file is made of a whole model, which goes then; it stays where it is not what was trained.
    """
    probe, conditions = probe_of(export), _conditions(export)
    saved, expected = [export.own()], dict[str, Answers]()
    gguf = output if wanted.format == "gguf" else None
    whole = output if gguf is None else gguf.with_name(f"{gguf.name}-weights")
    if whole is not None and export.settings.lora is not None and (wanted.merge or gguf is not None):
        merged, answers = merge(export, probe, whole)
        saved.append(merged)
        expected[merged.name] = answers
    elif output is not None and gguf is None:
        write_copy(export.model, output)
    found = verified(saved, export.path / FOLDER, conditions, expected)
    if gguf is None or any(one["faults"] for one in found.values()):
        return found
    try:
        file = convert(saved[-1], gguf, wanted.gguf_type)
    finally:
        if expected:  # merged for this, and not a folder of the user's
            shutil.rmtree(str(whole), ignore_errors=True)
    answers = expected.get(saved[-1].name, probe.answers)
    return {"model": found["model"], **verified([file], export.path / FOLDER, conditions, {file.name: answers})}


def _conditions(export: Export) -> Conditions:
    """How the fresh process is to load and compute."""
    chosen = export.manifest["effective"]["backbone.attention_implementation"]
    attention = chosen["implementation"] if chosen["effective"] == "padded" else None
    device = "cuda" if torch.cuda.is_available() and export.settings.trainer.accelerator != "cpu" else "cpu"
    return Conditions(export.settings.backbone.trust_remote_code, attention, device)


def _write_cards(export: Export, folder: Path, found: Records) -> None:
    """The cards of the run's own model and of what was made of it, which tell what was found."""
    base = None if export.settings.lora is None else str(export.manifest["backbone"]["location"])
    card = export.card(base, found["model"])
    write_whole(export.model / "README.md", card)
    if "gguf" in found:
        card = export.card(None, found["gguf"], FILE)
    elif "merged" in found:
        card = export.card(None, found["merged"])
    write_whole(folder / "README.md", card)


def _record(export: Export, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep what was found in the manifest of the run, and of an earlier export what it found of what it made.

    A check that was made decides anew whether the run has failed for its model.
    """
    manifest, model = export.manifest, found["model"]
    earlier = manifest.get("export") or {}
    made = {name: dict(one) for name in ("merged", "gguf") if (one := found.get(name) or earlier.get(name))}
    changed: dict[str, Any] = {"export": {**model, **made}}
    if model["checked"] and manifest["status"] in (DONE, FAILED):
        faults = {**(manifest.get("faults") or {}), "export": model["faults"]}
        changed |= {"faults": faults, "status": FAILED if any(faults.values()) else DONE}
    write_json(export.path / "manifest.json", {**manifest, **changed})
