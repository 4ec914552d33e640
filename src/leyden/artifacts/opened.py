"""A model opened for predictions: its problem, its way of writing texts, and its weights when they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from leyden.artifacts.predictor import Predictor, load_predictor, saved_model_config
from leyden.artifacts.run_log import RunLog
from leyden.backbone.checkpoint import Checkpoint, find_checkpoint
from leyden.backbone.generate import check_room, stop_strings
from leyden.backbone.load import check_architecture
from leyden.data.dataset import TreeDataset
from leyden.data.longest_prompt import longest_prompt
from leyden.data.rows import Part
from leyden.data.templates import Template, make_template
from leyden.problem.base import Problem
from leyden.settings.schema import Settings
from leyden.training.answers import Answerer
from leyden.training.devices import check_device
from leyden.training.prepare import tokens_of
from leyden.training.problems import make_problem
from leyden.training.quiet import filtered_warnings, quiet_libraries
from leyden.training.reading import make_limits, make_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@contextmanager
def predicting(settings: Settings) -> Iterator[Path | None]:
    """What is said goes to standard error, and nothing that the libraries say.

    Yields:
        Where a checkpoint is converted: None for the user's cache, or with `cache=off` a folder that goes away again.
    """
    quiet_libraries()
    with RunLog(), filtered_warnings():
        check_device(settings)
        if settings.cache == "on":
            yield None
            return
        with TemporaryDirectory(prefix="leyden-") as folder:
            yield Path(folder)


def trained_problem(settings: Settings, run: Path | None) -> Problem:
    """The problem of a run, with what it took from the labels it was trained on."""
    problem = make_problem(settings)
    if run is not None and problem.targets != "text":
        return problem.restored(saved_model_config(run))
    return problem


@dataclass(frozen=True)
class Opened:
    """A model as `predict.py` was given it, without its weights.

    Attributes:
        settings: of the run, with what the user changed.
        problem: from `trained_problem`.
        run: the run folder; None for any other model.
        checkpoint: where the weights of its backbone come from.
        tokenizer: of the checkpoint.
        template: writes conversations, as in training.
    """

    settings: Settings
    problem: Problem
    run: Path | None
    checkpoint: Checkpoint
    tokenizer: PreTrainedTokenizerBase
    template: Template

    def trees(self, part: Part, *, cache: bool) -> TreeDataset:
        """The samples of a part as the model reads them."""
        tokens, _ = tokens_of(part.source, self.template, self.tokenizer, cache=cache)
        limits = make_limits(self.settings, self.problem, self.tokenizer, known="answer" in part.source.texts)
        return TreeDataset(part, tokens, self.template, self.problem.build_tree, limits)

    def load(self, *, scores: bool = True) -> Predictor:
        """The weights; without `scores` no copy of those that training began with."""
        return load_predictor(self.checkpoint, self.settings, self.tokenizer, self.problem, self.run, scores=scores)

    def room(self, predictor: Predictor, trees: TreeDataset) -> str | None:
        """A warning where the longest prompt with its answer counts further than the model was made for; else None.

        Raises:
            ConfigError: positions are learned, and there are not enough.
        """
        return check_room(predictor.model, longest_prompt(trees), self.settings.generation)

    def answerer(self, predictor: Predictor, trees: TreeDataset, **told: Any) -> Answerer:
        """Answers the samples of a part as in an evaluation: its settings, its seed, its ways to stop.

        Args:
            predictor: from `load`.
            trees: from `trees`.
            told: `advance` or `follow` of an `Answerer`.
        """
        generation = self.settings.generation
        return Answerer(
            predictor.model, self.tokenizer, trees, generation, stop_strings(generation, self.template.stops),
            generation.batch_size_inference or self.settings.trainer.rows, self.settings.seed, **told,
        )  # fmt: skip


def open_model(settings: Settings, problem: Problem, run: Path | None, conversions: Path | None) -> Opened:
    """Find the checkpoint, and read its tokenizer.

    Raises:
        ConfigError, ModelError: it is not there, or does not fit the problem.
    """
    checkpoint = find_checkpoint(settings.backbone, root=conversions)
    check_architecture(checkpoint, problem.head.family)
    tokenizer, _ = make_tokenizer(checkpoint, settings)
    return Opened(settings, problem, run, checkpoint, tokenizer, make_template(settings.dataset, tokenizer))
