"""One peer on one case, in a process of its own: `python -m benchmarks.peers WORK ARM RESULT`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch.utils.data import DataLoader, Sampler
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from benchmarks.clock import Clock
from benchmarks.result import Result, write_result
from benchmarks.work import Work, read_work


class GivenOrder(Sampler[list[int]]):
    """The batches of a work, epoch after epoch."""

    def __init__(self, work: Work) -> None:
        self.epochs = work.epochs
        self.epoch = 0

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.epochs[0])

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of the next epoch."""
        epoch, self.epoch = self.epoch, self.epoch + 1
        return iter(self.epochs[epoch])


def timed(trainer: type[Any], work: Work, clock: Clock) -> type[Any]:
    """A trainer of the library's kind that takes the batches in the given order and notes the loss of each."""

    class Timed(trainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(self.train_dataset, batch_sampler=GivenOrder(work), collate_fn=self.data_collator)

        def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
            return clock.saw(super().training_step(*arguments, **named))

    return Timed


def arguments(work: Work, folder: str) -> dict[str, Any]:
    """Arguments of the library's trainers that say the same as the settings of the case."""
    return {
        "output_dir": folder, "per_device_train_batch_size": work.batch_size, "num_train_epochs": len(work.epochs),
        "learning_rate": work.learning_rate, "lr_scheduler_type": "constant", "max_grad_norm": work.clip,
        "optim": "adamw_torch_fused", "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8,
        "weight_decay": 0.0, "bf16": work.precision == "bfloat16", "use_cpu": True,
        "save_strategy": "no", "logging_strategy": "no", "report_to": "none", "disable_tqdm": True,
        "dataloader_num_workers": 0, "dataloader_pin_memory": False,
    }  # fmt: skip


def load_base(work: Work) -> PreTrainedModel:
    """The weights below the adapter, in the type of the case."""
    auto: Any = AutoModelForSequenceClassification if work.head else AutoModelForCausalLM
    names = {int(number): name for number, name in work.head.get("id2label", {}).items()}
    head = {**work.head, **({"id2label": names} if names else {})}
    model: PreTrainedModel = auto.from_pretrained(work.base, dtype=getattr(torch, work.precision), **head)
    return model


def load_adapted(work: Work) -> PeftModel:
    """The model that is trained, as it is before the first update."""
    model = load_base(work)
    model.config.use_cache = False
    return PeftModel.from_pretrained(model, work.adapter, is_trainable=True)


def load_tokenizer(work: Work) -> PreTrainedTokenizerBase:
    """The tokenizer; the library's trainers pad on the right."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(work.tokenizer)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def run_peer(work: Work, arm: str) -> Result:
    """Train one peer and measure it."""
    if arm == "trl":
        from benchmarks.trl_arm import make_trl as make
    else:
        from benchmarks.trainer_arm import make_trainer as make
    clock = Clock()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        trainer = make(work, partial(timed, work=work, clock=clock), arguments(work, folder), clock)
        trainer.train()
    return clock.result(arm)


if __name__ == "__main__":
    write_result(run_peer(read_work(Path(sys.argv[1])), sys.argv[2]), Path(sys.argv[3]))
