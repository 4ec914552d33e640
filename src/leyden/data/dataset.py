"""A part as trees: sample number in, token tree out; and the count of everything that did not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch.utils.data import Dataset

from leyden.data.batches import Batch, pack, pad
from leyden.data.rows import Part
from leyden.data.templates import Template
from leyden.data.tokenization import TokenColumn
from leyden.data.trees import Tree
from leyden.data.truncation import Conversation, TurnTexts, fit_conversation
from leyden.settings.errors import DataError

BuildTree = Callable[[Conversation], Tree]
Sample = tuple[int, Tree]  # its number, `~i` for a ghost of sample i, and its tree


@dataclass(frozen=True)
class Fit:
    """How a part fits into `max_length`.

    Attributes:
        lengths: tokens of each sample's tree, shared beginnings once.
        cut: how many samples lost their beginning turns, part of a prompt, an answer, a system text; and how many have
            no target left (rule N23).
        tokens: of all trees together.
        targets: tokens that are predicted.
    """

    lengths: tuple[int, ...]
    cut: Counter[str]
    tokens: int
    targets: int


class TreeDataset(Dataset[Sample]):
    """The samples of a part as token trees, put together when asked for.

    Args:
        part: the rows and samples.
        tokens: token ids of every row of the part's table, by role.
        template: writes the conversations.
        build_tree: the problem's: a conversation becomes a tree.
        max_length: of the longest path of a sample, in tokens.
    """

    def __init__(
        self,
        part: Part,
        tokens: Mapping[str, TokenColumn],
        template: Template,
        build_tree: BuildTree,
        max_length: int,
    ) -> None:
        self.part, self.tokens, self.template = part, tokens, template
        self.build_tree, self.max_length = build_tree, max_length

    def __len__(self) -> int:
        """Samples."""
        return len(self.part)

    def __getitem__(self, sample: int) -> Sample:
        """The sample's number and its tree; `~i` gives sample i as a ghost."""
        return sample, self.build_tree(self.conversation(sample if sample >= 0 else ~sample))

    def conversation(self, sample: int, *, answered: bool = True) -> Conversation:
        """A sample written out; without the last answer it is the generation prompt (rule N21)."""
        rows = self.part.samples[sample]
        turns = [self._turn(row, last=row == rows[-1], answered=answered) for row in rows]
        system = self.tokens["system"].row(rows[0]) if "system" in self.tokens else None
        return fit_conversation(self.template, system, turns, self.max_length)

    def measure(self) -> Fit:
        """Build every tree once and count what was cut."""
        lengths, cut, targets = [], Counter[str](), 0
        for sample in range(len(self)):
            conversation = self.conversation(sample)
            tree = self.build_tree(conversation)
            lengths.append(len(tree.tokens))
            targets += len(tree.targets)
            cut.update(kind for kind, times in conversation.cut.items() if times)
            cut["no target"] += len(set(tree.sequences.tolist())) < tree.num_sequences
        return Fit(tuple(lengths), +cut, sum(lengths), targets)

    def _turn(self, row: int, *, last: bool, answered: bool) -> TurnTexts:
        prompt = self.tokens["prompt"].row(row)
        answer = self.tokens["answer"].row(row) if "answer" in self.tokens else []  # in prediction only
        if not last:
            return TurnTexts(prompt, (answer,))
        if not answered:
            return TurnTexts(prompt, ())
        sides = [answer]
        if "rejected" in self.tokens:
            sides.append(self.tokens["rejected"].row(row))
        other = self.tokens["rejected_prompt"].row(row) if "rejected_prompt" in self.tokens else None
        return TurnTexts(prompt, tuple(sides), other)


@dataclass(frozen=True)
class Collator:
    """Trees become a batch, packed or padded; small and picklable, for worker processes.

    Attributes:
        packed: one row without padding; false: one row per path.
        pad_id: token id of the padding, which is recognised by the mask, never by the id.
    """

    packed: bool
    pad_id: int

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Join the samples of one step."""
        numbers, trees = [number for number, _ in samples], [tree for _, tree in samples]
        return pack(trees, numbers) if self.packed else pad(trees, numbers, self.pad_id)


def check_fit(dataset: TreeDataset, fit: Fit, name: str) -> None:
    """Refuse data that cannot teach: `max_length` below every prompt, or no sample with all the targets it needs.

    Args:
        dataset: the samples.
        fit: how they fit.
        name: of the part, for the message.

    Raises:
        DataError: with the shortest prompt, and what to set.
    """
    path = dataset.part.source.table.path
    frame = dataset.template.layout(1, system=False).prompts[0]
    lengths = dataset.tokens["prompt"].lengths()
    shortest = int(min(lengths[rows[-1]] for rows in dataset.part.samples)) + len(frame.before) + len(frame.after)
    if shortest >= dataset.max_length:
        raise DataError(
            f"{path}: tokenizer.max_length={dataset.max_length} is smaller than every prompt of the {name} rows; the "
            f"shortest has {shortest} tokens with its markers. Raise tokenizer.max_length, to 512 for example."
        )
    if fit.cut["no target"] == len(dataset):
        what = "both answers with a token" if "rejected" in dataset.tokens else "a token"
        raise DataError(
            f"{path}: none of the {len(dataset)} {name} samples has {what} to predict. Check dataset.answer_column, "
            "dataset.mask_prompt_labels and tokenizer.max_length."
        )
