"""Settings that a user may well type and that do nothing, or not what was meant: each is one sentence and no run."""

from __future__ import annotations

import pytest
from hydra._internal.utils import get_args_parser
from tests.effects.small_runs import CONF

from leyden.settings.command import Entry, check_command
from leyden.settings.errors import ConfigError
from leyden.settings.read import read
from leyden.settings.schema import Settings

ENTRY = Entry("train", CONF, Settings, read)


def faults(*texts: str) -> list[str]:
    """Everything that is said of a command line; nothing if it is accepted."""
    try:
        check_command(get_args_parser().parse_args(["backbone=tiny", *texts]), ENTRY)
    except ConfigError as error:
        return list(error.faults)
    return []


ONLY_TRAINING = [
    "optimizer.learning_rate=0.1", "optimizer.weight_decay=0.1", "optimizer.betas=[0.9,0.95]",
    "schedule.warmup_epochs=0.1", "augmentation.token_mask_probability=0.1", "tokenizer.padding_quantile=0.5",
    "trainer.grad_accumulation=2", "trainer.gradient_clip=1", "trainer.drop_last_batch=true",
    "trainer.evaluation_epochs=0.5", "trainer.early_stopping_patience=1", "trainer.max_minutes=1",
    "trainer.max_bad_steps=1", "backbone.gradient_checkpointing=true",
]  # fmt: skip


def test_r8_without_training_what_only_a_training_reads_is_refused() -> None:
    keys = sorted(text.split("=")[0] for text in ONLY_TRAINING)
    assert faults("trainer.epochs=0", *ONLY_TRAINING) == [
        f"{key} has no effect here (trainer.epochs=0 trains nothing). Leave it out." for key in keys
    ]
    assert not faults("trainer.epochs=1", *ONLY_TRAINING)


def test_r25_the_evaluation_of_a_run_without_training_cannot_be_left_out() -> None:
    (fault,) = faults("trainer.epochs=0", "trainer.evaluate_before_training=false")
    assert fault.startswith("trainer.evaluate_before_training has no effect here")
    assert not faults("trainer.epochs=0", "trainer.evaluate_before_training=true")
    assert not faults("trainer.epochs=0", "optimizer=sgd", "lora.r=8")


def test_l2_one_process_of_a_strategy_for_several_is_still_one() -> None:
    (fault,) = faults("trainer=ddp", "trainer.devices=1", "log_all_ranks=true")
    assert fault == "log_all_ranks has no effect here (trainer.devices=1 is one process). Leave it out."
    assert not faults("trainer=ddp", "trainer.devices=2", "log_all_ranks=true")


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["trainer.epochs=0"], "looks for the rows of an update, and with trainer.epochs=0 there is none"),
        (
            ["trainer.drop_last_batch=true", "logger=tensorboard", "log_step_size=relative"],
            "log_step_size=relative needs to know how many samples trainer.drop_last_batch=true leaves out",
        ),
    ],
)
def test_r7_a_batch_size_that_is_still_to_be_found_goes_with_what_does_not_need_it(
    overrides: list[str], fault: str
) -> None:
    (said,) = faults("trainer.batch_size=auto", *overrides)
    assert fault in said
    assert not faults("trainer.batch_size=2", *overrides)
    assert not faults("trainer.batch_size=auto", *overrides[1:])


@pytest.mark.parametrize(
    "overrides", [["lora=loha", "lora.alpha=0", "lora.r=-1"], ["lora=vera", "lora.r=0"], ["lora=lokr", "lora.alpha=x"]]
)
def test_r17_r18_an_adapter_of_no_size_is_refused(overrides: list[str]) -> None:
    said = faults(*overrides)
    assert sorted(fault.split("=")[0] for fault in said) == sorted(text.split("=")[0] for text in overrides[1:])
    assert all(fault.endswith("Allowed: above 0.") for fault in said)


def test_r17_oft_takes_a_rank_or_the_size_of_its_blocks_and_the_other_is_0() -> None:
    oft = ("lora=vera", "lora._target_=peft.OFTConfig", "~lora.vera_dropout")
    assert not faults(*oft, "lora.r=0"), "the default of peft"
    assert not faults(*oft, "lora.r=0", "+lora.oft_block_size=32")
    for refused in (["lora.r=0", "+lora.oft_block_size=0"], ["lora.r=-1"], ["lora.r=false"]):
        (said,) = faults(*oft, *refused)
        assert said.startswith("lora.r=")


MEANT = {
    "lora.rank=8": "lora.r",
    "rank=8": "lora.r",
    "optimizer.lr=1e-3": "optimizer.learning_rate",
    "lr=1e-3": "optimizer.learning_rate",
    "trainer.max_epochs=2": "trainer.epochs",
    "trainer.max_grad_norm=1": "trainer.gradient_clip",
    "schedule.warmup_ratio=0.1": "schedule.warmup_epochs",
    "backbone.torch_dtype=bfloat16": "backbone.dtype",
}


def test_a_key_as_other_programs_call_it_is_answered_with_ours() -> None:
    said = {fault.split()[0]: fault for fault in faults(*MEANT)}
    for typed, meant in MEANT.items():
        assert said[typed.split("=")[0]].endswith(f"Did you mean {meant}?")
