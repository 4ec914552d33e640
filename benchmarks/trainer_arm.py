"""The plain `transformers.Trainer`: tokens with labels, or texts with classes, padded on the right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding, Trainer, TrainingArguments

from benchmarks.clock import Clock
from benchmarks.peers import load_adapted, load_tokenizer
from benchmarks.work import IGNORED, Work


def make_trainer(work: Work, timed: Callable[[type[Any]], type[Any]], arguments: dict[str, Any], clock: Clock) -> Any:
    """The trainer, ready to start.

    Args:
        work: the case.
        timed: makes a trainer class that is measured.
        arguments: what all cases share.
        clock: that listens.
    """
    model, tokenizer = load_adapted(work), load_tokenizer(work)
    model.config.pad_token_id = tokenizer.pad_token_id
    collator: Any = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED)
    if work.kind == "classes":
        collator = DataCollatorWithPadding(tokenizer)
    return timed(Trainer)(
        model=model,
        args=TrainingArguments(**arguments, remove_unused_columns=False),
        train_dataset=work.samples,
        data_collator=collator,
        processing_class=tokenizer,
        callbacks=[clock],
    )
