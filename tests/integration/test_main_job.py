"""The main job on the real 135M checkpoint, on a part of the embedded table: does it learn, and does its model load?

Of so few rows, cut short, it learns in six or nine updates of a sample, at higher rates than the whole table is given.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
SMALL = [
    "backbone=llama", "dataset.data_sample_choice=[train,validation]", "generation.max_length_inference=2",
    "tokenizer.max_length=96", "trainer.batch_size=1", "experiment_name=run", "output_directory=.",
    "checkpoint.verify=false",
]  # fmt: skip
FRESH_PROCESS = """
import sys
for name in ("leyden", "bitsandbytes", "boto3", "scipy", "sklearn"):
    sys.modules[name] = None          # any import of it fails from here on; the others only take time
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

folder, prompt, answer = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoPeftModelForCausalLM.from_pretrained(folder).eval()
shown = tokenizer(prompt, add_special_tokens=False).input_ids
ids = torch.tensor([shown + tokenizer(answer, add_special_tokens=False).input_ids + [tokenizer.eos_token_id]])
with torch.no_grad():
    logps = model(ids).logits[0, :-1].log_softmax(-1)
print(float(logps.gather(1, ids[0, 1:, None])[len(shown) - 1 :].sum()))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_dpo_learns_to_prefer_and_its_adapter_loads_elsewhere(run_here: Cli, tmp_path: Path) -> None:
    own = ["dataset.data_sample=0.02", "optimizer.learning_rate=1e-3"]
    done = run_here(["train.py", "problem=dpo", *SMALL, *own], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["final"]["validation/preference_accuracy"] >= 0.85
    assert results["final"]["validation/reward_margin"] > 0
    assert results["final"]["validation/loss"] < results["before"]["validation/loss"] == pytest.approx(0.6931, abs=1e-4)
    row = pd.read_parquet(tmp_path / "run" / "predictions.parquet").dropna(subset=["chosen_logp"]).iloc[0]
    fresh = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, str(tmp_path / "run" / "model"), row.prompt_text, row.target],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert fresh.returncode == 0, fresh.stderr
    assert float(fresh.stdout.splitlines()[-1]) == pytest.approx(row.chosen_logp, rel=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_causal_lm_lowers_the_perplexity_of_held_out_rows_by_a_third(run_here: Cli, tmp_path: Path) -> None:
    own = ["dataset.data_sample=0.03", "optimizer.learning_rate=5e-3"]
    done = run_here(["train.py", *SMALL, *own], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    before, final = (results[name]["validation/perplexity"] for name in ("before", "final"))
    assert final < 0.7 * before
