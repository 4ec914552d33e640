"""A trained model, loaded again to score and answer rows."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftConfig, PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from leyden.backbone.attention import choose_attention
from leyden.backbone.checkpoint import Checkpoint, loading
from leyden.backbone.heads import head_outputs
from leyden.backbone.load import check_positions, choose_dtype, load_model, weight_type
from leyden.backbone.quantization import without_bitsandbytes
from leyden.backbone.reference import Reference
from leyden.backbone.scoring import base_model, target_logps
from leyden.backbone.vocabulary import fit_vocabulary
from leyden.data.batches import Batch
from leyden.data.collator import Collator
from leyden.data.dataset import TreeDataset
from leyden.data.rows import Part
from leyden.data.sampler import Rank, evaluation_batches
from leyden.problem.base import Problem
from leyden.settings.errors import ModelError
from leyden.settings.schema import Settings
from leyden.training.assembly import make_collator
from leyden.training.evaluation import Collected, Evaluation, finish
from leyden.training.progress import Display
from leyden.training.start import BASE, START

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predictor:
    """A model with everything that is needed to predict with it."""

    model: nn.Module
    reference: Reference
    tokenizer: PreTrainedTokenizerBase
    collator: Collator

    def logps(self, batch: Batch) -> Tensor:
        """Log-probability of each target: [N]."""
        return target_logps(self.model, batch)

    def reference_logps(self, batch: Batch) -> Tensor:
        """Log-probability of each target under the base of the adapter: [N]."""
        return self.reference.logps(batch)

    def outputs(self, batch: Batch) -> Tensor:
        """What the head says of each sample: [B, K]."""
        return head_outputs(self.model, batch)


def saved_model_config(run: Path) -> dict[str, Any]:
    """The config that a run has saved with its model; it says what the outputs of a head are.

    Raises:
        ModelError: it is not there, or no JSON.
    """
    path = run / "model" / "config.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}). Name a run that has finished.") from error
    return found


def _type_of_run(run: Path | None) -> str:
    """What `backbone.dtype=auto` was for a run, which may have measured it; `auto` where that is not known."""
    try:
        manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8")) if run is not None else {}
        found = str(manifest["effective"]["backbone.dtype"]["effective"])
    except (OSError, ValueError, LookupError, TypeError):
        return "auto"
    return found if found in ("float32", "bfloat16") else "auto"


def load_predictor(  # noqa: PLR0913
    checkpoint: Checkpoint,
    settings: Settings,
    tokenizer: PreTrainedTokenizerBase,
    problem: Problem,
    run: Path | None,
    *,
    scores: bool = True,
) -> Predictor:
    """The trained model of a run, or a plain model, in evaluation mode; without `scores`, for answers alone."""
    device = torch.device("cuda" if torch.cuda.is_available() and settings.trainer.accelerator != "cpu" else "cpu")
    precision = settings.trainer.precision
    asked = _type_of_run(run) if device.type == "cpu" and settings.backbone.dtype == "auto" else settings.backbone.dtype
    dtype = weight_type(choose_dtype(asked, device, precision), precision)
    stored = settings.backbone.model_copy(update={"pretrained": True, "pretrained_weights": None})
    trained = trained_checkpoint(checkpoint, settings, run)
    base = load_model(trained, stored, dtype, problem.head)
    fit_vocabulary(base, tokenizer)
    model: nn.Module = base
    if run is not None and settings.lora is not None:
        with loading(checkpoint, "adapter"), without_bitsandbytes(base):
            model = PeftModel.from_pretrained(base, str(adapter_folder(run)))
    model = model.to(device).eval()
    attention = choose_attention(model, settings.backbone.attention_implementation)
    log.info("%s", attention.reason)
    reference, paired = Reference(model), scores and problem.uses_reference
    if run is not None and paired:
        kept = run / BASE / START
        if kept.is_file():
            reference.prepare(load_file(kept))
        elif settings.lora is None:
            start = load_model(checkpoint, stored, dtype, problem.head)
            fit_vocabulary(start, tokenizer)
            reference.prepare(dict(start.named_parameters()))
    if paired:
        reference.prepare()
    return Predictor(model, reference, tokenizer, make_collator(settings, tokenizer, model, attention))


def adapter_folder(run: Path) -> Path:
    """The folder of a run's adapter; the library would also read a pickle in its place.

    Raises:
        ModelError: it holds no safetensors.
    """
    folder = run / "model"
    if not (folder / SAFETENSORS_WEIGHTS_NAME).is_file():
        raise ModelError(f"{folder} has no {SAFETENSORS_WEIGHTS_NAME}. Name a run that has finished.")
    return folder


def trained_checkpoint(checkpoint: Checkpoint, settings: Settings, run: Path | None) -> Checkpoint:
    """Where the weights are that a run trained, or that its adapter lies on."""
    if run is None:
        return checkpoint
    place = None
    if settings.lora is None:
        place = run / "model"
    elif (run / BASE / "config.json").is_file():
        place = run / BASE
    elif settings.backbone.pretrained_weights is not None:
        named = Path(str(PeftConfig.from_pretrained(str(run / "model")).base_model_name_or_path))
        place = named if named.is_dir() else None
    if place is None:
        return checkpoint
    return Checkpoint(str(place), None, settings.backbone.trust_remote_code, None, None)


@torch.no_grad()
def evaluate(
    predictor: Predictor, trees: TreeDataset, problem: Problem, batch_size: int, display: Display
) -> Evaluation | None:
    """Scores of the rows that have their answers, or what a head says of every row; None when there is nothing."""
    samples: Sequence[int] = range(len(trees))
    if problem.targets == "text":
        samples = _answered(trees.part, needs_rejected=problem.uses_reference or "rejected" in trees.part.source.texts)
    if not samples:
        return None
    lengths = _lengths(predictor.model, trees, samples)
    collator = predictor.collator.for_evaluation()
    groups = trees.groups(samples) if collator.merges else None
    places = evaluation_batches(lengths, batch_size, Rank(), groups)
    loader = DataLoader(
        trees,
        batch_sampler=[[samples[place] for place in batch] for batch in places],
        collate_fn=collator,
    )
    device = next(predictor.model.parameters()).device
    collected = Collected()
    with display.phase("evaluate", len(places)):
        for batch in loader:
            collected.add(batch, problem.compute(predictor, batch.to(device)))
            display.advance(1)
    return finish(collected, ()) if collected.samples else None


def _lengths(model: nn.Module, trees: TreeDataset, samples: Sequence[int]) -> list[int]:
    """Tokens of each of these samples.

    Raises:
        ConfigError: the longest has more than the model has positions, which are learned.
    """
    base, lengths, longest = base_model(model), [], 0
    for sample in samples:
        tree = trees[sample].tree
        lengths.append(len(tree.tokens))
        own = max(np.diff(tree.starts).tolist(), default=0) if base.config.is_encoder_decoder else tree.longest()
        longest = max(longest, own)
    if warning := check_positions(base, longest, f"a row of {longest} tokens"):
        log.warning("%s", warning)
    return lengths


def _answered(part: Part, *, needs_rejected: bool) -> Sequence[int]:
    missing: set[int] = set()
    for role in ("answer", "rejected") if needs_rejected else ("answer",):
        if role not in part.source.texts:
            return []
        missing |= set(part.source.missing[role])
    return [sample for sample, rows in enumerate(part.samples) if not missing & set(rows)]
