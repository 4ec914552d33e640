"""A dialogue with a model: what was said, what the model sees of it, and what it answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

from peft import PeftModel

from leyden.artifacts.opened import Opened
from leyden.artifacts.predictor import Predictor
from leyden.backbone.generate import Follow
from leyden.backbone.reference import adapter_off
from leyden.data.dataset import TreeDataset
from leyden.data.dialogue import dialogue_part, remarks
from leyden.settings.errors import ConfigError, LeydenError


@dataclass(frozen=True)
class Turn:
    """A question and its answer."""

    question: str
    answer: str


class Chat:
    """A dialogue that goes on.

    An answer is a function of what the model sees and of the seed: it is what an evaluation or a prediction would give
    for a row with the same history. `turns` holds everything that was said; the model sees the newest of it.

    Args:
        opened: the model.
        num_history: earlier turns that the model sees at most.
        system: text in front of all turns; None: none.
    """

    def __init__(self, opened: Opened, num_history: int, system: str | None = None) -> None:
        self.opened, self.num_history = opened, num_history
        self.system = system or ""
        self.turns: list[Turn] = []
        self.compares = False

    @cached_property
    def predictor(self) -> Predictor:
        """The weights, loaded once."""
        return self.opened.load(scores=False)

    def asked(self, question: str) -> TreeDataset:
        """The dialogue with one more question, as the model reads it."""
        seen = self.turns[-self.num_history :]
        prompts = [*(turn.question for turn in seen), question]
        part = dialogue_part(self.opened.settings.dataset, prompts, [turn.answer for turn in seen], self.system)
        return self.opened.trees(part, cache=False)

    def remarks(self, trees: TreeDataset) -> Iterator[str]:
        """What the model does not see of the dialogue, and where its answer may suffer."""
        if len(self.turns) == self.num_history + 1:  # said once; from here on it is always so
            yield f"From here on the model sees the last {self.num_history} turns (generation.num_history)."
        yield from remarks(trees, self.opened.tokenizer)
        if warning := self.opened.room(self.predictor, trees):
            yield warning

    def answer(self, trees: TreeDataset, follow: Follow, *, base: bool = False) -> str:
        """What the model says.

        Args:
            trees: from `asked`.
            follow: told what is certain of the answer, token by token; true ends it.
            base: with the adapter switched off.
        """
        model = self.predictor.model
        assert isinstance(model, PeftModel) or not base
        with adapter_off(model) if base and isinstance(model, PeftModel) else nullcontext():
            return self.opened.answerer(self.predictor, trees, follow=follow).generate([0])[0]

    def keep(self, question: str, answer: str) -> None:
        """Make a question and its answer part of the dialogue."""
        self.turns.append(Turn(question, answer))

    def reset(self) -> int:
        """Forget all turns; the system text stays. Return how many they were."""
        count = len(self.turns)
        self.turns.clear()
        return count

    def set_system(self, text: str) -> None:
        """Put a text in front of the dialogue, or with the empty text none.

        Raises:
            ConfigError: the model knows no system texts.
        """
        if text and (why := self._no_system):
            raise ConfigError(why)
        self.system = text

    def compare(self) -> bool:
        """From now on let the base model answer beside the adapter, or not any more; return which.

        Raises:
            ConfigError: there is no adapter to switch off.
        """
        if not self.compares and (why := self._no_base):
            raise ConfigError(why)
        self.compares = not self.compares
        return self.compares

    def voices(self) -> Sequence[tuple[str, bool]]:
        """Who answers a question, and whether it is the base model; the first one's answer is kept."""
        return [("adapter", False), ("base", True)] if self.compares else [("", False)]

    @property
    def _no_base(self) -> str | None:
        if isinstance(self.predictor.model, PeftModel):
            return None
        why = "it is no run" if self.opened.run is None else "the run trained all weights (lora=none)"
        return f"/compare shows the adapter beside its base model, and there is no adapter: {why}."

    @property
    def _no_system(self) -> str | None:
        run, data = self.opened.run, self.opened.settings.dataset
        if run is not None and data.system_column is None:
            return f"{run} was trained without dataset.system_column, so the model knows no system texts."
        try:
            self.opened.template.layout(1, system=True)
        except LeydenError as error:
            return " ".join(error.faults)
        return None
