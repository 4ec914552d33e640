"""`predict.py`: a model and a table in, a table with one prediction per row out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pandas as pd

import leyden.artifacts.libraries  # noqa: F401  first, and for what it leaves out
from leyden.artifacts.folder import is_run
from leyden.artifacts.predictions import FILES, prediction_table, write_predictions
from leyden.artifacts.predictor import Predictor, evaluate, load_predictor, saved_model_config
from leyden.artifacts.run_log import RunLog, say
from leyden.backbone.checkpoint import find_checkpoint
from leyden.backbone.generate import stop_strings
from leyden.backbone.load import check_architecture
from leyden.data.dataset import TreeDataset
from leyden.data.rows import whole_part
from leyden.data.sources import Source, read_source
from leyden.data.templates import Template, make_template
from leyden.data.texts import rows_with
from leyden.data.tokenization import control_tokens
from leyden.problem.base import Problem
from leyden.settings.errors import ConfigError
from leyden.settings.locations import folder_faults
from leyden.settings.schema import PredictSettings, Settings
from leyden.settings.wording import counted
from leyden.training.answers import Answerer
from leyden.training.devices import check_device
from leyden.training.prepare import tokens_of
from leyden.training.problems import make_problem, writes
from leyden.training.progress import make_display
from leyden.training.quiet import filtered_warnings, quiet_libraries
from leyden.training.reading import make_limits, make_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

MODEL_FILES = ("config.json", "adapter_config.json")

OPTIONAL = (
    "dataset.system_column", "dataset.answer_column", "dataset.rejected_answer_column",
    "dataset.rejected_prompt_column", "dataset.parent_id_column", "dataset.id_column", "dataset.weight_column",
)  # fmt: skip


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
        problem = make_problem(settings)
        if run is not None and problem.targets != "text":
            problem = problem.restored(saved_model_config(run))
        source = read_source(settings.dataset, settings.dataset.train_tables, "dataset.path", optional=OPTIONAL,
                             answers=False, targets=problem.targets, **problem.classes_read)  # fmt: skip
        say([*source.warnings, *_silent_turns(source, problem)])
        checkpoint = find_checkpoint(settings.backbone, root=conversions)
        check_architecture(checkpoint, problem.head.family)
        tokenizer, _ = make_tokenizer(checkpoint, settings)
        template = make_template(settings.dataset, tokenizer)
        tokens, _ = tokens_of(source, template, tokenizer, cache=settings.cache == "on")
        limits = make_limits(settings, problem, tokenizer, known="answer" in source.texts)
        trees = TreeDataset(whole_part(source), tokens, template, problem.build_tree, limits)
        _announce(trees, tokenizer)
        predictor = load_predictor(checkpoint, settings, tokenizer, problem, run)
        table = _predicted(predictor, trees, problem, settings, template)
        _write(table, output)
    print(f"{counted(len(table), 'predictions')} in {output / 'predictions.csv'} (and .parquet).")
    return output


def _write(table: pd.DataFrame, output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_predictions(table, output)
    except OSError as error:
        raise ConfigError(f"output={str(output)!r} cannot be written: {error}. Name another folder.") from error


def _predicted(
    predictor: Predictor, trees: TreeDataset, problem: Problem, settings: Settings, template: Template
) -> pd.DataFrame:
    display = make_display(settings.trainer.progress)
    generation, samples = settings.generation, range(len(trees))
    batch_size = generation.batch_size_inference or settings.trainer.rows
    evaluation = evaluate(predictor, trees, problem, batch_size, display)
    answerer = Answerer(
        predictor.model, predictor.tokenizer, trees, generation, stop_strings(generation, template.stops),
        batch_size, settings.seed, display.advance,
    )  # fmt: skip
    texts: dict[int, str] = {}
    if writes(settings, problem):
        with display.phase("predict", len(trees)):
            texts = answerer.generate(samples)
    return prediction_table(trees, answerer.shown(samples), texts, problem, evaluation)


def _silent_turns(source: Source, problem: Problem) -> Iterator[str]:
    """Rows whose history lacks an answer: the model sees the earlier prompt with nothing behind it."""
    if problem.targets != "text":
        return
    empty = set(source.missing.get("answer", range(len(source.table))))
    rows = [row for row, parent in enumerate(source.threads.parents) if parent in empty]
    if rows:
        yield (
            f"{source.table.path}: {len(rows)} rows ({source.table.places(rows)}) reply to a row without an answer; "
            "their history holds its prompt only."
        )


def _announce(trees: TreeDataset, tokenizer: PreTrainedTokenizerBase) -> None:
    """Say how many rows there are, how many had to be cut to fit, and how many name a control token."""
    cut = Counter(
        kind
        for sample in range(len(trees))
        for kind, times in trees.conversation(sample, answered=trees.limits.answers).cut.items()
        if times
    )
    words = {"turns": "lost turns", "prompt": "have a cut prompt", "answer": "have a cut answer",
             "system": "have a cut system text"}  # fmt: skip
    lost = "".join(f", {cut[kind]:,} {text}" for kind, text in words.items() if cut[kind])
    table = trees.part.source.table
    log.info("%s: %s%s.", table.path, counted(len(trees.part.rows), "rows"), lost)
    if named := rows_with(trees.part.source.texts, control_tokens(tokenizer), trees.part.rows):
        log.warning(
            "%s: %s the name of a control token (%s), which is read as plain text.",
            table.path, counted(len(named), "rows hold" if len(named) > 1 else "row holds"), table.places(named),
        )  # fmt: skip


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
    if faults := list(folder_faults(str(output), "output")):
        raise ConfigError(faults)
    what = "a run" if is_run(output) else "a model" if any((output / name).exists() for name in MODEL_FILES) else None
    if what is not None:
        raise ConfigError(f"output={str(output)!r} is the folder of {what}. Name another folder, such as a new one.")
    there = [name for name in FILES if (output / name).exists()]
    if there and not wanted.overwrite:
        raise ConfigError(
            f"output={str(output)!r} holds {' and '.join(there)} already. Choose another, or set overwrite=true."
        )
    return output
