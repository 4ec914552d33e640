"""The effects of augmentation settings (spec 1.6) as batches reach the model: through the loaders of a composed run."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.effects.small_runs import Columns, settings_of
from torch import Tensor

from leyden.backbone.noise import embedding_noise
from leyden.backbone.scoring import base_model, target_logps
from leyden.data.batches import Batch
from leyden.data.datamodule import TreeDataModule
from leyden.settings.errors import ConfigError
from leyden.training.assembly import load_backbone, make_collator, make_data
from leyden.training.prepare import Material, prepare

ROWS = 40
TABLE: Columns = {
    "id": list(range(ROWS)),
    "parent": [n - 1 if n % 4 else None for n in range(ROWS)],
    "p": [f"prompt {n:02d} words" for n in range(ROWS)],
    "a": [f"answer {n:02d}" for n in range(ROWS)],
    "r": [f"{'answer' if n % 4 < 3 else 'reject'} {n:02d}" for n in range(ROWS)],
    "k": [n % 2 for n in range(ROWS)],
    "s": ["be kind"] * ROWS,
}
PARENT = ["dataset.parent_id_column=parent", "dataset.id_column=id"]
PAIRS = ["problem=dpo", "dataset.rejected_answer_column=r"]
CLASSES = ["problem=classification", "dataset.answer_column=k"]
MASK = "augmentation.token_mask_probability=0.4"
SKIP, FOREIGN = "augmentation.skip_parent_probability", "augmentation.random_parent_probability"
NOISE = "augmentation.neftune_noise_alpha=5"
EVERYTHING = [MASK, f"{SKIP}=0.5", f"{FOREIGN}=0.5", NOISE]
UNKNOWN = 256  # what stands for a hidden token here: the tokenizer has no mask token


@dataclass
class Loaded:
    """What a run is made of, up to its first step."""

    material: Material
    backbone: Any
    data: TreeDataModule

    def train(self, epoch: int = 0) -> list[Batch]:
        loader = self.data.train_dataloader()
        found: list[Batch] = []
        for _ in range(epoch + 1):
            found = [batch for passes in loader for batch in passes]
        return found

    def validation(self) -> list[Batch]:
        return [batch for passes in self.data.val_dataloader() for batch in passes]

    def texts(self, epoch: int = 0) -> dict[int, str]:
        """What the model reads of each training sample, decoded."""
        assert self.data.augmented is not None
        self.data.augmented.epoch = epoch
        found = [self.data.augmented[number] for number in range(len(self.data.augmented))]
        return {sample.number: self.material.tokenizer.decode(sample.tree.inputs.tolist()) for sample in found}


def loaded(folder: Path, *overrides: str) -> Loaded:
    settings = settings_of(folder, TABLE, "trainer.batch_size=4", "tokenizer.max_length=512", *overrides)
    material = prepare(settings)
    backbone, _, attention = load_backbone(settings, material)
    # what is hidden is shared with nobody, so batches are only alike where nothing is shared
    collator = replace(make_collator(settings, material.tokenizer, backbone, attention), merged=False)
    return Loaded(material, backbone, make_data(settings, material, collator))


def equal(one: Batch, two: Batch) -> bool:
    """Whether two batches hold the same in every field."""
    for field in fields(Batch):
        a, b = getattr(one, field.name), getattr(two, field.name)
        same = torch.equal(a, b) if isinstance(a, Tensor) else repr(a) == repr(b)
        if not same:
            return False
    return True


@pytest.mark.parametrize("problem", [[*PARENT], [*PARENT, *PAIRS]], ids=["causal_lm", "dpo"])
@pytest.mark.parametrize("engine", ["segments", "sdpa"])
def test_batches_are_the_same_for_any_number_of_workers(tmp_path: Path, problem: list[str], engine: str) -> None:
    overrides = [*problem, *EVERYTHING, f"backbone.attention_implementation={engine}"]
    alone, apart = (loaded(tmp_path, *overrides, f"trainer.number_of_workers={n}") for n in (0, 2))
    for epoch in (0, 1):
        pairs = list(zip(alone.train(epoch), apart.train(epoch), strict=True))
        assert len(pairs) == 3
        assert all(equal(one, two) for one, two in pairs)
    texts = [alone.texts(epoch) for epoch in (0, 1)]
    assert texts[0] != texts[1]


@pytest.mark.parametrize("problem", [[*PARENT], [*PARENT, *PAIRS], ["problem=seq2seq"]], ids=["lm", "dpo", "seq2seq"])
def test_validation_is_never_changed(tmp_path: Path, problem: list[str]) -> None:
    plain, changed = loaded(tmp_path, *problem), loaded(tmp_path, *problem, *EVERYTHING)
    for one, two in zip(plain.validation(), changed.validation(), strict=True):
        assert equal(one, two)
        assert two.noise is None
        assert two.clean_ids is None
    assert not all(
        torch.equal(one.input_ids, two.input_ids) for one, two in zip(plain.train(), changed.train(), strict=True)
    )


@pytest.mark.parametrize("problem", [[], CLASSES, ["problem=seq2seq"], PAIRS], ids=["lm", "classes", "seq2seq", "dpo"])
def test_u1_the_share_of_hidden_tokens(tmp_path: Path, problem: list[str]) -> None:
    run = loaded(tmp_path, *problem, MASK)
    assert run.data.augmented is not None
    special = {256, 257, 258, 259, 260}
    hidden = eligible = 0
    for number in range(ROWS):
        tree = run.data.augmented[number].tree
        end = tree.starts[1] if "problem=seq2seq" in problem else len(tree.tokens)
        changed = tree.inputs != tree.tokens
        assert set(tree.inputs[changed].tolist()) <= {UNKNOWN}
        assert not changed[np.isin(tree.tokens, list(special))].any()
        assert not changed[end:].any()
        assert not changed[tree.targets].any(), "a hidden token is no target"
        hidden += int(changed[:end].sum())
        eligible += int((~np.isin(tree.tokens[:end], list(special))).sum())
    spread = 5 * (eligible * 0.4 * 0.6) ** 0.5
    assert abs(hidden - 0.4 * eligible) < spread


def test_u1_both_sides_of_a_pair_read_the_same_prompt(tmp_path: Path) -> None:
    padded = loaded(tmp_path, *PAIRS, MASK, "backbone.attention_implementation=sdpa").train()[0]
    width = len("<|prompt|>prompt 00 words<|answer|>") + 1
    for row in range(0, len(padded.input_ids), 2):
        sides = [padded.input_ids[row + side] for side in (0, 1)]
        assert padded.attention_mask is not None
        starts = [int(padded.attention_mask[row + side].argmax()) for side in (0, 1)]
        one, two = (side[start : start + width] for side, start in zip(sides, starts, strict=True))
        assert torch.equal(one, two)
        assert (one == UNKNOWN).any()


def test_u1_the_reference_reads_what_was_written(tmp_path: Path) -> None:
    run = loaded(tmp_path, *PAIRS, MASK)
    plain = loaded(tmp_path, *PAIRS)
    hidden, whole = run.train()[0], plain.train()[0]
    assert hidden.clean_ids is not None
    assert torch.equal(hidden.clean_ids, whole.input_ids)
    assert not torch.equal(hidden.input_ids, whole.input_ids)
    from leyden.backbone.reference import Reference

    reference = Reference(run.backbone)
    reference.prepare()
    logps = reference.logps(hidden)
    with torch.no_grad():
        theirs = target_logps(plain.backbone.eval(), whole)
    kept = {(int(s), int(t)): v for s, t, v in zip(whole.target_sequences, whole.target_columns, theirs, strict=True)}
    wanted = [kept[int(s), int(t)] for s, t in zip(hidden.target_sequences, hidden.target_columns, strict=True)]
    torch.testing.assert_close(logps, torch.stack(wanted), rtol=0, atol=1e-4)


def test_u2_only_the_final_turn_is_left_and_the_system_text_stays(tmp_path: Path) -> None:
    system = ["dataset.system_column=s"]
    for text in loaded(tmp_path, *PARENT, *system, f"{SKIP}=1").texts().values():
        assert text.count("<|prompt|>") == 1
        assert text.startswith("<|system|>be kind<|im_end|><|prompt|>")
    half = loaded(tmp_path, *PARENT, f"{SKIP}=0.5")
    counts = [text.count("<|prompt|>") - 1 for epoch in range(30) for text in half.texts(epoch).values()]
    assert set(counts) == {0, 1, 2, 3}
    assert abs(np.mean(counts) - 1.5) < 5 * (0.75 / len(counts)) ** 0.5
    shares = np.bincount(counts) / len(counts)
    np.testing.assert_allclose(shares, [1 / 8, 3 / 8, 3 / 8, 1 / 8], atol=5 * (0.25 / len(counts)) ** 0.5)


@pytest.mark.parametrize("problem", [[], PARENT, [*PARENT, *PAIRS]], ids=["rows", "chains", "dpo"])
def test_u3_every_sample_has_one_more_turn_that_is_not_its_own(tmp_path: Path, problem: list[str]) -> None:
    run = loaded(tmp_path, *problem, f"{FOREIGN}=1")
    assert run.data.augmented is not None
    for number, text in run.texts().items():
        own = run.material.train.trees.part.samples[number]
        assert text.count("<|prompt|>") == len(own) + 1
        first = int(text.split("prompt ")[1][:2])
        assert first not in own
        assert text.startswith(f"<|prompt|>prompt {first:02d} words<|im_end|><|answer|>answer {first:02d}<|im_end|>")
        tree = run.data.augmented[number].tree
        scored = run.material.tokenizer.decode(tree.tokens[tree.targets].tolist())
        assert f"answer {first:02d}" not in scored, "false history is no target"


def test_u4_noise_is_in_training_alone_and_within_its_bound(tmp_path: Path) -> None:
    run = loaded(tmp_path, *PARENT, NOISE, "lora=none")
    batch, seen = run.train()[0], []
    embedding = base_model(run.backbone).get_input_embeddings()
    names = set(run.backbone.state_dict())
    for noise, alpha in ((batch.noise, 5.0), (None, 5.0)):
        with embedding_noise(run.backbone, noise, alpha), torch.no_grad():
            hook = embedding.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
            target_logps(run.backbone, batch)
            hook.remove()
    assert set(run.backbone.state_dict()) == names
    assert batch.noise is not None
    difference, start = (seen[0] - seen[1])[0], 0
    for length, path in zip(batch.noise.lengths, batch.noise.paths, strict=True):
        part = difference[start : start + length]
        bound = 5 / (path * part.shape[1]) ** 0.5
        assert 0.98 * bound < part.abs().max() <= bound * (1 + 1e-4)
        start += length


@pytest.mark.parametrize("problem", [PARENT, [*PARENT, *PAIRS]], ids=["lm", "dpo"])
def test_packed_and_padded_batches_score_the_same_under_every_change(tmp_path: Path, problem: list[str]) -> None:
    found = []
    for engine in ("segments", "sdpa"):
        run = loaded(tmp_path, *problem, *EVERYTHING, f"backbone.attention_implementation={engine}", "lora=none")
        batch = run.train()[1]
        with torch.no_grad(), embedding_noise(run.backbone, batch.noise, 5.0):
            found.append((batch.samples, batch.target_ids, target_logps(run.backbone, batch)))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][2], found[1][2], rtol=0, atol=2e-4)


@pytest.mark.parametrize("key", [SKIP, FOREIGN])
def test_turns_cannot_be_changed_where_there_are_none(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}=0.5 does not go with Classification"):
        settings_of(tmp_path, TABLE, *CLASSES, f"{key}=0.5")
    settings = settings_of(tmp_path, TABLE, f"{SKIP}=0.5")
    assert any("skip_parent_probability=0.5 has no effect" in line for line in prepare(settings).warnings)


@pytest.mark.parametrize("wrong", ["token_mask_probability=1", "skip_parent_probability=1.1",
                                   "random_parent_probability=-0.1", "neftune_noise_alpha=-1"])  # fmt: skip
def test_ranges(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong.split("=", maxsplit=1)[0]):
        settings_of(tmp_path, TABLE, f"augmentation.{wrong}")
