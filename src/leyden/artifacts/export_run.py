"""The model of a run is written for use elsewhere, and what was written is held against what was trained."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel

import leyden.artifacts.libraries  # noqa: F401  first, and for what it leaves out
from leyden.artifacts.card import model_card
from leyden.artifacts.comparison import Saved, difference_of
from leyden.artifacts.export import SPARE
from leyden.artifacts.fresh_process import outputs_of
from leyden.artifacts.manifest import write_json
from leyden.artifacts.predictor import load_predictor, saved_model_config, trained_checkpoint
from leyden.artifacts.probe import Probe, Prober
from leyden.artifacts.run_log import RunLog
from leyden.artifacts.verification import FOLDER, Conditions, saved_run, verified
from leyden.backbone.checkpoint import Checkpoint, find_checkpoint, loading
from leyden.backbone.load import Chosen, load_model, weight_type
from leyden.backbone.merging import merged_model
from leyden.backbone.quantization import KINDS, without_bitsandbytes
from leyden.backbone.vocabulary import fit_vocabulary
from leyden.problem.base import Problem
from leyden.settings.errors import ConfigError, ExportError
from leyden.settings.read_export import output_of
from leyden.settings.schema import ExportSettings, Settings
from leyden.training.prepare import prepare
from leyden.training.problems import make_problem
from leyden.training.quiet import filtered_warnings, quiet_libraries

log = logging.getLogger(__name__)

OF_ADAPTERS = ("adapter_*", "config.json", "README.md")  # what a whole model has of its own, or not at all


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
    """

    settings: Settings
    path: Path
    problem: Problem
    checkpoint: Checkpoint
    dtype: Chosen
    manifest: dict[str, Any]

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
        ConfigError, ModelError: nothing was written.
        ExportError: what was written is not what was trained; the folder is kept.
    """
    quiet_libraries()
    output = output_of(wanted, run)
    with RunLog(), filtered_warnings(), ExitStack() as stack:
        export = _opened(settings, run, stack)
        if not (run / FOLDER).is_dir():
            _probe_again(export)
        saved, expected = [export.own()], dict[str, Sequence[Tensor]]()
        if output is not None and wanted.merge:
            merged, outputs = _merge(export, output)
            saved.append(merged)
            expected |= {merged.name: outputs} if outputs else {}
        elif output is not None:
            _copy(export.model, output)
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
        ConfigError: it has no manifest, which is written once the model is.
    """
    try:
        manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"run={str(run)!r}: its manifest.json cannot be read ({error}). Name a run that has ended."
        ) from error
    problem = make_problem(settings)
    if problem.targets != "text":
        problem = problem.restored(saved_model_config(run))
    root = None
    if settings.cache == "off":
        root = Path(stack.enter_context(TemporaryDirectory(prefix="leyden-")))
    checkpoint = trained_checkpoint(find_checkpoint(settings.backbone, root=root), settings, run)
    return Export(settings, run, problem, checkpoint, Chosen(**manifest["effective"]["backbone.dtype"]), manifest)


def _merge(export: Export, output: Path) -> tuple[Saved, list[Tensor]]:
    """Write the whole model; return how it is loaded, and what it should say if that is not in the probe.

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
    _check_room(base, kept, output)
    with loading(export.checkpoint, "adapter"), without_bitsandbytes(base):
        model = PeftModel.from_pretrained(base, str(export.model)).eval()
    outputs: list[Tensor] = []
    if export.dtype.effective in KINDS:
        probe = Probe.load(export.path / FOLDER)
        outputs = outputs_of(model, probe.rows)
        away = max(map(difference_of, outputs, probe.outputs), default=0.0)
        log.info(
            "backbone.dtype=%s: the base is loaded again from its checkpoint in %s and merged there, so the merged "
            "model has no rounding of the quantised weights that were trained on. Its outputs differ from the run's by "
            "%.2g for that reason.",
            export.dtype.effective, str(base.dtype).removeprefix("torch."), away,
        )  # fmt: skip
    merged = merged_model(model)
    cast(nn.Module, merged).to(kept)
    _write(merged, export, output)
    dtype = str(kept).removeprefix("torch.")
    return Saved("merged", output, export.own().auto_class, export.own().head, dtype, None), outputs


def _write(model: PreTrainedModel, export: Export, output: Path) -> None:
    """The whole folder, or nothing: it gets its name once it is written."""
    partial = output.with_name(f".{output.name}.partial")
    results = json.loads((export.path / "results.json").read_text(encoding="utf-8"))
    samples = export.manifest["counts"]["train"]["samples"]
    model.config.use_cache = True
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        model.save_pretrained(partial)
        shutil.copytree(export.model, partial, ignore=shutil.ignore_patterns(*OF_ADAPTERS), dirs_exist_ok=True)
        card = model_card(export.settings, export.problem, samples, results, None)
        (partial / "README.md").write_text(card, encoding="utf-8")
        partial.rename(output)
    except OSError as error:
        raise ConfigError(f"output={str(output)!r} cannot be written: {error}. Name another folder.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy(model: Path, output: Path) -> None:
    try:
        shutil.copytree(model, output)
    except OSError as error:
        raise ConfigError(f"output={str(output)!r} cannot be written: {error}. Name another folder.") from error


def _check_room(model: PreTrainedModel, dtype: torch.dtype, output: Path) -> None:
    """Refuse a folder whose disk has no room for the model.

    Raises:
        ConfigError: with the space that is needed and the space that is there.
    """
    place = next(path for path in output.absolute().parents if path.exists())
    total, _, free = shutil.disk_usage(place)
    needed = SPARE + dtype.itemsize * sum(weight.numel() for weight in model.parameters())
    if total and free < needed:
        raise ConfigError(
            f"output={str(output)!r}: the merged model needs about {needed / 2**20:.0f} MiB on disk, and "
            f"{free / 2**20:.0f} MiB are free there. Free some space, or name another folder."
        )


def _probe_again(export: Export) -> None:
    """Make the probe that the run has not kept, of its model as it was saved.

    Raises:
        ConfigError, DataError: the tables of the run are not there any more.
    """
    log.warning(
        "%s was trained with checkpoint.verify=false: what is written is compared with its model as it was saved.",
        export.path,
    )
    settings = export.settings
    material = prepare(settings)
    found = load_predictor(material.checkpoint, settings, material.tokenizer, material.problem, export.path)
    prober = Prober(found.model, found.collator, material.problem, material.tokenizer, material.template.jinja)
    prober.probe(material.train.trees, material.validation.trees).save(export.path / FOLDER)


def _record(export: Export, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep what was found in the manifest of the run."""
    before = export.manifest.get("export") or {}
    merged = {"merged": dict(found["merged"])} if "merged" in found else {}
    own = {**before, **found["model"], **merged}
    write_json(export.path / "manifest.json", {**export.manifest, "export": own})
