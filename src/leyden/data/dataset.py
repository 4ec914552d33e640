"""A part as trees: sample number in, token tree out; and the count of everything that did not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from torch.utils.data import Dataset

from leyden.data.documents import cut_documents
from leyden.data.fit import Fit, Gauge, Stops
from leyden.data.grouping import Groups, conversations
from leyden.data.integers import Ragged
from leyden.data.long_work import with_progress
from leyden.data.rows import Part
from leyden.data.templates import Template
from leyden.data.tokenization import TokenColumn
from leyden.data.trees import Tree
from leyden.data.truncation import Conversation, Turn, TurnTexts, fit_conversation
from leyden.settings.errors import DataError

BuildTree = Callable[[Conversation], Tree]


class Sample(NamedTuple):
    """What a batch is made of.

    Args:
        number: of the sample; `~i` for a ghost of sample i.
        tree: its tokens.
        seed: of the noise on its embeddings; None for no noise.
    """

    number: int
    tree: Tree
    seed: int | None = None


@dataclass(frozen=True)
class Limits:
    """How much of a sample the model reads.

    Attributes:
        max_length: tokens of the longest path; of the source alone when there is a `target_length`.
        answers: read the answers too; false: the prompt side alone, for a head.
        target_length: tokens of the target, limited apart from the source; None: both share `max_length`.
        start_id: token that stands in for a sample without any.
        whole_documents: cut answers without a prompt into pieces of `max_length` instead of dropping what is too long.
    """

    max_length: int
    answers: bool = True
    target_length: int | None = None
    start_id: int = 0
    whole_documents: bool = False


class TreeDataset(Dataset[Sample]):
    """The samples of a part as token trees, put together when asked for.

    Args:
        part: the rows and samples.
        tokens: token ids of every row of the part's table, by role.
        template: writes the conversations.
        build_tree: the problem's: a conversation becomes a tree.
        limits: how much of a sample is read.
    """

    def __init__(
        self,
        part: Part,
        tokens: Mapping[str, TokenColumn],
        template: Template,
        build_tree: BuildTree,
        limits: Limits,
    ) -> None:
        self.pieces: Ragged | None = None
        if limits.whole_documents:
            part, self.pieces = cut_documents(part, tokens["answer"].lengths(), limits.max_length, template)
        self.part, self.tokens, self.template = part, tokens, template
        self.build_tree, self.limits = build_tree, limits

    def __len__(self) -> int:
        """Samples."""
        return len(self.part)

    def __getitem__(self, sample: int) -> Sample:
        """The sample's number and its tree; `~i` gives sample i as a ghost."""
        number = sample if sample >= 0 else ~sample
        return Sample(sample, self.tree(number, self.conversation(number, answered=self.limits.answers)))

    def tree(self, sample: int, conversation: Conversation) -> Tree:
        """The tree of a sample's conversation, with the weight and the labels of its last row."""
        source, row = self.part.source, self.part.samples[sample][-1]
        labels = () if source.labels is None else tuple(source.labels.values[row].tolist())
        return replace(self.build_tree(conversation), weight=self._weight(row), labels=labels)

    def conversation(
        self, sample: int, *, answered: bool = True, rows: Sequence[int] | None = None, before: int | None = None
    ) -> Conversation:
        """A sample written out; without the last answer it is the generation prompt (rule N21).

        Args:
            sample: its number.
            answered: with the last answer.
            rows: of the turns to write, the last one included; None: all.
            before: a row of another sample to put in front, as history that is not trained.
        """
        if self.pieces is not None:
            return self._document(sample, answered=answered)
        whole = self.part.samples[sample]
        rows = whole if rows is None else rows
        apart = self.limits.target_length is not None
        turns = [] if before is None else [replace(self._turn(before, last=False, answered=True), trained=False)]
        turns += [self._turn(row, last=row == whole[-1], answered=answered and not apart) for row in rows]
        system = self.tokens["system"].row(whole[0]) if "system" in self.tokens else None
        conversation = fit_conversation(self.template, system, turns, self.limits.max_length)
        if not conversation.history:
            conversation = self._started(conversation)
        return self._targeted(conversation, whole[-1]) if apart and answered else conversation

    def groups(self, samples: Sequence[int] | None = None) -> Groups | None:
        """Which samples (all by default) are of one conversation and so begin alike; None where none are.

        Members of a group are places in `samples`.
        """
        if self.pieces is not None:  # one text in pieces, which do not begin alike
            return None
        if samples is None:
            return self._groups
        return conversations([self.part.samples[sample] for sample in samples])

    @cached_property
    def _groups(self) -> Groups | None:
        """Of all samples; every loader asks, and a look at each sample takes its time."""
        return conversations(self.part.samples)

    def measure(self, stops: Stops | None = None) -> Fit:
        """Build every tree once and count what was cut, and with `stops` which answers end there."""
        gauge = Gauge(stops)
        for sample in with_progress(range(len(self)), "Counting tokens of samples", len(self)):
            conversation = self.conversation(sample, answered=self.limits.answers)
            gauge.add(self.tree(sample, conversation), conversation.cut, whole=self._is_end(sample))
        return gauge.fit()

    def _turn(self, row: int, *, last: bool, answered: bool) -> TurnTexts:
        prompt, weight = self.tokens["prompt"].row(row), self._weight(row)
        answer = self.tokens["answer"].row(row) if "answer" in self.tokens else []  # in prediction only
        if not last:
            return TurnTexts(prompt, (answer,), weight=weight)
        if not answered:
            return TurnTexts(prompt, (), weight=weight)
        sides = [answer]
        if "rejected" in self.tokens:
            sides.append(self.tokens["rejected"].row(row))
        other = self.tokens["rejected_prompt"].row(row) if "rejected_prompt" in self.tokens else None
        return TurnTexts(prompt, tuple(sides), other, weight)

    def _weight(self, row: int) -> float:
        weights = self.part.source.weights
        return 1.0 if weights is None else float(weights[row])

    def _started(self, conversation: Conversation) -> Conversation:
        """Without any token there would be nothing to read the head from, and nothing to generate from."""
        if conversation.turns[-1].answers:
            return conversation  # an answer without a prompt is read as it is
        last = replace(conversation.turns[-1], prompt=[self.limits.start_id])
        return replace(conversation, turns=(last,), cut=conversation.cut + Counter(start=1))

    def _targeted(self, conversation: Conversation, row: int) -> Conversation:
        """Add the target of an encoder-decoder, which has a limit of its own and ends with its frame if it fits."""
        ids = self.tokens["answer"].row(row) if "answer" in self.tokens else []
        end = self.template.layout(1, system=False).answers[0].after
        limit = self.limits.target_length or 0
        fits = len(ids) + len(end) <= limit
        target = [*ids, *end] if fits else ids[:limit]
        last = replace(conversation.turns[-1], answers=(target,))
        cut = conversation.cut if fits else conversation.cut + Counter(answer=1)
        return replace(conversation, turns=(*conversation.turns[:-1], last), cut=cut)

    def _is_end(self, sample: int) -> bool:
        """Whether a sample holds the end of its text: all do but pieces that another one follows."""
        if self.pieces is None:
            return True
        row, offsets = self.part.samples[sample][-1], self.tokens["answer"].offsets
        return self.pieces[sample][1] >= int(offsets[row + 1] - offsets[row])

    def _document(self, sample: int, *, answered: bool) -> Conversation:
        """One piece of a text that has no prompt; the last piece has the end token."""
        assert self.pieces is not None
        row, (start, end) = self.part.samples[sample][-1], self.pieces[sample]
        ids = self.tokens["answer"].row(row)
        close = self.template.layout(1, system=False).answers[0].after if end >= len(ids) else ()
        turn = Turn([], ([*ids[start:end], *close],) if answered else (), weight=self._weight(row))
        return Conversation([], (turn,), Counter())


def check_fit(dataset: TreeDataset, fit: Fit, name: str) -> None:
    """Refuse data that cannot teach: `max_length` below every prompt, or no sample with all the targets it needs.

    Args:
        dataset: the samples.
        fit: how they fit.
        name: of the part, for the message.

    Raises:
        DataError: with the shortest prompt, and what to set.
    """
    path, limit = dataset.part.source.table.path, dataset.limits.max_length
    frame = dataset.template.layout(1, system=False).prompts[0]
    lengths = dataset.tokens["prompt"].lengths()
    shortest = int(lengths[dataset.part.samples.last()].min()) + len(frame.before) + len(frame.after)
    shared = dataset.limits.answers and dataset.limits.target_length is None and dataset.pieces is None
    if shared and shortest >= limit:
        raise DataError(
            f"{path}: tokenizer.max_length={limit} is smaller than every prompt of the {name} rows; the "
            f"shortest has {shortest} tokens with its markers. Raise tokenizer.max_length, to 512 for example."
        )
    if fit.cut["no target"] == len(dataset):
        what = "both answers with a token" if "rejected" in dataset.tokens else "a token"
        raise DataError(
            f"{path}: none of the {len(dataset)} {name} samples has {what} to predict. Check dataset.answer_column, "
            "dataset.mask_prompt_labels and tokenizer.max_length."
        )
