"""The effects of the environment's settings (spec 1.8, X20, X23 to X29), and what each refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra._internal.utils import get_args_parser
from lightning.pytorch.callbacks import Callback
from tests.effects.small_runs import CONF, Columns, trained

from leyden.settings import checks_environment
from leyden.settings.checks import check
from leyden.settings.checks_training import training_advice
from leyden.settings.command import Entry, check_command
from leyden.settings.composition import compose_config
from leyden.settings.errors import ConfigError
from leyden.settings.read import parse, read
from leyden.settings.read_predict import read_predict
from leyden.settings.schema import PredictSettings, Settings
from leyden.settings.sweeps import available_cores
from leyden.training import run
from leyden.training.devices import check_device
from leyden.training.trainer import make_trainer

COLUMNS: Columns = {"p": [f"question {n}" for n in range(6)], "a": [f"answer {n}" * (1 + n % 3) for n in range(6)]}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "run", "RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "0",
}  # fmt: skip


def composed(*overrides: str) -> Settings:
    config, faults = compose_config("train", ["backbone=tiny", *overrides], CONF)
    assert not faults, faults
    assert config is not None
    return parse(config, Settings)


def faults_of(*overrides: str) -> list[str]:
    """What the checks before torch say of a command line."""
    return check(composed(*overrides), frozenset(text.partition("=")[0] for text in overrides))


def said(overrides: list[str], *words: str) -> bool:
    return any(all(word in fault for word in words) for fault in faults_of(*overrides))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer.devices=[]"], ["trainer.devices=[] names no device", "trainer=cpu"]),
        (["trainer.devices=[1,1]"], ["names a device twice"]),
        (["trainer=cpu", "trainer.devices=[0]"], ["names GPUs", "give a count"]),
        (["trainer.devices=2"], ["several processes", "trainer.strategy=auto is for one"]),
        (["trainer=ddp", "trainer.num_nodes=2"], ["trainer.num_nodes=2", "torchrun --nnodes"]),
    ],
)
def test_e1_devices_that_cannot_be_meant_are_refused(overrides: list[str], words: list[str]) -> None:
    assert said(overrides, *words)


class _Gpus:
    """A machine that says it has so many GPUs."""

    def __init__(self, patch: pytest.MonkeyPatch, count: int) -> None:
        patch.setattr(torch.cuda, "is_available", lambda: count > 0)
        patch.setattr(torch.cuda, "device_count", lambda: count)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda **options: False)


@pytest.mark.parametrize(
    ("count", "overrides", "words"),
    [
        (0, ["trainer=gpu"], "no GPU is visible here"),
        (0, ["trainer.devices=[0]"], "names GPUs, and none is used here"),
        (2, ["trainer=gpu", "trainer.devices=[0,2]", "trainer.strategy=ddp"], "this machine has 2 GPUs"),
        (2, ["trainer=ddp", "trainer.devices=3"], "this machine has 2 GPUs"),
        (2, ["trainer.devices=auto"], "means 2 GPUs here"),
        (1, ["trainer=gpu"], "has no bfloat16"),
    ],
)
def test_e1_x20_more_than_the_machine_has_is_refused(
    monkeypatch: pytest.MonkeyPatch, count: int, overrides: list[str], words: str
) -> None:
    _Gpus(monkeypatch, count)
    with pytest.raises(ConfigError, match=re.escape(words)):
        check_device(composed(*overrides))


def test_b74_torchrun_and_settings_must_agree_on_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert not faults_of("trainer=ddp", "trainer.num_nodes=2", "trainer.devices=2")
    assert said(["trainer=ddp", "trainer.devices=4"], "2 processes on this machine and 4 in all", "--nproc-per-node")
    assert said(["trainer=ddp", "trainer.devices=auto"], "does not go with torchrun")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert said(["trainer=ddp"], "WORLD_SIZE=4", "another launcher", "torchrun")


def test_a_sweep_and_predictions_under_torchrun_are_refused_before_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    for entry, line, words in (
        (Entry("train", CONF, Settings, read), ["-m", "lora.r=2,4"], "-m (a sweep) does not go with torchrun"),
        (Entry("predict", CONF, PredictSettings, read_predict), ["run=x"], "predict.py is one process"),
    ):
        with pytest.raises(ConfigError, match=re.escape(words)):
            check_command(get_args_parser().parse_args(line), entry)


class _Activations(Callback):
    """Types of what the first linear map of the model gives out in training."""

    def __init__(self) -> None:
        self.types: set[torch.dtype] = set()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        layer = next(module for module in pl_module.modules() if hasattr(module, "in_features"))
        layer.register_forward_hook(self.note)

    def note(self, module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if module.training:  # not in the predictions after the training
            self.types.add(output.dtype)


@pytest.mark.parametrize(
    ("word", "activations", "scaler"),
    [("32-true", torch.float32, False), ("bf16-mixed", torch.bfloat16, False), ("bf16-true", torch.bfloat16, False)],
)
def test_e2_x20_the_precision_is_that_of_the_activations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, activations: torch.dtype, scaler: bool
) -> None:
    seen, made = _Activations(), []

    def make(settings: Any, callbacks: Any, loggers: Any, folder: Any) -> Any:
        made.append(make_trainer(settings, [*callbacks, seen], loggers, folder))
        return made[0]

    monkeypatch.setattr(run, "make_trainer", make)
    trained(tmp_path, COLUMNS, f"trainer.precision={word}", "checkpoint=disable")
    assert seen.types == {activations}
    assert bool(getattr(made[0].precision_plugin, "scaler", None)) is scaler


@pytest.mark.parametrize("word", ["16-mixed", "16-true"])
def test_e2_x20_half_precision_on_a_cpu_is_refused(word: str) -> None:
    assert said(["trainer=cpu", f"trainer.precision={word}"], "needs a GPU", "bf16-mixed")


@pytest.mark.parametrize("strategy", ["auto", "fsdp"])
def test_e4_find_unused_parameters_without_ddp_is_refused(strategy: str) -> None:
    words = [f"trainer.strategy={strategy}", "trainer.find_unused_parameters=true"]
    assert said(words, "trainer.find_unused_parameters has no effect here", strategy)


def test_e8_two_seeded_runs_have_the_same_losses_and_drawn_seeds_differ(tmp_path: Path) -> None:
    found = []
    for number, seed in enumerate((3, 3, -1, -1)):
        (tmp_path / str(number)).mkdir()
        folder = trained(tmp_path / str(number), COLUMNS, f"seed={seed}", "checkpoint=disable", "lora.dropout=0.3")
        rows = (folder / "metrics.csv").read_text().splitlines()
        found.append([row for row in rows if "tokens_per_second" not in row and "peak_memory" not in row])
    assert found[0] == found[1]
    assert found[2] != found[3]


DEEPSPEED = ["trainer=deepspeed_zero2"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer.accelerator=cpu"], ["needs two GPUs or more", "trainer=fsdp"]),
        (["trainer.devices=1"], ["needs two GPUs or more", "trainer=gpu"]),
        (["trainer.grad_accumulation=2"], ["trainer.grad_accumulation=2 does not go with", "trainer.batch_size"]),
        (["trainer.precision=64-true"], ["trainer.precision=64-true does not go with"]),
        (["trainer.deepspeed.stage3_max_live_parameters=2000000"], ["has no effect here", "deepspeed_stage_2"]),
        (["trainer.max_bad_steps=3"], ["trainer.max_bad_steps has no effect here"]),
    ],
)
def test_x23_to_x29_what_deepspeed_cannot_do_is_refused(overrides: list[str], words: list[str]) -> None:
    assert said([*DEEPSPEED, *overrides], *words)


def test_x23_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks_environment, "find_spec", lambda name: None)
    assert said(DEEPSPEED, "needs the package deepspeed", "pip install -e '.[deepspeed]'")
    monkeypatch.setattr(checks_environment, "find_spec", lambda name: object())
    assert not faults_of(*DEEPSPEED)


@pytest.mark.parametrize("key", ["reduce_bucket_size", "allgather_bucket_size", "stage3_prefetch_bucket_size"])
def test_x25_to_x29_keys_of_the_engine_need_their_strategy_and_a_million(key: str) -> None:
    assert said([f"trainer.deepspeed.{key}=2000000"], f"trainer.deepspeed.{key} has no effect here", "auto")
    with pytest.raises(ConfigError, match="at least 1000000"):
        composed(f"trainer.deepspeed.{key}=999999")


def test_e7_more_workers_than_cores_are_warned_about() -> None:
    cores = available_cores()
    (said,) = training_advice(composed(f"trainer.number_of_workers={cores + 1}"))
    assert said.startswith(f"trainer.number_of_workers={cores + 1} is more than the {cores} cores of this machine")
    assert not list(training_advice(composed(f"trainer.number_of_workers={cores}")))
