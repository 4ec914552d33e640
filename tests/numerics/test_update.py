"""A training through all the wiring against a plain loop over Hugging Face's own forward passes, however it is cut."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from peft import PeftModel
from tests.numerics.plain_training import plain_training
from torch import Tensor

from leyden.artifacts.metrics_file import MetricsFile
from leyden.backbone.checkpoint import find_checkpoint
from leyden.backbone.load import load_model
from leyden.backbone.lora import add_adapter
from leyden.backbone.scoring import base_model
from leyden.data.batches import Batch
from leyden.data.sampler import Rank, TrainingSampler
from leyden.problem.dpo import DPO
from leyden.settings.composition import compose_config
from leyden.settings.errors import ConfigError, TrainingError
from leyden.settings.read import read
from leyden.settings.schema import Settings
from leyden.training import run as wiring
from leyden.training.callbacks import History
from leyden.training.module import FineTuner
from leyden.training.outcome import Run
from leyden.training.prepare import prepare
from leyden.training.run import fit

ROWS = 13  # ten of them train: windows of four, four and two
RATE = 0.05
TEXTS = ["why", "a longer question", "so?", "is the answer longer than the question", "what of it"]
PAIR_LOSSES = ["dpo", "hinge", "ipo", "kto_pair", "cpo", "simpo"]
CUTS = [(4, 1), (2, 2), (1, 4), (3, 2)]
ENGINES = {"packed": "segments", "padded": "sdpa"}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["instruction", "output", "rejected"])
        for row in range(ROWS):
            prompt, answer = TEXTS[row % 5], TEXTS[(row * 3 + 1) % 5]
            writer.writerow([f"{row} {prompt}", f"{answer} {row}" * (1 + row % 3), f"no {TEXTS[(row + 2) % 5]}"])
    return path


def settings_of(project_root: Path, table: Path, *overrides: str, optimizer: str = "sgd") -> Settings:
    if optimizer == "sgd":
        sgd = ("optimizer._target_=torch.optim.SGD", "~optimizer.betas", "~optimizer.eps")
        overrides = (*sgd, f"optimizer.learning_rate={RATE}", *overrides)
    config, faults = compose_config(
        "train",
        [
            "backbone=tiny", "dataset=table", f"dataset.train_dataframe={table}", "dataset.prompt_column=instruction",
            "dataset.answer_column=output", "dataset.validation_size=0.2", "lora.dropout=0", "schedule=constant",
            "trainer=cpu", "trainer.progress=none", "trainer.gradient_clip=0", *overrides,
        ],
        project_root / "conf",
    )  # fmt: skip
    assert not faults
    assert config is not None
    return read(config)


def pair(loss: str) -> list[str]:
    return ["problem=dpo", f"problem/loss={loss}", "dataset.rejected_answer_column=rejected"]


def train(settings: Settings, folder: Path, *callbacks: L.Callback, patch: pytest.MonkeyPatch | None = None) -> Run:
    """`fit` as it is; callbacks are added where a test wants to look or to disturb."""
    if patch is not None:
        make = wiring.make_trainer
        patch.setattr(wiring, "make_trainer", lambda s, own, *rest: make(s, [*callbacks, *own], *rest))
    return fit(settings, prepare(settings), [MetricsFile(folder / "metrics.csv")], folder)


def adapter_of(run: Run) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in run.module.backbone.named_parameters() if p.requires_grad}


def logged(folder: Path, name: str) -> list[float]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["name"] == name]


def order_of(seed: int, epoch: int, samples: int) -> list[int]:
    sampler = TrainingSampler(samples, samples, seed, Rank(), drop_last=False)
    sampler.set_epoch(epoch)
    return next(iter(sampler))


def fresh_model(settings: Settings) -> PeftModel:
    L.seed_everything(settings.seed, verbose=False)
    checkpoint = find_checkpoint(settings.backbone)
    model = add_adapter(load_model(checkpoint, settings.backbone, torch.float32), settings.lora, checkpoint.location)
    assert isinstance(model, PeftModel)
    return model


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    assert any(value.abs().max() > 100 * tolerance for name, value in expected.items() if "lora_B" in name)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def sgd(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=RATE)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("loss", ["token_averaged_cross_entropy", "sample_averaged_cross_entropy", *PAIR_LOSSES])
def test_an_update_is_the_mean_over_all_its_targets(
    loss: str, engine: str, project_root: Path, table: Path, tmp_path: Path
) -> None:
    problem = pair(loss) if loss in PAIR_LOSSES else [f"problem/loss={loss}"]
    common = [*problem, "trainer.evaluate_before_training=false", "trainer.evaluation_epochs=9",
              f"backbone.attention_implementation={ENGINES[engine]}"]  # fmt: skip
    # Of all losses only kto_pair compares the pairs of a batch with each other, so there every cut is another loss.
    cuts = CUTS[:1] if loss == "kto_pair" else CUTS[:3] if engine == "packed" else CUTS[2:3]
    expected: Any = None
    for rows, accumulate in cuts:
        folder = tmp_path / f"{rows}x{accumulate}"
        folder.mkdir()
        cut = [f"trainer.batch_size={rows}", f"trainer.grad_accumulation={accumulate}"]
        if rows > 1 and loss != "kto_pair":  # batches are cut once more, by tokens
            cut.append("trainer.tokens_per_pass=48")
        settings = settings_of(project_root, table, *common, *cut)
        if expected is None:
            expected = plain_training(settings, prepare(settings), fresh_model(settings), 4, sgd)
        run = train(settings, folder)
        assert run.updates == run.trainer.global_step == 3
        assert logged(folder, "train/loss") == pytest.approx(expected.losses, rel=1e-5)
        assert logged(folder, "train/grad_norm") == pytest.approx(expected.norms, rel=1e-4)
        assert_same(adapter_of(run), expected.weights)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_batch_goes_through_the_model_in_passes(
    engine: str, project_root: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pass has more tokens than allowed, padding included, unless it is one sample; and there are several."""
    options = ["trainer.batch_size=5", "trainer.tokens_per_pass=400", *pair("dpo")]
    settings = settings_of(project_root, table, f"backbone.attention_implementation={ENGINES[engine]}", *options)
    passes: list[Batch] = []
    score = DPO.compute
    monkeypatch.setattr(DPO, "compute", lambda self, scorer, batch: passes.append(batch) or score(self, scorer, batch))
    run = train(settings, tmp_path)
    assert all(batch.input_ids.numel() <= 400 or len(batch.samples) == 1 for batch in passes)
    assert any(len(batch.samples) > 1 for batch in passes)
    assert len(passes) > run.updates + 2, "more than one pass for each update and each of the two evaluations"


def test_a_window_of_unequal_batches_and_a_short_last_one(project_root: Path, table: Path, tmp_path: Path) -> None:
    """Ten rows as 3+3, 3+1: the second window is shorter, and its batches are unequal; two epochs, AdamW, clipping."""
    options = ["trainer.batch_size=3", "trainer.grad_accumulation=2", "trainer.epochs=2", "trainer.gradient_clip=0.5",
               "optimizer.learning_rate=1e-3"]  # fmt: skip
    settings = settings_of(project_root, table, *options, optimizer="adamw")

    def adamw(parameters: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)

    expected = plain_training(settings, prepare(settings), fresh_model(settings), 6, adamw, clip=0.5)
    run = train(settings, tmp_path)
    assert run.trainer.global_step == 4
    assert min(expected.norms) > 0.5, "the clipping is not in play"
    assert logged(tmp_path, "train/loss") == pytest.approx(expected.losses, rel=1e-5)
    assert logged(tmp_path, "train/grad_norm") == pytest.approx(expected.norms, rel=1e-4)  # before the clipping
    assert_same(adapter_of(run), expected.weights, 5e-6)


class Recorder(L.Callback):
    """The norm of what each update applies, and whether the model was in training mode in each step."""

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.modes: list[bool] = []

    def on_fit_start(self, trainer: Any, pl_module: FineTuner) -> None:
        pl_module.eval()  # as the library loads a model; the module has to see to it

    def on_train_start(self, trainer: Any, pl_module: FineTuner) -> None:
        def look(*_: Any) -> None:
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self.norms.append(float(torch.nn.utils.get_total_norm(gradients)))

        trainer.optimizers[0].register_step_post_hook(look)

    def on_train_batch_start(self, trainer: Any, pl_module: FineTuner, batch: Any, batch_idx: int) -> None:
        self.modes.append(all(module.training for module in pl_module.backbone.modules()))


def test_clipping_happens_once_after_the_scaling(
    project_root: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    options = ["trainer.gradient_clip=0.5", "trainer.batch_size=1", "trainer.grad_accumulation=4", "trainer.epochs=2"]
    train(settings_of(project_root, table, *options), tmp_path, recorder, patch=monkeypatch)
    before = logged(tmp_path, "train/grad_norm")
    assert len(before) == 6
    assert min(before) > 0.5
    assert recorder.norms == pytest.approx([0.5] * 6, rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("cosine", [0, 0.5, 1, 0.9619, 0.8536, 0.6913, 0.5, 0.3087, 0.1464, 0.1]),
        ("linear", [0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("constant", [0, 0.5, 1, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_each_update_is_made_with_the_rate_of_the_specified_table(
    schedule: str, factors: list[float], project_root: Path, table: Path, tmp_path: Path
) -> None:
    """Five updates per epoch (ten rows, two batches of one), two epochs, a warmup of 0.4 epochs."""
    floor = [] if schedule == "constant" else ["schedule.min_learning_rate_ratio=0.1"]
    options = ["trainer.batch_size=1", "trainer.grad_accumulation=2", "trainer.epochs=2", f"schedule={schedule}",
               "schedule.warmup_epochs=0.4", *floor]  # fmt: skip
    train(settings_of(project_root, table, *options), tmp_path)
    assert logged(tmp_path, "train/learning_rate") == pytest.approx([RATE * f for f in factors], abs=RATE * 5e-5)


# (4 per epoch: ten rows, batches of one, three per update)
@pytest.mark.parametrize(
    ("interval", "due"),
    [(0.25, list(range(1, 9))), (0.3, [1, 2, 4, 5, 6, 7, 8]), (1.0, [4, 8]), (1.5, [6, 8]), (2.0, [8]), (5.0, [8])],
)
def test_evaluations_come_when_they_are_due(
    interval: float, due: list[int], project_root: Path, table: Path, tmp_path: Path
) -> None:
    options = ["trainer.batch_size=1", "trainer.grad_accumulation=3", "trainer.epochs=2",
               f"trainer.evaluation_epochs={interval}"]  # fmt: skip
    run = train(settings_of(project_root, table, *options), tmp_path)
    assert run.updates == 8
    assert [point.step for point in run.history.points] == [0, *due]
    assert [point.samples for point in run.history.points][-1] == 20
    assert run.before is run.history.points[0]
    assert run.final.metrics["validation/loss"] < run.before.metrics["validation/loss"]


def test_no_epoch_evaluates_and_changes_nothing(project_root: Path, table: Path, tmp_path: Path) -> None:
    settings = settings_of(project_root, table, "trainer.epochs=0", "trainer.evaluate_before_training=false")
    run = train(settings, tmp_path)
    assert run.updates == 0
    assert [point.step for point in run.history.points] == [0]
    assert run.before is run.final
    fresh = {n: p for n, p in fresh_model(settings).named_parameters() if p.requires_grad}
    assert all(torch.equal(value, fresh[name]) for name, value in adapter_of(run).items())


@pytest.mark.parametrize("problem", ["causal_lm", "dpo"])
def test_an_evaluation_does_not_depend_on_its_batches(
    problem: str, project_root: Path, table: Path, tmp_path: Path
) -> None:
    found = []
    for size in (1, 7):
        options = [f"generation.batch_size_inference={size}", "dataset.validation_size=0.6", "trainer.epochs=2",
                   *(pair("dpo") if problem == "dpo" else [])]  # fmt: skip
        found.append(train(settings_of(project_root, table, *options), tmp_path).final.metrics)
    assert found[0].keys() >= {"validation/loss", "validation/perplexity"}
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, rel=1e-6), name


def test_dropout_is_on_in_every_step_and_a_run_repeats_bit_by_bit(
    project_root: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["lora.dropout=0.3", "trainer.epochs=2", "trainer.evaluation_epochs=0.4"]
    recorder = Recorder()
    first = train(settings_of(project_root, table, *options), tmp_path, recorder, patch=monkeypatch)
    assert len(recorder.modes) == 10
    assert all(recorder.modes)
    again = train(settings_of(project_root, table, *options), tmp_path)
    other = train(settings_of(project_root, table, *options, "seed=43"), tmp_path)
    still = train(settings_of(project_root, table, "trainer.epochs=2", "trainer.evaluation_epochs=0.4"), tmp_path)
    weights = adapter_of(first)
    assert all(torch.equal(value, weights[name]) for name, value in adapter_of(again).items())
    for run in (other, still):
        assert any(not torch.equal(value, weights[name]) for name, value in adapter_of(run).items())
    assert [point.metrics for point in first.history.points] == [point.metrics for point in again.history.points]


def test_evaluation_takes_no_randomness_from_training(project_root: Path, table: Path, tmp_path: Path) -> None:
    """Dropout of a step depends on seed and step alone, so evaluating more often changes no weight."""
    options = ["lora.dropout=0.3", "trainer.epochs=2"]
    often = train(settings_of(project_root, table, *options, "trainer.evaluation_epochs=0.2"), tmp_path)
    seldom = train(
        settings_of(project_root, table, *options, "trainer.evaluate_before_training=false"), tmp_path
    )  # fmt: skip
    weights = adapter_of(often)
    assert all(torch.equal(value, weights[name]) for name, value in adapter_of(seldom).items())


class Poison(L.Callback):
    """Spoil given steps: their loss, their gradient, or a weight in the forward pass alone."""

    def __init__(self, kind: str, steps: set[int]) -> None:
        self.kind, self.steps = kind, steps
        self.snapshots: list[tuple[dict[str, Tensor], list[dict[str, Tensor]], float]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: FineTuner, batch: Any, batch_idx: int) -> None:
        step = trainer.fit_loop.epoch_loop.total_batch_idx
        if step not in self.steps or self.kind == "gradient":
            return
        weight = base_model(pl_module.backbone).get_input_embeddings().weight
        self.kept = weight.detach().clone()
        weight.data.fill_(math.nan if self.kind == "nan" else math.inf)

    def on_after_backward(self, trainer: Any, pl_module: FineTuner) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx not in self.steps:
            return
        if self.kind == "gradient":
            next(p for p in pl_module.parameters() if p.grad is not None).grad.view(-1)[0] = math.inf
        else:
            base_model(pl_module.backbone).get_input_embeddings().weight.data.copy_(self.kept)

    def on_train_batch_end(self, trainer: Any, pl_module: FineTuner, *rest: Any) -> None:
        weights = {n: p.detach().clone() for n, p in pl_module.named_parameters()}
        state = [
            {name: value.clone() for name, value in entry.items()} for entry in trainer.optimizers[0].state.values()
        ]
        self.snapshots.append((weights, state, trainer.optimizers[0].param_groups[0]["lr"]))


@pytest.mark.parametrize("kind", ["nan", "inf", "gradient"])
def test_an_update_that_is_not_finite_reaches_nothing(
    kind: str,
    project_root: Path,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    poison = Poison(kind, {2})
    options = ["schedule=linear", "optimizer.learning_rate=1e-2", "optimizer.weight_decay=0.1", "trainer.epochs=2"]
    settings = settings_of(project_root, table, *options, optimizer="adamw")
    with caplog.at_level(logging.WARNING, logger="leyden"):
        run = train(settings, tmp_path, poison, patch=monkeypatch)
    assert run.module.skipped_updates == 1
    (weights, state, _), (next_weights, next_state, _), (later, _, _) = poison.snapshots[1:4]
    assert all(torch.equal(value, next_weights[name]) for name, value in weights.items())
    assert len(state) == len(next_state) > 0
    for entry, after in zip(state, next_state, strict=True):
        assert all(torch.equal(value, after[name]) for name, value in entry.items())
    assert any(not torch.equal(value, later[name]) for name, value in next_weights.items())
    rates = logged(tmp_path, "train/learning_rate")
    assert rates == pytest.approx([1e-2 * (1 - k / 10) for k in (0, 1, 2, 2, 3, 4, 5, 6, 7, 8)])
    assert all(math.isfinite(value) for value in run.final.metrics.values())
    # The two rows of the third step, as they stand in the file: the header is line 1.
    part = run.trainer.datamodule.train.trees.part
    order = order_of(42, 0, len(part))[4:6]
    lines = sorted(part.samples[sample][-1] + 2 for sample in order)
    assert "Update 3 was not applied: its loss is" in caplog.text
    assert f"lines {lines[0]}, {lines[1]} of the training table" in caplog.text


def test_too_many_bad_updates_in_a_row_end_the_run(
    project_root: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["trainer.max_bad_steps=2", "trainer.epochs=3"]
    apart = train(settings_of(project_root, table, *options), tmp_path, Poison("nan", {1, 3, 5}), patch=monkeypatch)
    assert apart.module.skipped_updates == 3
    monkeypatch.undo()
    poison, words = Poison("nan", {5, 6}), r"2 updates in a row .*trainer\.max_bad_steps=2.*optimizer\.learning_rate"
    with pytest.raises(TrainingError, match=words) as caught:
        train(settings_of(project_root, table, *options), tmp_path, poison, patch=monkeypatch)
    folder = tmp_path / "checkpoints" / "step-00000005"
    assert str(caught.value).endswith(f"The last good checkpoint is {folder}, after update 5.")
    good, (before, _, _) = torch.load(folder / "state.ckpt", weights_only=True)["state_dict"], poison.snapshots[4]
    assert good
    assert all(torch.equal(value, before[name]) for name, value in good.items())


def test_bad_updates_before_any_checkpoint_say_so(
    project_root: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for policy, words in (("last", "There is no checkpoint yet"), ("disable", "because checkpoint=disable keeps none")):
        settings = settings_of(project_root, table, "trainer.max_bad_steps=1", f"checkpoint={policy}")
        with pytest.raises(TrainingError, match=words):
            train(settings, tmp_path, Poison("nan", {0}), patch=monkeypatch)
        monkeypatch.undo()


def test_bad_rows_are_named_by_their_ids(
    project_root: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_of(project_root, table, "dataset.id_column=instruction")
    with caplog.at_level(logging.WARNING, logger="leyden"):
        run = train(settings, tmp_path, Poison("nan", {1}), patch=monkeypatch)
    part = run.trainer.datamodule.train.trees.part
    rows = sorted(part.samples[sample][-1] for sample in order_of(42, 0, len(part))[2:4])
    ids = ", ".join(repr(cell) for cell in part.source.table.rows(rows)["instruction"])
    assert f"(ids {ids}) of the training table" in caplog.text


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("lora", ["lora", "none"])
def test_bfloat16_on_a_cpu(precision: str, lora: str, project_root: Path, table: Path, tmp_path: Path) -> None:
    options = [*pair("dpo"), f"trainer.precision={precision}", "trainer.epochs=2", "optimizer.learning_rate=1e-2"]
    settings = settings_of(project_root, table, *options)
    if lora == "none":
        settings = settings.model_copy(update={"lora": None})
    run = train(settings, tmp_path)
    assert run.before is not None
    assert run.before.metrics["validation/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert run.final.metrics["validation/loss"] < 0.69
    assert run.dtype.effective == ("bfloat16" if precision == "bf16-true" else "float32")
    trained = next(p for p in run.module.backbone.parameters() if p.requires_grad)
    assert trained.dtype == (torch.bfloat16 if precision == "bf16-true" else torch.float32)


def test_half_precision_is_refused_on_a_cpu(project_root: Path, table: Path) -> None:
    for precision in ("16-true", "16-mixed"):
        with pytest.raises(ConfigError, match=f"trainer.precision='{precision}' needs a GPU"):
            settings_of(project_root, table, f"trainer.precision={precision}")
        settings = settings_of(project_root, table)
        trainer = settings.trainer.model_copy(update={"precision": precision, "accelerator": "auto"})
        if not torch.cuda.is_available():
            with pytest.raises(ConfigError, match=f"trainer.precision='{precision}' needs a GPU"):
                prepare(settings.model_copy(update={"trainer": trainer}))


def test_the_history_counts_updates_samples_tokens_and_time(
    project_root: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that goes on by one second whenever it is read, each batch takes one second."""
    seconds = iter(range(10**6))
    monkeypatch.setattr("leyden.training.callbacks.time.perf_counter", lambda: float(next(seconds)))
    options = ["trainer.batch_size=1", "trainer.grad_accumulation=4"]
    settings = settings_of(project_root, table, *options)
    run = train(settings, tmp_path)
    history: History = run.history
    assert history.samples == 10
    assert history.tokens == run.trainer.datamodule.train.fit.tokens
    assert history.seconds == 10
    speeds = logged(tmp_path, "train/tokens_per_second")
    assert 4 * speeds[0] + 4 * speeds[1] + 2 * speeds[2] == pytest.approx(history.tokens)
