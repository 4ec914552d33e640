"""A sample token by token as the model sees it: whose text, what is predicted, what is markup, what is shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leyden.data.dataset import TreeDataset
from leyden.data.templates import Frame
from leyden.data.token_texts import TokenTexts
from leyden.data.trees import Tree
from leyden.data.truncation import Conversation, Turn

# what the letters behind a token say
TARGET, MARKUP, CONTROL, SHARED, DIFFERENT, RAW = "t", "m", "c", "s", "d", "b"
SHOWN = 300  # tokens of a text; of a longer one the middle is left out
PAIR = 2
ALIKE = 0.25  # share of the words of a pair that both answers have

Shown = list[list[str]]  # one token: text, role, letters


@dataclass
class _Marks:
    """Where each token of a conversation comes from; token ids are replaced by places in these lists."""

    ids: list[int] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    markup: list[bool] = field(default_factory=list)

    def place(self, ids: Sequence[int], role: str, frame: Frame) -> list[int]:
        """The places of tokens, of which those that the template wrote around the text are known by its frame."""
        before, after = len(frame.before), len(frame.after)
        whole = len(ids) >= before + after
        opened = before if whole and tuple(ids[:before]) == frame.before else 0
        closed = after if whole and after and tuple(ids[-after:]) == frame.after else 0
        first = len(self.ids)
        self.ids += ids
        self.roles += [role] * len(ids)
        self.markup += [place < opened or place >= len(ids) - closed for place in range(len(ids))]
        return list(range(first, len(self.ids)))


def token_view(trees: TreeDataset, sample: int, texts: TokenTexts, others: Sequence[int] = ()) -> dict[str, Any]:
    """One sample in words for a page.

    The problem builds the tree from places instead of ids, so each token keeps where it came from whatever tree that
    is.

    Args:
        trees: of the part.
        sample: its number.
        texts: of the tokenizer.
        others: samples of the same conversation, whose common beginning with this one is looked for.

    Returns:
        `tokens`: each [text, role, letters], the role `system`, `prompt` or `answer`; the letters, any of them: t a
        target, m written by the template, c a control token, s shared: on both paths of a pair, or in the beginning of
        one of `others`, too; d in a word that the other answer of the pair does not have there; b the text is bytes.
        `left_out`: after how many of them tokens are left out, and how many; or None. `pair`: for two answers the same
        of `chosen` and `rejected`, and the share of words that both have, `alike`; `tokens` is then what they share.
        `length`: of the longest path. `cut`: what was cut. `weight`: of the row.
    """
    conversation = trees.conversation(sample, answered=trees.limits.answers)
    marks = _Marks()
    tree = trees.tree(sample, _marked(conversation, trees, marks))
    paths = tree.paths()
    pair: dict[str, Any] | None = None
    if tree.num_sequences == PAIR and len(paths) == PAIR:
        common = np.intersect1d(paths[0], paths[1])
        trunk = _shown(common, tree, marks, texts, shared=len(common))
        pair = {
            name: _shortened(_shown(np.setdiff1d(path, common), tree, marks, texts))
            for name, path in zip(("chosen", "rejected"), paths, strict=True)
        }
        pair["alike"] = _compare(pair["chosen"]["tokens"], pair["rejected"]["tokens"])
    else:
        shared = max((_beginning(trees, sample, other) for other in others), default=0)
        trunk = _shown(np.arange(len(tree.tokens)), tree, marks, texts, shared=shared)
    return {
        **_shortened(trunk),
        "pair": pair,
        "length": tree.longest(),
        "cut": {kind: int(times) for kind, times in conversation.cut.items() if times},
        "weight": float(tree.weight),
    }


def _marked(conversation: Conversation, trees: TreeDataset, marks: _Marks) -> Conversation:
    """The conversation with places for ids."""
    layout = trees.template.layout(len(conversation.turns), system=bool(conversation.system))
    system = marks.place(conversation.system, "system", layout.system)
    turns = []
    for turn, asked, said in zip(conversation.turns, layout.prompts, layout.answers, strict=True):
        prompt = marks.place(turn.prompt, "prompt", asked)
        answers = tuple(marks.place(ids, "answer", said) for ids in turn.answers)
        other = None if turn.rejected_prompt is None else marks.place(turn.rejected_prompt, "prompt", asked)
        turns.append(Turn(prompt, answers, other, turn.weight, turn.trained))
    return replace(conversation, system=system, turns=tuple(turns))


def _beginning(trees: TreeDataset, sample: int, other: int) -> int:
    """How many tokens two samples have in common at their start."""
    one, two = trees[sample].tree.tokens, trees[other].tree.tokens
    size = min(len(one), len(two))
    differing = np.flatnonzero(one[:size] != two[:size])
    return int(differing[0]) if len(differing) else size


def _shown(places: NDArray[Any], tree: Tree, marks: _Marks, texts: TokenTexts, *, shared: int = 0) -> Shown:
    targets, shown = set(tree.targets.tolist()), list[list[str]]()
    for place in places.tolist():
        mark = int(tree.tokens[place])
        token = texts[marks.ids[mark]]
        said = [
            (len(shown) < shared, SHARED),
            (place in targets, TARGET),
            (marks.markup[mark], MARKUP),
            (token.control, CONTROL),
            (token.raw, RAW),
        ]
        shown.append([token.text, marks.roles[mark], "".join(letter for holds, letter in said if holds)])
    return shown


def _compare(chosen: Shown, rejected: Shown) -> float:
    """Mark the words of each answer that the other one does not have there; return the share that both have.

    Where that is below `ALIKE`, nearly all would be marked, and nothing is.
    """
    one, other = _words(chosen), _words(rejected)
    texts = [["".join(token[0] for token in word) for word in words] for words in (one, other)]
    matcher = SequenceMatcher(None, texts[0], texts[1], autojunk=False)
    alike = round(float(matcher.ratio()), 3)
    for kind, start, end, first, last in matcher.get_opcodes() if alike >= ALIKE else ():
        if kind != "equal":
            for token in chain.from_iterable([*one[start:end], *other[first:last]]):
                token[2] += DIFFERENT
    return alike


def _words(tokens: Shown) -> list[Shown]:
    """Tokens up to the next space or control token."""
    words: list[Shown] = []
    for token in tokens:
        if not words or token[0][:1].isspace() or CONTROL in token[2] or CONTROL in words[-1][-1][2]:
            words.append([])
        words[-1].append(token)
    return words


def _shortened(tokens: Shown) -> dict[str, Any]:
    """The tokens without the middle of a long text, and what is left out."""
    if len(tokens) <= SHOWN:
        return {"tokens": tokens, "left_out": None}
    half = SHOWN // 2
    return {"tokens": tokens[:half] + tokens[-half:], "left_out": {"after": half, "tokens": len(tokens) - 2 * half}}


def chosen_samples(lengths: NDArray[Any], number: int) -> dict[int, str]:
    """Samples to show, and why these: the first ones, the longest, the shortest, and others evenly from the whole part.

    Args:
        lengths: tokens of each sample.
        number: how many at most.
    """
    chosen: dict[int, str] = dict.fromkeys(range(min(len(lengths), max(1, number // 4))), "one of the first")
    if len(lengths):
        chosen.setdefault(int(np.argmax(lengths)), "the longest")
        chosen.setdefault(int(np.argmin(lengths)), "the shortest")
    for sample in np.linspace(0, len(lengths) - 1, number).round().astype(int).tolist() if len(lengths) else ():
        if len(chosen) < number:
            chosen.setdefault(sample, "drawn evenly")
    return dict(sorted(chosen.items()))
