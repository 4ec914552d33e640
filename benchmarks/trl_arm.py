"""TRL as its documentation advises: loss on completions alone, the reference computed before the training."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from datasets import Dataset
from peft import PeftConfig, load_peft_weights, set_peft_model_state_dict
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from benchmarks.clock import Clock
from benchmarks.peers import load_adapted, load_base, load_tokenizer
from benchmarks.work import Work

REFERENCE_BATCH = 8  # pairs at once; forward passes alone need less memory than training


def make_trl(work: Work, timed: Callable[[type[Any]], type[Any]], arguments: dict[str, Any], clock: Clock) -> Any:
    """The trainer, ready to start; of DPO, with the reference's log-probabilities computed.

    Args:
        work: the case.
        timed: makes a trainer class that is measured.
        arguments: what all cases share.
        clock: that listens.
    """
    quick = {**arguments, "gradient_checkpointing": False}  # of TRL's own defaults, the one that saves memory for time
    return (_dpo if work.kind == "pairs" else _sft)(work, timed, quick, clock)


def _sft(work: Work, timed: Callable[[type[Any]], type[Any]], arguments: dict[str, Any], clock: Clock) -> Any:
    """Rows are tokenised already: preparation is skipped, as TRL documents for labels of one's own."""
    config = SFTConfig(**arguments, max_length=None, dataset_kwargs={"skip_prepare_dataset": True})
    return timed(SFTTrainer)(
        model=load_adapted(work),
        args=config,
        train_dataset=Dataset.from_list(work.samples),
        processing_class=load_tokenizer(work),
        callbacks=[clock],
    )


def _dpo(work: Work, timed: Callable[[type[Any]], type[Any]], arguments: dict[str, Any], clock: Clock) -> Any:
    """The adapter is made by the trainer, so that the reference is the model without it, and then given its weights."""

    class Prepared(timed(DPOTrainer)):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
            return dataset.rename_columns({name: f"{name}_ids" for name in dataset.column_names})

        def _precompute_ref_logps(self, *positional: Any, **named: Any) -> Dataset:
            begun = time.perf_counter()
            found: Dataset = super()._precompute_ref_logps(*positional, **named)
            clock.reference += time.perf_counter() - begun
            return found

    config = DPOConfig(
        **arguments, max_length=None, beta=work.beta, precompute_ref_log_probs=True,
        precompute_ref_batch_size=REFERENCE_BATCH,
    )  # fmt: skip
    trainer = Prepared(
        model=load_base(work),
        args=config,
        train_dataset=Dataset.from_list(work.samples),
        processing_class=load_tokenizer(work),
        peft_config=PeftConfig.from_pretrained(work.adapter),
        callbacks=[clock],
    )
    set_peft_model_state_dict(trainer.model, load_peft_weights(work.adapter, device="cpu"))
    return trainer
