"""`predict.py`: a model and a table in, a table with one prediction per row out; or one prompt; or a chat."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

import leyden.artifacts.libraries  # noqa: F401  first, and for what it leaves out
from leyden.artifacts.chat import Chat
from leyden.artifacts.chat_input import talk
from leyden.artifacts.folder import is_run
from leyden.artifacts.opened import Opened, open_model, predicting, trained_problem
from leyden.artifacts.predict_prompt import predict_prompt
from leyden.artifacts.predictions import FILES, prediction_table, write_predictions
from leyden.artifacts.predictor import Predictor, evaluate
from leyden.artifacts.run_log import say
from leyden.data.dataset import TreeDataset
from leyden.data.rows import whole_part
from leyden.data.sources import Source, read_source
from leyden.data.texts import rows_with
from leyden.data.tokenization import control_tokens
from leyden.problem.base import Problem
from leyden.settings.errors import ConfigError
from leyden.settings.locations import folder_faults
from leyden.settings.paths import user_path
from leyden.settings.schema import PredictSettings, Settings
from leyden.settings.wording import counted
from leyden.training.problems import writes
from leyden.training.progress import make_display

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

MODEL_FILES = ("config.json", "adapter_config.json")

OPTIONAL = (
    "dataset.system_column", "dataset.answer_column", "dataset.rejected_answer_column",
    "dataset.rejected_prompt_column", "dataset.parent_id_column", "dataset.id_column", "dataset.weight_column",
)  # fmt: skip


def predict(wanted: PredictSettings, settings: Settings, run: Path | None) -> None:
    """Predict what is asked for: a table into a folder, one prompt onto standard output, or a whole chat.

    Args:
        wanted: of the prediction.
        settings: of the run, with what the user changed.
        run: the run folder; None for any other model.

    Raises:
        ConfigError, DataError, ModelError: before weights are loaded.
    """
    if wanted.dataset.path is not None:
        predict_table(wanted, settings, run)
        return
    with predicting(settings) as conversions:
        opened = open_model(settings, trained_problem(settings, run), run, conversions)
        if wanted.prompt is not None:
            predict_prompt(opened, wanted.prompt, wanted.system)
        else:
            talk(Chat(opened, wanted.generation.num_history, wanted.system))


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
    with predicting(settings) as conversions:
        problem = trained_problem(settings, run)
        source = read_source(settings.dataset, settings.dataset.train_tables, "dataset.path", optional=OPTIONAL,
                             answers=False, targets=problem.targets, **problem.classes_read)  # fmt: skip
        say([*source.warnings, *_silent_turns(source, problem)])
        opened = open_model(settings, problem, run, conversions)
        trees = opened.trees(whole_part(source), cache=settings.cache == "on")
        _announce(trees, opened.tokenizer)
        table = _predicted(opened, opened.load(), trees)
        _write(table, output)
    print(f"{counted(len(table), 'predictions')} in {output / 'predictions.csv'} (and .parquet).")
    return output


def _write(table: pd.DataFrame, output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_predictions(table, output)
    except OSError as error:
        raise ConfigError(f"output={str(output)!r} cannot be written: {error}. Name another folder.") from error


def _predicted(opened: Opened, predictor: Predictor, trees: TreeDataset) -> pd.DataFrame:
    display = make_display(opened.settings.trainer.progress)
    problem, samples = opened.problem, range(len(trees))
    answers = writes(opened.settings, problem)
    if answers and (warning := opened.room(predictor, trees)):
        log.warning("%s", warning)
    answerer = opened.answerer(predictor, trees, advance=display.advance)
    evaluation = evaluate(predictor, trees, problem, answerer.batch_size, display)
    texts: dict[int, str] = {}
    if answers:
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


def _output(wanted: PredictSettings, run: Path | None) -> Path:
    stem = Path(str(wanted.dataset.path)).stem.removeprefix("embedded:")
    default = run / "predictions" / stem if run else Path("outputs") / f"predict-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    output = user_path(wanted.output) if wanted.output else default
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
