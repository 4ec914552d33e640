"""A run that was stopped and gone on with is the run that was never stopped, to the bit."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from tests.effects.small_runs import Columns, write_table
from tests.integration.stopped_runs import assert_same_bits, run, stop_after, stopped

ROWS = 14
TABLE: Columns = {
    "id": list(range(ROWS)),
    "parent": [None if row % 3 == 0 else row - 1 for row in range(ROWS)],
    "p": [f"question {row} {'x' * (row % 5)}" for row in range(ROWS)],
    "a": [f"answer {row * 7}" for row in range(ROWS)],
    "bad": [f"no {row}" for row in range(ROWS)],
    "kind": [("red", "green", "blue")[row % 3] for row in range(ROWS)],
}
CHAINS = ["dataset.id_column=id", "dataset.parent_id_column=parent", "dataset.limit_chained_samples=false"]
CASES = {
    "causal_lm": [],
    "chains_packed": [*CHAINS, "trainer.grad_accumulation=2", "trainer.tokens_per_pass=64", "lora.dropout=0.2",
        "optimizer=adamw_8bit", "optimizer.min_8bit_size=1"],
    "dpo": ["problem=dpo", "dataset.rejected_answer_column=bad", "lora.dropout=0.1", "trainer.gradient_clip=1",
        "schedule=one_cycle"],
    "classification": ["problem=classification", "dataset.answer_column=kind", "checkpoint=best",
        "optimizer=muon"],
    "seq2seq": ["problem=seq2seq", "backbone=tiny_t5", "lora=none", "checkpoint=each_evaluation_epoch"],
    "workers": [
        "trainer.number_of_workers=2", "augmentation.token_mask_probability=0.2", "trainer.grad_accumulation=4",
        "augmentation.neftune_noise_alpha=5", "schedule=plateau",
    ],
    "text_metric": ["metric=bleu", "generation.do_sample=true", "generation.temperature=0.8",
        "optimizer=schedule_free_adamw", "schedule=constant", "trainer.drop_last_batch=true"],
}  # fmt: skip


def overrides_of(folder: Path, name: str, *more: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    table = write_table(folder / "table.jsonl", TABLE)
    return [
        "backbone=tiny", "backbone.dtype=float32", "dataset=table", "trainer=cpu", "checkpoint.verify=false",
        f"dataset.train_dataframe={table}", "dataset.prompt_column=p",
        "dataset.answer_column=a", "dataset.validation_size=0.2", "trainer.progress=none", "tokenizer.max_length=128",
        "generation.max_length_inference=4", "trainer.batch_size=2", "trainer.epochs=2",
        "trainer.evaluation_epochs=0.5", f"output_directory={folder}", f"experiment_name={name}", *more,
    ]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_run_that_was_never_stopped(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped three times on its way: inside an epoch, at the end of one, before the last update."""
    run(*overrides_of(tmp_path, "whole", *CASES[case]))
    updates = json.loads((tmp_path / "whole" / "manifest.json").read_text(encoding="utf-8"))["updates"]
    folder, words = tmp_path / "cut", overrides_of(tmp_path, "cut", *CASES[case])
    for update in sorted({1, updates // 2, updates - 1}):
        with monkeypatch.context() as patch:
            stop_after(patch, update)
            end = stopped(*words)
        assert end.code == 128 + signal.SIGTERM
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        assert (manifest["status"], manifest["updates_done"]) == ("stopped", update)
        words = [f"resume={folder}"]
    run(*words)
    assert_same_bits(tmp_path / "whole", folder)
