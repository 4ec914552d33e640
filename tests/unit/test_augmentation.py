"""What training changes at random: how often, what never, and that it depends on seed, epoch and sample alone."""

from __future__ import annotations

import itertools
import math
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase

from leyden.backbone.tiny import tiny_tokenizer
from leyden.data.augmentation import Augmentor, mask_id, special_ids
from leyden.data.trees import Segment, Tree, build_tree
from leyden.settings.augmentation_groups import Augmentation
from leyden.settings.errors import ModelError

OFF: dict[str, float] = {
    "token_mask_probability": 0.0,
    "skip_parent_probability": 0.0,
    "random_parent_probability": 0.0,
    "neftune_noise_alpha": 0.0,
}
SPECIAL = frozenset({260, 261})
MASK = 256
SAMPLES = range(400)
CHAIN = (3, 5, 8, 13, 21)
POOL = tuple(range(40))


def augmentor(seed: int = 42, **changes: float) -> Augmentor:
    return Augmentor(Augmentation(**{**OFF, **changes}), seed)


def binomial(trials: int, probability: float, deviations: float = 5.0) -> tuple[float, float]:
    """Bounds that the number of successes leaves once in a million times or less."""
    spread = deviations * math.sqrt(trials * probability * (1 - probability))
    return trials * probability - spread, trials * probability + spread


def pair() -> Tree:
    """A prompt of 30 tokens that begins and ends with a special one, and two answers that end with one."""
    prompt = [261, *range(28), 260]
    return build_tree(
        [Segment(prompt, False), Segment([*range(100, 119), 260], True, 0, 0), Segment([7] * 9 + [260], True, 0, 1)], 2
    )


def document() -> Tree:
    return build_tree([Segment([261, *range(50), 260], True, weights=np.arange(52).tolist())])


# U1: hidden tokens


@pytest.mark.parametrize("probability", [0.05, 0.4, 0.9])
def test_the_share_of_hidden_tokens_is_the_probability(probability: float) -> None:
    draw = augmentor(token_mask_probability=probability)
    hidden = sum(int((draw.mask(pair(), SPECIAL, MASK, 0, s).inputs == MASK).sum()) for s in SAMPLES)
    eligible = (28 + 19 + 9) * len(SAMPLES)
    low, high = binomial(eligible, probability)
    assert low <= hidden <= high


def test_each_place_of_a_tree_is_hidden_equally_often() -> None:
    draw = augmentor(token_mask_probability=0.5)
    counts = sum((draw.mask(document(), SPECIAL, MASK, 0, s).inputs == MASK).astype(int) for s in SAMPLES)
    low, high = binomial(len(SAMPLES), 0.5)
    assert ((counts[1:-1] >= low) & (counts[1:-1] <= high)).all()


def test_special_tokens_are_never_hidden_and_everything_else_of_the_tree_stays() -> None:
    tree, draw = pair(), augmentor(token_mask_probability=0.9)
    special = np.isin(tree.tokens, list(SPECIAL))
    for sample in SAMPLES:
        seen = draw.mask(tree, SPECIAL, MASK, 0, sample)
        hidden = seen.inputs == MASK
        assert not hidden[special].any()
        assert (seen.inputs[~hidden] == tree.tokens[~hidden]).all()
        assert seen.inputs.dtype == np.int32
        assert seen.tokens is tree.tokens
        assert (seen.starts, seen.parents, seen.num_sequences) == (tree.starts, tree.parents, tree.num_sequences)
        assert (seen.weight, seen.labels) == (tree.weight, tree.labels)
    assert tree.inputs is tree.tokens


def test_without_special_tokens_every_token_may_be_hidden() -> None:
    seen = [augmentor(token_mask_probability=0.5).mask(document(), frozenset(), MASK, 0, s).inputs for s in SAMPLES]
    assert all(any(inputs[place] == MASK for inputs in seen) for place in range(52))


@pytest.mark.parametrize("tree", [pair(), document()], ids=["pair", "document"])
def test_hidden_tokens_are_no_targets_and_all_others_stay_targets(tree: Tree) -> None:
    seen = augmentor(token_mask_probability=0.3).mask(tree, SPECIAL, MASK, 2, 5)
    hidden = set(np.flatnonzero(seen.inputs == MASK).tolist())
    assert hidden

    def scored(some: Tree) -> list[tuple[int, int, int, float]]:
        columns = (some.targets, some.sources, some.sequences, some.target_weights)
        return list(zip(*(column.tolist() for column in columns), strict=True))

    assert scored(seen) == [row for row in scored(tree) if row[0] not in hidden]
    assert any(row[1] in hidden for row in scored(seen)), "a target after a hidden token stays"
    assert len(scored(seen)) < len(scored(tree))


def test_tokens_from_the_end_on_are_left_alone() -> None:
    draw, tree = augmentor(token_mask_probability=0.9), pair()
    everywhere, source = (draw.mask(tree, SPECIAL, MASK, 0, 1, end=end) for end in (None, tree.starts[1]))
    assert (source.inputs[:30] == everywhere.inputs[:30]).all()
    assert (source.inputs[30:] == tree.tokens[30:]).all()
    assert (everywhere.inputs[30:] == MASK).any()
    assert source.targets.tolist() == tree.targets.tolist()


@pytest.mark.parametrize("probability", [0.0, 1e-12])
def test_a_tree_of_which_nothing_is_hidden_is_the_same_tree(probability: float) -> None:
    tree = pair()
    assert augmentor(token_mask_probability=probability).mask(tree, SPECIAL, MASK, 0, 0) is tree


def test_an_empty_tree_stays_empty() -> None:
    assert len(augmentor(token_mask_probability=0.5).mask(build_tree([]), SPECIAL, MASK, 0, 0).inputs) == 0


# U2: turns left out


def test_every_ancestor_goes_at_probability_one_and_the_final_turn_never() -> None:
    draw = augmentor(skip_parent_probability=1.0)
    assert {draw.turns(CHAIN, POOL, epoch, s) for epoch in range(3) for s in SAMPLES} == {(None, (21,))}


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_each_ancestor_is_kept_independently(probability: float) -> None:
    draw = augmentor(skip_parent_probability=probability)
    kept = [draw.turns(CHAIN, POOL, 0, s)[1] for s in SAMPLES]
    assert all(rows == tuple(row for row in CHAIN if row in rows) and rows[-1] == 21 for rows in kept)
    low, high = binomial(len(SAMPLES), 1 - probability)
    for row in CHAIN[:-1]:
        assert low <= sum(row in rows for rows in kept) <= high
    for number in range(len(CHAIN)):  # of independent draws, the counts are binomial
        share = math.comb(4, number) * (1 - probability) ** number * probability ** (4 - number)
        low, high = binomial(len(SAMPLES), share)
        assert low <= sum(len(rows) - 1 == number for rows in kept) <= high


def test_a_sample_of_one_turn_has_nothing_to_leave_out() -> None:
    assert augmentor(skip_parent_probability=1.0).turns((4,), POOL, 0, 0) == (None, (4,))


# U3: a foreign turn in front


@pytest.mark.parametrize("probability", [0.2, 1.0])
def test_the_share_of_foreign_turns_is_the_probability(probability: float) -> None:
    draw = augmentor(random_parent_probability=probability)
    drawn = [draw.turns((s % 40,), POOL, 0, s) for s in SAMPLES]
    low, high = binomial(len(SAMPLES), probability)
    assert low <= sum(foreign is not None for foreign, _ in drawn) <= high
    assert all(foreign != rows[0] for foreign, rows in drawn)


def test_foreign_turns_are_never_the_samples_own_and_the_others_are_equally_likely() -> None:
    draw = augmentor(random_parent_probability=1.0)
    chosen = Counter(draw.turns(CHAIN, POOL, epoch, s)[0] for epoch in range(10) for s in SAMPLES)
    assert set(chosen) == set(POOL) - set(CHAIN)
    low, high = binomial(10 * len(SAMPLES), 1 / len(chosen))
    assert all(low <= count <= high for count in chosen.values())


def test_a_turn_that_was_left_out_does_not_come_back_as_a_foreign_one() -> None:
    draw = augmentor(random_parent_probability=1.0, skip_parent_probability=1.0)
    assert all(draw.turns(CHAIN, POOL, 0, s)[0] not in CHAIN for s in SAMPLES)


def test_a_pool_with_one_other_row_gives_that_row_and_one_without_gives_none() -> None:
    draw = augmentor(random_parent_probability=1.0)
    mostly_own = tuple(range(500))
    assert {draw.turns(mostly_own[:-1], mostly_own, 0, s)[0] for s in range(30)} == {499}
    for pool in ((), CHAIN, (3,) * 5):
        assert {draw.turns(CHAIN, pool, 0, s) for s in SAMPLES} == {(None, CHAIN)}


# Off, and independence of everything but seed, epoch and sample (N40)


def test_nothing_changes_when_all_is_off() -> None:
    tree = pair()
    for sample in SAMPLES:
        assert augmentor().turns(CHAIN, POOL, 1, sample) == (None, CHAIN)
        assert augmentor().mask(tree, SPECIAL, MASK, 1, sample) is tree


EVERYTHING = {
    "token_mask_probability": 0.3,
    "skip_parent_probability": 0.4,
    "random_parent_probability": 0.5,
    "neftune_noise_alpha": 5.0,
}
DRAWS: dict[str, Callable[[Augmentor, int, int], Any]] = {
    "token_mask_probability": lambda draw, e, s: draw.mask(pair(), SPECIAL, MASK, e, s).inputs.tolist(),
    "skip_parent_probability": lambda draw, e, s: draw.turns(CHAIN, POOL, e, s)[1],
    "random_parent_probability": lambda draw, e, s: draw.turns(CHAIN, POOL, e, s)[0],
    "neftune_noise_alpha": lambda draw, e, s: draw.noise_seed(e, s),
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_changing_one_setting_changes_no_other_draw(name: str) -> None:
    alone = augmentor(**{name: EVERYTHING[name]})
    together = augmentor(**EVERYTHING)
    assert [DRAWS[name](alone, 3, s) for s in SAMPLES] == [DRAWS[name](together, 3, s) for s in SAMPLES]


@pytest.mark.parametrize("name", EVERYTHING)
def test_equal_draws_twice_and_others_in_another_epoch_sample_or_seed(name: str) -> None:
    def all_of(seed: int, epoch: int, shift: int = 0) -> list[Any]:
        return [DRAWS[name](augmentor(seed, **EVERYTHING), epoch, s + shift) for s in range(50)]

    first = all_of(42, 0)
    assert first == all_of(42, 0)
    for other in (all_of(42, 1), all_of(43, 0), all_of(42, 0, shift=50)):
        assert sum(a == b for a, b in zip(first, other, strict=True)) < 25


def test_kinds_of_draws_are_independent_of_each_other() -> None:
    draw = augmentor(token_mask_probability=0.5, skip_parent_probability=0.5, random_parent_probability=0.5)
    single = build_tree([Segment([1], False)])
    events = []
    for sample in SAMPLES:
        foreign, kept = draw.turns(CHAIN, POOL, 0, sample)
        hidden = draw.mask(single, SPECIAL, MASK, 0, sample).inputs[0] == MASK
        events.append((foreign is not None, CHAIN[0] not in kept, bool(hidden), draw.noise_seed(0, sample) < 2**62))
    low, high = binomial(len(SAMPLES), 0.25)
    for one, other in itertools.combinations(range(4), 2):
        assert low <= sum(event[one] and event[other] for event in events) <= high


def test_a_higher_probability_only_adds_changes() -> None:
    little, much = (augmentor(token_mask_probability=p) for p in (0.2, 0.6))
    for sample in SAMPLES:
        few = little.mask(pair(), SPECIAL, MASK, 0, sample).inputs == MASK
        many = much.mask(pair(), SPECIAL, MASK, 0, sample).inputs == MASK
        assert not (few & ~many).any()


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_ghost_draws_what_its_sample_draws(name: str) -> None:
    draw = augmentor(**EVERYTHING)
    assert [DRAWS[name](draw, 1, ~s) for s in SAMPLES] == [DRAWS[name](draw, 1, s) for s in SAMPLES]


def test_the_draws_are_the_streams_that_numpy_promises() -> None:
    stream = np.random.PCG64(np.random.SeedSequence((42, 3, 17, 4)))
    assert augmentor().noise_seed(3, 17) == int(stream.random_raw()) // 2
    assert augmentor().noise_seed(0, 0) == 1735718986668275717  # recorded: a run that is resumed elsewhere goes on
    shares = np.random.Generator(np.random.PCG64(np.random.SeedSequence((42, 3, 17, 3)))).random(52)
    hidden = augmentor(token_mask_probability=0.3).mask(document(), SPECIAL, MASK, 3, 17).inputs == MASK
    assert hidden[1:-1].tolist() == (shares[1:-1] < 0.3).tolist()


def test_noise_seeds_fit_every_generator_and_differ() -> None:
    seeds = {augmentor().noise_seed(epoch, s) for epoch in range(3) for s in SAMPLES}
    assert len(seeds) == 3 * len(SAMPLES)
    assert all(0 <= seed < 2**63 for seed in seeds)


class Rows(Dataset[Any]):
    """Samples whose every draw is made where the sample is asked for."""

    def __init__(self, draw: Augmentor, epoch: int) -> None:
        self.draw, self.epoch = draw, epoch

    def __len__(self) -> int:
        return 24

    def __getitem__(self, sample: int) -> list[Any]:
        return [make(self.draw, self.epoch, sample) for make in DRAWS.values()]


def as_they_are(samples: list[Any]) -> list[Any]:
    return samples


@pytest.mark.parametrize("epoch", [0, 7])
def test_the_number_of_workers_changes_nothing(epoch: int) -> None:
    rows = Rows(augmentor(**EVERYTHING), epoch)
    alone, shared = (
        [*DataLoader(rows, batch_size=5, collate_fn=as_they_are, num_workers=workers)] for workers in (0, 2)
    )
    assert alone == shared
    assert [sample for batch in alone for sample in batch] == [rows[s] for s in range(24)]


def test_an_augmentor_survives_pickling() -> None:
    draw = augmentor(**EVERYTHING)
    assert pickle.loads(pickle.dumps(draw)) == draw


# The token that hides others


def tokenizer(**changes: str | None) -> PreTrainedTokenizerBase:
    made = tiny_tokenizer()
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("changes", "token"),
    [
        ({}, "<unk>"),
        ({"mask_token": "<bos>"}, "<bos>"),
        ({"unk_token": None}, "<pad>"),
        ({"unk_token": "<|im_end|>"}, "<pad>"),
        ({"mask_token": "<|im_end|>", "unk_token": "<|im_end|>"}, "<pad>"),
    ],
)
def test_the_mask_token_is_preferred_to_unknown_and_padding_and_is_never_the_end(
    changes: dict[str, str | None], token: str
) -> None:
    made = tokenizer(**changes)
    assert mask_id(made) == made.convert_tokens_to_ids(token)


@pytest.mark.parametrize("pad", [None, "<|im_end|>"])
def test_a_tokenizer_without_a_token_to_hide_with_is_refused(pad: str | None) -> None:
    with pytest.raises(ModelError, match=r"augmentation\.token_mask_probability.*tokenizer_kwargs=\{mask_token: "):
        mask_id(tokenizer(unk_token="<|im_end|>", pad_token=pad))


def test_every_token_that_was_added_as_special_is_special() -> None:
    made = tiny_tokenizer()
    made.add_tokens(["<plain>"])
    made.add_tokens(["<reserved>"], special_tokens=True)
    assert special_ids(made) == {256, 257, 258, 259, 260, made.convert_tokens_to_ids("<reserved>")}
    assert made.convert_tokens_to_ids("<plain>") not in special_ids(made)


def test_text_of_a_real_tokenizer_keeps_its_markers() -> None:
    made = tiny_tokenizer()
    ids = made.apply_chat_template([{"role": "user", "content": "hello there"}], tokenize=True)["input_ids"]
    tree = build_tree([Segment(ids, True)])
    hide = replace(augmentor(), settings=Augmentation(**{**OFF, "token_mask_probability": 0.99}))
    seen = hide.mask(tree, special_ids(made), mask_id(made), 0, 0).inputs.tolist()
    assert [t for t in seen if t in special_ids(made) and t != mask_id(made)] == [259, 260]
    assert seen.count(mask_id(made)) > 10


# The settings


def test_the_defaults_change_nothing(project_root: Any) -> None:
    text = (project_root / "conf" / "augmentation" / "default.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text) == OFF
    assert Augmentation(**yaml.safe_load(text)).token_mask_probability == 0


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("token_mask_probability", [0, 0.999], [1.0, 1, -0.1, math.nan, "0.1", None]),
        ("skip_parent_probability", [0, 1, 1.0, 0.5], [1.01, -0.01, math.inf, True]),
        ("random_parent_probability", [0, 1, 1.0, 0.5], [1.01, -0.01, math.inf, True]),
        ("neftune_noise_alpha", [0, 15, 100.5], [-0.05, math.inf, math.nan]),
    ],
)
def test_the_ranges_of_the_settings(name: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert getattr(Augmentation(**{**OFF, name: value}), name) == value
    for value in bad:
        with pytest.raises(ValidationError, match=name):
            Augmentation(**{**OFF, name: value})
