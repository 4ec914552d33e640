"""Widths of training batches (T3): which tokens go, which targets go with them, and what is never cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leyden.backbone.attention import choose_attention
from leyden.backbone.scoring import target_logps
from leyden.backbone.tiny import tiny_model
from leyden.data.collator import Collator
from leyden.data.dataset import Sample
from leyden.data.trees import Segment, Tree, build_tree
from leyden.data.trimming import filling, quantile_width, trimmed

PAD = 257


def text(length: int, first: int = 0) -> Tree:
    return build_tree([Segment(range(first, first + length), True)])


def pair(prompt: int, chosen: int, rejected: int) -> Tree:
    return build_tree(
        [
            Segment(range(prompt), False),
            Segment(range(100, 100 + chosen), True, 0, 0),
            Segment(range(150, 150 + rejected), True, 0, 1),
        ],
        2,
    )


def samples(*trees: Tree) -> list[Sample]:
    return [Sample(number, tree) for number, tree in enumerate(trees)]


def ids(tree: Tree) -> list[list[int]]:
    return [tree.tokens[path].tolist() for path in tree.paths()]


@pytest.mark.parametrize(("quantile", "width"), [(0.5, 5), (0.75, 7), (1.0, 10), (0.0, 32)])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_the_widths_of_the_specification(quantile: float, width: int, layout: str) -> None:
    lengths = (1, 4, 6, 10)
    collator = Collator(layout, PAD, quantile=quantile, max_length=32)  # type: ignore[arg-type]
    batch = collator(samples(*map(text, lengths)))
    kept = [32] * 4 if quantile == 0 else [min(length, width) for length in lengths]
    if layout == "padded":
        assert batch.input_ids.shape == (4, width)
        assert batch.attention_mask is not None
        assert batch.attention_mask.sum(1).tolist() == [min(length, width) for length in lengths]
    else:
        assert batch.input_ids.shape == (1, batch.num_tokens)
        assert batch.num_tokens + batch.num_shared == sum(kept)
    assert len(batch.samples) == 4
    assert batch.target_ids.tolist() == [token for n in lengths for token in range(n)[1:] if token > n - width]
    assert quantile_width(lengths, quantile or 1.0) == (width if quantile else 10)


@pytest.mark.parametrize("layout", ["padded", "packed", "encoder_decoder"])
@pytest.mark.parametrize("quantile", [0.0, 0.3])
def test_an_evaluation_is_neither_cut_nor_filled(layout: str, quantile: float) -> None:
    trees = [build_tree([Segment(range(n), False), Segment([90, 91], True, 0, 0)]) for n in (1, 4, 9)]
    plain, cut = (Collator(layout, PAD, 5, q, 32) for q in (1.0, quantile))  # type: ignore[arg-type]
    found, whole = cut.for_evaluation()(samples(*trees)), plain(samples(*trees))
    for name in ("input_ids", "target_ids", "position_ids", "target_rows", "target_columns"):
        assert torch.equal(getattr(found, name), getattr(whole, name)), name
    assert cut(samples(*trees)).input_ids.shape != whole.input_ids.shape


def test_the_oldest_tokens_go_and_a_target_without_its_source_is_none() -> None:
    tree = build_tree([Segment(range(10), [False] * 4 + [True] * 6, weights=[1.0] * 4 + [2.0] * 6)])
    cut = trimmed(tree, 5)
    assert cut.tokens.tolist() == [5, 6, 7, 8, 9]
    assert cut.inputs is cut.tokens
    assert cut.tokens[cut.targets].tolist() == [6, 7, 8, 9]
    assert cut.tokens[cut.sources].tolist() == [5, 6, 7, 8]
    assert cut.target_weights.tolist() == [2.0] * 4
    assert cut.positions().tolist() == [0, 1, 2, 3, 4]
    assert trimmed(tree, 10) is tree


def test_a_shared_prompt_stays_shared_and_loses_what_its_longer_path_needs() -> None:
    cut = trimmed(pair(6, 2, 4), 7)
    assert cut.parents == (-1, 0, 0)
    assert ids(cut) == [[3, 4, 5, 100, 101], [3, 4, 5, 150, 151, 152, 153]]
    assert cut.tokens[cut.targets].tolist() == [100, 101, 150, 151, 152, 153]


def test_a_short_answer_stays_whole_beside_one_that_uses_up_the_prompt() -> None:
    cut = trimmed(pair(2, 3, 10), 4)
    assert ids(cut) == [[100, 101, 102], [156, 157, 158, 159]]
    assert cut.tokens[cut.targets[cut.sequences == 0]].tolist() == [101, 102]
    assert cut.tokens[cut.targets[cut.sequences == 1]].tolist() == [157, 158, 159]


def test_two_roots_are_cut_each_for_itself() -> None:
    roots = [Segment(range(8), False), Segment([100, 101], True, 0, 0), Segment(range(20, 23), False)]
    cut = trimmed(build_tree([*roots, Segment([150], True, 2, 1)], 2), 6)
    assert ids(cut) == [[4, 5, 6, 7, 100, 101], [20, 21, 22, 150]]


def test_hidden_tokens_are_cut_alike() -> None:
    tree = text(6)
    tree.__dict__["inputs"] = np.array([0, 99, 2, 99, 4, 5], dtype=np.int32)
    cut = trimmed(tree, 4)
    assert (cut.tokens.tolist(), cut.inputs.tolist()) == ([2, 3, 4, 5], [2, 99, 4, 5])


def test_sources_alone_are_cut_of_an_encoder_decoder() -> None:
    trees = [build_tree([Segment(range(n), False), Segment([90, 91, 92], True, 0, 0)]) for n in (1, 4, 6, 10)]
    batch = Collator("encoder_decoder", PAD, 5, 0.5, 32)(samples(*trees))
    assert batch.input_ids[:, -5:].tolist()[3] == [5, 6, 7, 8, 9]
    assert batch.input_ids.shape == (4, 5)
    assert batch.target_ids.tolist() == [90, 91, 92] * 4


def test_a_filled_batch_scores_as_before() -> None:
    trees = [pair(6, 2, 4), pair(3, 1, 2)]
    model = tiny_model("llama")
    choose_attention(model, "segments")
    plain, filled = (Collator("packed", PAD, 0, quantile, 20)(samples(*trees)) for quantile in (1.0, 0.0))
    apart = plain.num_tokens + plain.num_shared  # filled up, nothing is shared: it is about the most memory
    assert filled.input_ids.shape[1] == apart + 4 * 20 - (8 + 10 + 4 + 5)
    assert (filled.samples, filled.num_sequences) == (plain.samples, plain.num_sequences)
    with torch.no_grad():
        torch.testing.assert_close(target_logps(model, filled), target_logps(model, plain), rtol=0, atol=1e-5)
    assert filling([text(20)], 20, PAD) is None


@st.composite
def forests(draw: st.DrawFn) -> Tree:
    segments: list[Segment] = []
    for index in range(draw(st.integers(1, 6))):
        parent = draw(st.integers(-1, index - 1))
        tokens = range(100 * index, 100 * index + draw(st.integers(0, 5)))
        segments.append(Segment(list(tokens), True, parent))
    return build_tree(segments)


@given(forests(), st.integers(1, 12))
def test_every_path_is_an_end_of_what_it_was(tree: Tree, width: int) -> None:
    cut = trimmed(tree, width)
    assert cut.parents == tree.parents
    for before, after in zip(ids(tree), ids(cut), strict=True):
        assert len(after) <= width
        assert after == before[len(before) - len(after) :]
    assert max(map(len, ids(cut))) == min(width, tree.longest())
    paths = [path.tolist() for path in cut.paths()]
    for target, source in zip(cut.targets.tolist(), cut.sources.tolist(), strict=True):
        assert any(p.index(target) == p.index(source) + 1 for p in paths if target in p and source in p)
    firsts = {path[0] for path in paths if path}
    scored = set(tree.tokens[tree.targets].tolist()) & set(cut.tokens.tolist())
    alone = {int(cut.tokens[place]) for place in firsts}
    assert scored - alone <= set(cut.tokens[cut.targets].tolist())
