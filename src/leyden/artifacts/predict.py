"""`predict.py`: a model and a table in, a table with one prediction per row out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from leyden.artifacts.folder import RunLog
from leyden.artifacts.predictions import prediction_table, write_predictions
from leyden.backbone.attention import choose_attention
from leyden.backbone.checkpoint import Checkpoint, find_checkpoint, load_tokenizer, loading
from leyden.backbone.generate import generate_texts, pad_id, stop_strings
from leyden.backbone.load import check_architecture, choose_dtype, load_model
from leyden.backbone.reference import Reference
from leyden.backbone.scoring import target_logps
from leyden.data.batches import Batch
from leyden.data.dataset import Collator, TreeDataset
from leyden.data.rows import Part, Source, read_source, whole_part
from leyden.data.sampler import Rank, evaluation_batches
from leyden.data.templates import make_template
from leyden.problem.base import Problem
from leyden.settings.errors import ConfigError
from leyden.settings.schema import PredictSettings, Settings
from leyden.training.evaluation import Collected, Evaluation, finish
from leyden.training.prepare import check_device, make_problem, tokens_of
from leyden.training.progress import Display, make_display
from leyden.training.run import filtered_warnings, quiet_libraries

log = logging.getLogger(__name__)

OPTIONAL = (
    "dataset.system_column", "dataset.answer_column", "dataset.rejected_answer_column",
    "dataset.rejected_prompt_column", "dataset.parent_id_column", "dataset.id_column",
)  # fmt: skip


@dataclass(frozen=True)
class Predictor:
    """A model with everything that is needed to predict with it."""

    model: nn.Module
    reference: Reference
    tokenizer: PreTrainedTokenizerBase
    packed: bool

    def logps(self, batch: Batch) -> Tensor:
        """Log-probability of each target: [N]."""
        return target_logps(self.model, batch)

    def reference_logps(self, batch: Batch) -> Tensor:
        """Log-probability of each target under the base of the adapter: [N]."""
        return self.reference.logps(batch)


def predict_table(wanted: PredictSettings, settings: Settings, run: Path | None) -> Path:
    """Predict every row of a table, in order; return the folder of the predictions.

    Args:
        wanted: of the prediction.
        settings: of the run, with what the user changed.
        run: the run folder; None for any other model.

    Raises:
        ConfigError, DataError, ModelError: before weights are loaded.
    """
    output = _output(wanted, run)
    quiet_libraries()
    with RunLog(), filtered_warnings(), _scratch(settings) as conversions:
        check_device(settings)
        source = read_source(settings.dataset, settings.dataset.train_dataframe, "dataset.path",
                             optional=OPTIONAL, answers=False)  # fmt: skip
        for warning in (*source.warnings, *_silent_turns(source)):
            log.warning("%s", warning)
        checkpoint = find_checkpoint(settings.backbone, root=conversions)
        check_architecture(checkpoint)
        tokenizer = load_tokenizer(checkpoint, settings.tokenizer.tokenizer_kwargs)
        template = make_template(settings.dataset, tokenizer)
        problem = make_problem(settings)
        part = whole_part(source)
        tokens, _ = tokens_of(source, tokenizer, cache=settings.cache == "on")
        trees = TreeDataset(part, tokens, template, problem.build_tree, settings.tokenizer.max_length)
        _announce(trees)
        predictor = _load(checkpoint, settings, tokenizer, problem, run)
        display = make_display(settings.trainer.progress)
        prompts = [trees.conversation(sample, answered=False).history for sample in range(len(trees))]
        batch_size = settings.generation.batch_size_inference or settings.trainer.batch_size
        evaluation = _evaluate(predictor, trees, problem, batch_size, display)
        with display.phase("predict", len(prompts)):
            texts = generate_texts(
                predictor.model, tokenizer, prompts, settings.generation,
                stop_strings(settings.generation, template.stops), batch_size=batch_size, seed=settings.seed,
                advance=display.advance,
            )  # fmt: skip
        shown = {sample: str(tokenizer.decode(ids)) for sample, ids in enumerate(prompts)}
        table = prediction_table(trees, shown, dict(enumerate(texts)), problem, evaluation)
        output.mkdir(parents=True, exist_ok=True)
        write_predictions(table, output)
    print(f"{len(table)} predictions are in {output / 'predictions.csv'} (and .parquet).")
    return output


def _silent_turns(source: Source) -> Iterator[str]:
    """Rows whose history lacks an answer: the model sees the earlier prompt with nothing behind it."""
    empty = set(source.missing.get("answer", range(len(source.table))))
    rows = [row for row, parent in enumerate(source.threads.parents) if parent in empty]
    if rows:
        yield (
            f"{source.table.path}: {len(rows)} rows ({source.table.places(rows)}) reply to a row without an answer; "
            "their history holds its prompt only."
        )


def _announce(trees: TreeDataset) -> None:
    """Say how many rows there are, and how many had to be cut to fit."""
    cut = Counter(
        kind for sample in range(len(trees)) for kind, times in trees.conversation(sample).cut.items() if times
    )
    words = {"turns": "lost turns", "prompt": "have a cut prompt", "answer": "have a cut answer",
             "system": "have a cut system text"}  # fmt: skip
    lost = "".join(f", {cut[kind]:,} {text}" for kind, text in words.items() if cut[kind])
    log.info("%s: %s rows%s.", trees.part.source.table.path, f"{len(trees):,}", lost)


@contextmanager
def _scratch(settings: Settings) -> Iterator[Path | None]:
    """Where a checkpoint is converted: the user's cache, or with `cache=off` a folder that goes away again."""
    if settings.cache == "on":
        yield None
        return
    with TemporaryDirectory(prefix="leyden-") as folder:
        yield Path(folder)


def _output(wanted: PredictSettings, run: Path | None) -> Path:
    stem = Path(str(wanted.dataset.path)).stem.removeprefix("embedded:")
    default = run / "predictions" / stem if run else Path("outputs") / f"predict-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    output = Path(wanted.output).expanduser() if wanted.output else default
    if (output / "predictions.csv").exists() and not wanted.overwrite:
        raise ConfigError(f"output={str(output)!r} holds predictions already. Choose another, or set overwrite=true.")
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output={str(output)!r} is a file. Name a folder.")
    return output


def _load(
    checkpoint: Checkpoint, settings: Settings, tokenizer: PreTrainedTokenizerBase, problem: Problem, run: Path | None
) -> Predictor:
    """The trained model of a run, or a plain model, in evaluation mode."""
    device = torch.device("cuda" if torch.cuda.is_available() and settings.trainer.accelerator != "cpu" else "cpu")
    dtype = getattr(torch, choose_dtype(settings.backbone.dtype, device, settings.trainer.precision).effective)
    start = None
    trained = checkpoint
    if run is not None and settings.lora is None:
        trained = Checkpoint(str(run / "model"), None, settings.backbone.trust_remote_code, None, None)
        if problem.uses_reference:
            start = load_model(checkpoint, settings.backbone, dtype)
    base = load_model(trained, settings.backbone, dtype)
    model: nn.Module = base
    if run is not None and settings.lora is not None:
        with loading(checkpoint, "adapter"):
            model = PeftModel.from_pretrained(base, str(run / "model"))
    model = model.to(device).eval()
    attention = choose_attention(model, settings.backbone.attention_implementation)
    log.info("%s", attention.reason)
    reference = Reference(model)
    if start is not None:
        cast(nn.Module, start).to(device)
        choose_attention(start, attention.engine if attention.engine != "padded" else attention.implementation)
        reference.prepare(start)
    elif problem.uses_reference:
        reference.prepare()
    return Predictor(model, reference, tokenizer, attention.engine != "padded")


@torch.no_grad()
def _evaluate(
    predictor: Predictor, trees: TreeDataset, problem: Problem, batch_size: int, display: Display
) -> Evaluation | None:
    """Losses of the rows that have their answers; None when the table has none."""
    samples = _answered(trees.part, needs_rejected=problem.uses_reference or "rejected" in trees.part.source.texts)
    if not samples:
        return None
    lengths = [len(trees[sample][1].tokens) for sample in samples]
    places = evaluation_batches(lengths, batch_size, Rank())
    loader = DataLoader(
        trees,
        batch_sampler=[[samples[place] for place in batch] for batch in places],
        collate_fn=Collator(predictor.packed, pad_id(predictor.tokenizer)),
    )
    device = next(predictor.model.parameters()).device
    collected = Collected()
    with display.phase("evaluate", len(places)):
        for batch in loader:
            collected.add(batch, problem.compute(predictor, batch.to(device)))
            display.advance(1)
    return finish(collected, problem, ()) if collected.samples else None


def _answered(part: Part, *, needs_rejected: bool) -> Sequence[int]:
    missing: set[int] = set()
    for role in ("answer", "rejected") if needs_rejected else ("answer",):
        if role not in part.source.texts:
            return []
        missing |= set(part.source.missing[role])
    return [sample for sample, rows in enumerate(part.samples) if not missing & set(rows)]
