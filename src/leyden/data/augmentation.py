"""What is changed at random in training: hidden tokens, turns left out, a foreign turn in front, the seeds of noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from leyden.data.trees import Tree
from leyden.settings.augmentation_groups import Augmentation
from leyden.settings.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRIES = 16  # picks of a foreign row before those that may be picked are listed; nearly always the first one will do


@dataclass(frozen=True)
class Noise:
    """What the noise on the embeddings of a batch is made from: small, so that workers can send it.

    Args:
        seeds: one per sample of the batch, ghosts too.
        lengths: tokens of each sample's tree.
        paths: tokens of each sample's longest path, the L of NEFTune's bound.
        places: padded batches: [B, W], which of the trees' tokens, one tree after another, stands where; -1 on padding.
            None for a packed batch: one row, in the same order.
    """

    seeds: tuple[int, ...]
    lengths: tuple[int, ...]
    paths: tuple[int, ...]
    places: Tensor | None


class _Purpose(IntEnum):
    """Each kind of draw has a stream of its own, so that switching one on leaves the others as they were."""

    SKIP = 1
    FOREIGN = 2
    MASK = 3
    NOISE = 4


@dataclass(frozen=True)
class Augmentor:
    """Draws what training changes, from (seed, epoch, sample) alone: never from a worker, a rank or an earlier draw.

    The numbers come from the raw streams of numpy's bit generators, which are the same on every machine and in every
    version. A ghost, `~i`, is a copy of sample i and draws what that draws.

    Args:
        settings: how often.
        seed: of the run, not negative.
    """

    settings: Augmentation
    seed: int

    def turns(
        self, rows: tuple[int, ...], pool: Sequence[int], epoch: int, sample: int
    ) -> tuple[int | None, tuple[int, ...]]:
        """Which turns a sample is made of this time.

        Args:
            rows: the sample's own, oldest first; the last one is never left out (rule N38).
            pool: the rows that a foreign turn may come from, each as likely as the others.
            epoch: counted from 0.
            sample: its number.

        Returns:
            A row that is none of the sample's own, to be put in front, or None (rule N39; None also when the pool has
            no other row), and the rows that are kept, in order.
        """
        return self._foreign(rows, pool, epoch, sample), self._kept(rows, epoch, sample)

    def mask(  # noqa: PLR0913
        self, tree: Tree, special: frozenset[int], mask_id: int, epoch: int, sample: int, *, end: int | None = None
    ) -> Tree:
        """Hide tokens from the model in training; what is hidden is no target any more.

        Each token is drawn once, however many paths share it. Positions and attention stay as they are: the model reads
        the mask token and has to do without the word.

        Args:
            tree: of the sample; it is not changed.
            special: token ids that are never hidden.
            mask_id: what is read in place of a hidden token.
            epoch: counted from 0.
            sample: its number.
            end: hide only tokens before this index, such as the source of a source and a target; None: all may be.

        Returns:
            A tree with other `inputs` and fewer targets, or the same one when nothing is hidden.
        """
        probability = self.settings.token_mask_probability
        if not probability:
            return tree
        hidden = _shares(self._draws(_Purpose.MASK, epoch, sample, len(tree.tokens))) < probability
        hidden &= ~np.isin(tree.tokens, np.fromiter(special, dtype=np.int64, count=len(special)))
        if end is not None:
            hidden[end:] = False
        if not hidden.any():
            return tree
        shown = ~hidden[tree.targets]
        return replace(
            tree,
            inputs=np.where(hidden, np.int32(mask_id), tree.inputs),
            targets=tree.targets[shown],
            sources=tree.sources[shown],
            sequences=tree.sequences[shown],
            target_weights=tree.target_weights[shown],
        )

    def noise_seed(self, epoch: int, sample: int) -> int:
        """Seed of the noise on a sample's embeddings: 63 bits, what every generator takes."""
        return int(self._draws(_Purpose.NOISE, epoch, sample, 1)[0] >> np.uint64(1))

    def _kept(self, rows: tuple[int, ...], epoch: int, sample: int) -> tuple[int, ...]:
        probability = self.settings.skip_parent_probability
        if not probability or len(rows) <= 1:
            return rows
        kept = _shares(self._draws(_Purpose.SKIP, epoch, sample, len(rows) - 1)) >= probability
        return (*(row for row, stays in zip(rows, kept.tolist(), strict=False) if stays), rows[-1])

    def _foreign(self, rows: tuple[int, ...], pool: Sequence[int], epoch: int, sample: int) -> int | None:
        probability = self.settings.random_parent_probability
        if not probability or len(pool) == 0:
            return None
        draws = self._draws(_Purpose.FOREIGN, epoch, sample, 2 + TRIES)
        if _shares(draws[:1])[0] >= probability:
            return None
        last, *picks = (int(draw) for draw in draws[1:])  # 64 bits: remainders are as good as even
        own = set(rows)
        for pick in picks:
            row = pool[pick % len(pool)]
            if row not in own:
                return row
        others = [row for row in pool if row not in own]
        return others[last % len(others)] if others else None

    def _draws(self, purpose: _Purpose, epoch: int, sample: int, count: int) -> NDArray[np.uint64]:
        entropy = (self.seed, epoch, sample if sample >= 0 else ~sample, int(purpose))
        draws: NDArray[np.uint64] = np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(count)
        return draws


def mask_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that stands for a hidden one: the tokenizer's mask token, else unknown, else padding.

    The end-of-sequence token is passed over, whatever else it is used as: reading it would end the text.

    Raises:
        ModelError: the tokenizer has none of the three.
    """
    named = tokenizer.special_tokens_map
    for name in ("mask_token", "unk_token", "pad_token"):
        if name in named and named[name] != named.get("eos_token"):
            return cast(int, tokenizer.convert_tokens_to_ids(str(named[name])))
    raise ModelError(
        f"augmentation.token_mask_probability: the tokenizer of {tokenizer.name_or_path or 'the backbone'!r} has no "
        "mask, unknown or padding token other than its end of sequence, so nothing can stand for a hidden token. Name "
        "a token of its vocabulary with tokenizer.tokenizer_kwargs={mask_token: ...}, or set the probability to 0."
    )


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Token ids that are never hidden: those with a role, and all that were added to the vocabulary as special."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | set(tokenizer.all_special_ids))


def _shares(draws: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Whole numbers of 64 bits as float64 in [0, 1), evenly spaced."""
    return (draws >> np.uint64(11)).astype(np.float64) * 2.0**-53
