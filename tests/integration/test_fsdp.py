"""Two CPU processes that share the weights (FSDP2) against one: the same weights and numbers, for each kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.forked_workers import forked_workers  # noqa: F401  a fixture
from tests.integration.process_runs import ROOT, assert_same_run, overrides_of, train, write_rows
from tests.integration.stopped_runs import assert_same_bits, run, stop_after, stopped

from leyden.settings.errors import TrainingError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# Ranks get unequal numbers of validation rows, and of the last training rows.
PAIRS = "dataset: {answer_column: output, rejected_answer_column: rejected, validation_size: 0.2}\n"
SHORT = "generation: {max_length_inference: 3}\n"
EXPERIMENTS = {
    "pairs": "defaults: [override /problem: dpo, override /metric: [perplexity, bleu]]\nlora: {dropout: 0}\n"
    + PAIRS + SHORT,
    "classes": "defaults: [override /problem: classification]\nlora: {dropout: 0}\n"
    "dataset: {answer_column: kind, validation_size: 0.3}\n",
    "whole": "defaults: [override /lora: none, override /checkpoint: best, override /metric: [perplexity, bleu]]\n"
    "backbone: {gradient_checkpointing: true}\ndataset: {answer_column: output, validation_size: 0.2}\n" + SHORT,
}  # fmt: skip


@pytest.mark.usefixtures("forked_workers")
def test_b74_two_processes_with_shares_of_the_weights_equal_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Effective batches of four: 4 x 1, and 2 processes x 1 row x 2 batches; adapters, a head, every weight."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    table, conf = write_rows(tmp_path / "rows.csv"), tmp_path / "conf"
    (conf / "experiment").mkdir(parents=True)
    for name, text in EXPERIMENTS.items():
        (conf / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}", encoding="utf-8")
    common = ["optimizer.eps=0.01", "optimizer.learning_rate=0.05", "trainer.gradient_clip=0.5"]
    cut = ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.batch_size=1", "trainer.grad_accumulation=2"]
    whole = ["trainer=cpu", "trainer.batch_size=4"]
    for name in EXPERIMENTS:
        # one process first: what it loads is there in those that are forked
        one = train(table, tmp_path / name, f"experiment={name}", *common, *whole, extra=conf)
        capfd.readouterr()
        two = train(table, tmp_path / f"{name}-in-two", f"experiment={name}", *common, *cut, extra=conf)
        assert "Warning" not in capfd.readouterr().err
        assert_same_run(one, two, tolerance=1e-5)


@pytest.mark.usefixtures("forked_workers")
def test_shares_of_the_weights_go_on_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write_rows(tmp_path / "rows.csv")
    words = [
        "trainer=fsdp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.batch_size=2", "lora.dropout=0.1",
        "dataset.answer_column=output", "generation.max_length_inference=3",
    ]  # fmt: skip
    run(*overrides_of(table, tmp_path / "whole", *words))
    with monkeypatch.context() as patch:
        stop_after(patch, 2)  # in each process: none waits for the other
        assert stopped(*overrides_of(table, tmp_path / "cut", *words)).code == 143
    run(f"resume={tmp_path / 'cut'}")
    assert_same_bits(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.usefixtures("forked_workers")
def test_a_copy_of_the_start_beside_shared_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    table, extra = write_rows(tmp_path / "rows.csv"), tmp_path / "conf"
    (extra / "experiment").mkdir(parents=True)
    text = "# @package _global_\ndefaults: [override /problem: dpo, override /lora: none]\n" + PAIRS
    (extra / "experiment" / "copy.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(TrainingError, match="ended with code 2"):
        train(table, tmp_path / "run", "experiment=copy", "trainer=fsdp", "trainer.accelerator=cpu", extra=extra)
    assert "this run needs a copy of the starting point" in capfd.readouterr().err
