"""The model of a run is written for use elsewhere, and what was written is held against what was trained."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoTokenizer

import leyden.artifacts.libraries  # noqa: F401  first, and for what it leaves out
from leyden.artifacts.card import model_card
from leyden.artifacts.comparison import Saved
from leyden.artifacts.differences import difference_of
from leyden.artifacts.export_folder import check_room, write_copy, write_merged
from leyden.artifacts.folder import DONE, FAILED
from leyden.artifacts.fresh_process import outputs_of
from leyden.artifacts.manifest import write_json
from leyden.artifacts.predictor import adapter_folder, load_predictor, saved_model_config, trained_checkpoint
from leyden.artifacts.probe import Answers, Probe, Prober
from leyden.artifacts.run_log import RunLog
from leyden.artifacts.verification import FOLDER, Conditions, saved_run, verified
from leyden.backbone.checkpoint import Checkpoint, find_checkpoint, loading
from leyden.backbone.load import Chosen, load_model, weight_type
from leyden.backbone.merging import merged_model
from leyden.backbone.quantization import KINDS, without_bitsandbytes
from leyden.backbone.reference import adapter_off
from leyden.backbone.vocabulary import fit_vocabulary
from leyden.problem.base import Problem
from leyden.settings.errors import ConfigError, ExportError
from leyden.settings.read_export import output_of
from leyden.settings.schema import ExportSettings, Settings
from leyden.training.prepare import prepare
from leyden.training.problems import make_problem
from leyden.training.quiet import filtered_warnings, quiet_libraries

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Export:
    """A run whose model is exported.

    Attributes:
        settings: of the run.
        path: of the run.
        problem: as it was trained.
        checkpoint: what its adapter lies on, or its own model folder.
        dtype: of its weights, as they were trained.
        manifest: of the run.
        results: of the run.
    """

    settings: Settings
    path: Path
    problem: Problem
    checkpoint: Checkpoint
    dtype: Chosen
    manifest: dict[str, Any]
    results: dict[str, Any]

    @property
    def model(self) -> Path:
        """The model folder that the run has written."""
        return self.path / "model"

    def own(self) -> Saved:
        """That folder, and how it is loaded."""
        base = None if self.settings.lora is None else self.checkpoint.location
        revision = self.checkpoint.revision
        return saved_run(self.model, self.settings, self.problem, self.dtype, base=base, revision=revision)


def export_run(wanted: ExportSettings, settings: Settings, run: Path) -> Path:
    """Write what is asked for, verify it and the run's own model folder; return the folder that was exported.

    Args:
        wanted: of the export.
        settings: of the run.
        run: its folder.

    Raises:
        ConfigError, DataError, ModelError: nothing was written.
        ExportError: what was written is not what was trained, or could not be checked; the folder is kept.
    """
    quiet_libraries()
    output = output_of(wanted, run)
    with RunLog(), filtered_warnings(), ExitStack() as stack:
        export = _opened(settings, run, stack)
        probe = _probe(export)
        saved, expected = [export.own()], dict[str, Answers]()
        if output is not None and wanted.merge:
            merged, answers = _merge(export, probe, output)
            saved.append(merged)
            expected[merged.name] = answers
        elif output is not None:
            write_copy(export.model, output)
        chosen = export.manifest["effective"]["backbone.attention_implementation"]
        attention = chosen["implementation"] if chosen["effective"] == "padded" else None
        device = "cuda" if torch.cuda.is_available() and settings.trainer.accelerator != "cpu" else "cpu"
        conditions = Conditions(settings.backbone.trust_remote_code, attention, device)
        found = verified(saved, run / FOLDER, conditions, expected)
    folder = output or export.model
    _record(export, found)
    if faults := list(dict.fromkeys(fault for one in found.values() for fault in one["faults"])):
        raise ExportError(faults)
    print(f"{folder} is what was trained.")
    return folder


def _opened(settings: Settings, run: Path, stack: ExitStack) -> Export:
    """What is known of a run that has ended.

    Raises:
        ConfigError: it has no manifest, which is written once the model is, or no results.
        ModelError: its adapter is no safetensors.
    """
    manifest, results = (_read(run, name) for name in ("manifest.json", "results.json"))
    if settings.lora is not None:
        adapter_folder(run)
    problem = make_problem(settings)
    if problem.targets != "text":
        problem = problem.restored(saved_model_config(run))
    root = None
    if settings.cache == "off":
        root = Path(stack.enter_context(TemporaryDirectory(prefix="leyden-")))
    checkpoint = trained_checkpoint(find_checkpoint(settings.backbone, root=root), settings, run)
    dtype = Chosen(**manifest["effective"]["backbone.dtype"])
    return Export(settings, run, problem, checkpoint, dtype, manifest, results)


def _read(run: Path, name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((run / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"run={str(run)!r}: its {name} cannot be read ({error}). Name a run that has ended."
        ) from error
    return found


def _probe(export: Export) -> Probe:
    """What the run's model said; where that was not kept, or is damaged, what its saved model says."""
    folder = export.path / FOLDER
    if folder.is_dir():
        try:
            return Probe.load(folder)
        except Exception as error:  # noqa: BLE001  a damaged file may raise anything
            log.warning(
                "%s is damaged (%s: %s): what is written is compared with the run's model as it was saved.",
                folder, type(error).__name__, error,
            )  # fmt: skip
    else:
        log.warning(
            "%s was trained with checkpoint.verify=false: what is written is compared with its model as it was saved.",
            export.path,
        )
    return _probe_again(export)


def _merge(export: Export, probe: Probe, output: Path) -> tuple[Saved, Answers]:
    """Write the whole model; return how it is loaded, and what it should say.

    Weights are added in float32 at least and then stored in the type of the training. A quantised base is loaded again
    in floating point from its checkpoint, never from the quantised weights. The adapter was trained on the quantised
    ones, so there the merged model is held against the adapter on the same float weights.

    Raises:
        ConfigError: there is no room, or the folder cannot be written.
        ModelError: the kind of adapter cannot be merged.
    """
    from peft import PeftModel

    settings, options = export.settings, {"trust_remote_code": export.settings.backbone.trust_remote_code}
    kept = weight_type(export.dtype, settings.trainer.precision)
    plain = settings.backbone.model_copy(
        update={"pretrained": True, "pretrained_weights": None, "dtype": "auto", "gradient_checkpointing": False}
    )
    base = load_model(export.checkpoint, plain, torch.promote_types(kept, torch.float32), export.problem.head)
    tokenizer = AutoTokenizer.from_pretrained(str(export.model), **options)
    fit_vocabulary(base, tokenizer)
    check_room(base, kept, output)
    with loading(export.checkpoint, "adapter"), without_bitsandbytes(base):
        model = PeftModel.from_pretrained(base, str(adapter_folder(export.path))).eval()
    answers = probe.answers
    if export.dtype.effective in KINDS:
        outputs = outputs_of(model, probe.rows)
        with adapter_off(model):
            answers = Answers(outputs, outputs_of(model, probe.rows))
        away = max(map(difference_of, outputs, probe.answers.outputs), default=0.0)
        log.info(
            "backbone.dtype=%s: the base is loaded again from its checkpoint in %s and merged there, so the merged "
            "model has no rounding of the quantised weights that were trained on. Its outputs differ from the run's by "
            "%.2g for that reason.",
            export.dtype.effective, str(base.dtype).removeprefix("torch."), away,
        )  # fmt: skip
    merged = merged_model(model)
    cast(nn.Module, merged).to(kept)
    samples = export.manifest["counts"]["train"]["samples"]
    card = model_card(export.settings, export.problem, samples, export.results, None)
    write_merged(merged, export.model, card, output)
    dtype = str(kept).removeprefix("torch.")
    return Saved("merged", output, export.own().auto_class, export.own().head, dtype, None), answers


def _probe_again(export: Export) -> Probe:
    """Make the probe that the run has not kept, of its model as it was saved.

    Raises:
        ConfigError, DataError: the tables of the run are not there any more.
    """
    settings = export.settings
    material = prepare(settings)
    found = load_predictor(material.checkpoint, settings, material.tokenizer, material.problem, export.path)
    prober = Prober(found.model, found.collator, material.problem, material.tokenizer, material.template.jinja)
    probe = prober.probe(material.train.trees, material.validation.trees)
    probe.save(export.path / FOLDER)
    return probe


def _record(export: Export, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep what was found in the manifest of the run, and of an earlier export what it found of a merged model.

    A check that was made decides anew whether the run has failed for its model.
    """
    manifest, model = export.manifest, found["model"]
    merged = found.get("merged") or (manifest.get("export") or {}).get("merged")
    changed: dict[str, Any] = {"export": {**model, **({"merged": dict(merged)} if merged else {})}}
    if model["checked"] and manifest["status"] in (DONE, FAILED):
        faults = {**(manifest.get("faults") or {}), "export": model["faults"]}
        changed |= {"faults": faults, "status": FAILED if any(faults.values()) else DONE}
    write_json(export.path / "manifest.json", {**manifest, **changed})
