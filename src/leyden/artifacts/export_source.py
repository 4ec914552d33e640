"""A run whose model is exported, as its folder holds it, and what its own model said."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoTokenizer

from leyden.artifacts.card import Card
from leyden.artifacts.comparison import Saved
from leyden.artifacts.predictor import adapter_folder, load_predictor, saved_model_config, trained_checkpoint
from leyden.artifacts.probe import Probe, Prober
from leyden.artifacts.verification import FOLDER, saved_run
from leyden.backbone.checkpoint import Checkpoint, find_checkpoint
from leyden.backbone.load import Chosen
from leyden.problem.base import Problem
from leyden.settings.errors import ConfigError
from leyden.settings.run_lock import is_written
from leyden.settings.schema import Settings
from leyden.training.prepare import prepare
from leyden.training.problems import make_problem

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

    def card(self, base: str | None, checked: Mapping[str, Any] | None, gguf: str | None = None) -> str:
        """The model card of what is written.

        Args:
            base: what an adapter lies on; None for a whole model.
            checked: what was found of it.
            gguf: name of its one file; None where the weights are safetensors.
        """
        remote = self.settings.backbone.trust_remote_code
        tokenizer = AutoTokenizer.from_pretrained(str(self.model), trust_remote_code=remote)
        counts, packages = self.manifest["counts"], self.manifest["packages"]
        return Card(
            self.settings, self.problem, tokenizer, counts, self.results, packages, base, checked, gguf
        ).text()  # fmt: skip


def opened(settings: Settings, run: Path, stack: ExitStack) -> Export:
    """What is known of a run that has ended.

    Raises:
        ConfigError: it is being written, or has no manifest, which is written once the model is, or no results.
        ModelError: its adapter is no safetensors.
    """
    if is_written(run):
        raise ConfigError(f"run={str(run)!r}: a process is writing into it. Wait for its end, or stop it.")
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


def probe_of(export: Export) -> Probe:
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
