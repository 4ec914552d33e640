"""What Lightning and DeepSpeed's engine are told; nothing here needs a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from leyden.settings.composition import compose_config
from leyden.settings.read import parse
from leyden.settings.schema import Settings
from leyden.settings.training_groups import Trainer
from leyden.training.strategies import engine_config, make_precision, make_strategy

CONF = Path(__file__).resolve().parents[2] / "conf"


def trainer(*overrides: str) -> Trainer:
    config, faults = compose_config("train", ["backbone=tiny", *overrides], CONF)
    assert not faults
    assert config is not None
    return parse(config, Settings).trainer


@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_e4_b55_find_unused_parameters_reaches_ddp_also_with_gradient_checkpointing(
    wanted: bool, checkpointing: bool
) -> None:
    words = [f"trainer.find_unused_parameters={wanted}", f"backbone.gradient_checkpointing={checkpointing}"]
    strategy = make_strategy(trainer("trainer=ddp", *words))
    assert isinstance(strategy, DDPStrategy)
    assert strategy._ddp_kwargs["find_unused_parameters"] is wanted


def test_fsdp_shares_among_all_devices_and_none_sees_the_rows_of_another() -> None:
    strategy = make_strategy(trainer("trainer=fsdp", "trainer.devices=3", "trainer.num_nodes=2"))
    assert isinstance(strategy, ModelParallelStrategy)
    assert (strategy._data_parallel_size, strategy._tensor_parallel_size) == (6, 1)


def test_x23_to_x26_the_engine_of_stage_2_is_told() -> None:
    words = ["trainer.deepspeed.allgather_bucket_size=2000000", "trainer.deepspeed.reduce_bucket_size=3000000"]
    config = engine_config(trainer("trainer=deepspeed_zero2", *words))
    zero = config["zero_optimization"]
    assert (zero["stage"], zero["allgather_bucket_size"], zero["reduce_bucket_size"]) == (2, 2_000_000, 3_000_000)
    assert not [name for name in zero if name.startswith("stage3")]
    assert "offload_optimizer" not in zero
    assert not config.keys() & {"gradient_accumulation_steps", "gradient_clipping"}, "Lightning sets them, once"


def test_x27_to_x29_the_engine_of_stage_3_is_told() -> None:
    knobs = {
        "stage3_prefetch_bucket_size": 2_000_000,
        "stage3_param_persistence_threshold": 3_000_000,
        "stage3_max_live_parameters": 4_000_000,
        "stage3_max_reuse_distance": 5_000_000,
    }
    words = [f"trainer.deepspeed.{name}={value}" for name, value in knobs.items()]
    config = engine_config(trainer("trainer=deepspeed_zero3", "trainer.deepspeed.offload_optimizer=true", *words))
    zero = config["zero_optimization"]
    assert zero["stage"] == 3
    assert knobs.items() <= zero.items()
    assert zero["offload_optimizer"]["device"] == "cpu"
    assert "allgather_bucket_size" not in zero


def test_x23_lightning_takes_the_engine_and_leaves_batches_alone() -> None:
    pytest.importorskip("deepspeed")
    settings = trainer("trainer=deepspeed_zero2", "trainer.deepspeed.reduce_bucket_size=3000000")
    strategy = make_strategy(settings)
    assert type(strategy).__name__ == "DeepSpeedStrategy"
    assert strategy.config["zero_optimization"]["reduce_bucket_size"] == 3_000_000  # type: ignore[union-attr, index]
    batch, plugin = object(), make_precision(settings)
    assert plugin is not None
    assert plugin.convert_input(batch) is batch
