"""Any table, and settings that may or may not go with it, as strategies of hypothesis."""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

Cells = list[Any]
Draw = Callable[..., Any]
WORDS = ["a", "b", "yes", "no", "hello there", "1", "0", "2", "0.5", "-3", "1e3", "True", "false", "日本語", "🙂 ok", "é\u0301"]
ODD = [
    None, "", " ", "\n", "\x00", "\u2028", "\ufeff", "\r\n", "'", '"', "a,b", "None", "nan", "NA", "inf", "-inf", "1e999",
    "x" * 3000, "é" * 700, "word " * 400, "<|endoftext|>", "<s>", "</s>", "<pad>", "<|prompt|>", "<|answer|>", "{{ x }}",
    "<script>", "\u202e", "\U0010ffff", "[]", "{}", "[1, 2]", '[{"role": "user", "content": "q"}]', "Open Assistant",
    0, 1, -1, 2**31, 2**63, 10**400, True, False, 0.1, 1e30, 1e39, 1e300, -0.0, math.nan, math.inf, 3.0,
    [], ["a"], [1.5], {}, {"a": 1}, [["a"]], [None], "2020-01-01", "１", "٣", "1_000", " 1 ", "0x1", "+1",
]  # fmt: skip
STORED_ONLY = [
    b"\xff", dt.date(2020, 1, 1), dt.datetime(2020, 1, 1, 12), dt.datetime(1, 1, 1), dt.time(1, 2), dt.timedelta(1),
    decimal.Decimal("1.50"), decimal.Decimal("NaN"),
]  # fmt: skip
ROLES = ["user", "assistant", "system", "human", "gpt", "tool", "robot", ""]


@dataclass(frozen=True)
class Case:
    """A table as a file of this kind, and what is asked of it: choices of groups, and keys with their values."""

    kind: str
    names: Sequence[str]
    columns: Sequence[Cells]
    choices: tuple[str, ...]
    changes: Mapping[str, Any]
    damage: int | None = None

    def write(self, folder: Path, name: str = "table") -> Path:
        """The file; json lines and csv may say a name twice."""
        path = folder / f"{name}.{self.kind}"
        WRITERS[self.kind](path, self.names, self.columns)
        if self.damage is not None:
            content = path.read_bytes()
            place = self.damage % len(content)
            path.write_bytes(content[:place] + bytes([self.damage % 256]) + content[place + 1 :])
        return path


def _write_csv(path: Path, names: Sequence[str], columns: Sequence[Cells]) -> None:
    def text(cell: Any) -> str:
        if isinstance(cell, list | dict):
            return json.dumps(cell)
        return "" if cell is None else str(cell) if not isinstance(cell, int) else f"{cell:d}"

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([[text(cell) for cell in row] for row in zip(*columns, strict=True)])


def _write_jsonl(path: Path, names: Sequence[str], columns: Sequence[Cells]) -> None:
    def line(row: Sequence[Any]) -> str:
        cells = [(name, cell) for name, cell in zip(names, row, strict=True)]
        return "{" + ", ".join(f"{json.dumps(name)}: {json.dumps(cell, default=str)}" for name, cell in cells) + "}\n"

    path.write_text("".join(line(row) for row in zip(*columns, strict=True)), encoding="utf-8")


def _write_parquet(path: Path, names: Sequence[str], columns: Sequence[Cells]) -> None:
    def array(cells: Cells) -> pa.Array:
        try:
            return pa.array(cells)
        except (pa.ArrowException, OverflowError, ValueError):
            return pa.array([None if cell is None else str(cell) for cell in cells])

    pq.write_table(pa.Table.from_arrays([array(cells) for cells in columns], names=list(names)), path)


WRITERS: dict[str, Callable[[Path, Sequence[str], Sequence[Cells]], None]]
WRITERS = {"csv": _write_csv, "jsonl": _write_jsonl, "parquet": _write_parquet}

TEXT = st.sampled_from(WORDS) | st.sampled_from(WORDS) | st.text(min_size=1, max_size=9)
MESSAGE = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": TEXT | st.sampled_from([None, "", 1, ["a"]])}),
    st.fixed_dictionaries({"from": st.sampled_from(ROLES), "value": TEXT}),
    st.sampled_from([{}, None, "text", {"role": "user"}, {"role": "user", "content": "q", "weight": 0}]),
)


@st.composite
def _conversation(draw: Draw) -> Any:
    """Mostly a good one: it may start with a system text, and turns take turns."""
    if not draw(st.integers(0, 7)):
        return draw(st.lists(MESSAGE, max_size=4))
    turns = draw(st.integers(1, 3))
    system = [{"role": "system", "content": draw(TEXT)}] if draw(st.booleans()) else []
    return system + [
        {"role": role, "content": draw(TEXT)} for _ in range(turns) for role in ("user", "assistant")
    ]  # fmt: skip


@st.composite
def tables(draw: Draw) -> tuple[str, dict[str, Cells], list[str]]:
    """Kind, columns, and the names of the columns as they stand in the file: one may be wrong, double or empty."""
    kind = draw(st.sampled_from(["csv", "jsonl", "parquet"]))
    rows = draw(st.sampled_from([4, 5, 6, 6, 9, 2, 3, 8, 7, 1]))
    odd = [*ODD, *(STORED_ONLY if kind == "parquet" else [])]
    good = {
        "p": TEXT, "q": TEXT, "s": st.sampled_from(["", "be kind", "system"]), "a": TEXT, "r": TEXT,
        "y": st.sampled_from([0, 1]), "z": st.sampled_from([0, 1]), "c": st.sampled_from(["x", "y", "é"]),
        "k": st.integers(0, 3), "n": st.floats(-100, 100) | st.integers(-5, 5), "w": st.sampled_from([1, 0, 0.5, 2]),
        "m": _conversation(), "chosen": _conversation(), "d": st.dates(dt.date(1900, 1, 1)),
    }  # fmt: skip
    columns = {name: draw(st.lists(cells, min_size=rows, max_size=rows)) for name, cells in good.items()}
    for _ in range(draw(st.sampled_from([0, 0, 1, 2, 4]))):
        columns[draw(st.sampled_from(list(good)))][draw(st.integers(0, rows - 1))] = draw(st.sampled_from(odd))
    columns["d"] = [cell if kind == "parquet" else str(cell) for cell in columns["d"]]
    columns["rejected"] = [
        [*cell[:-1], {"role": "assistant", "content": "worse"}] if isinstance(cell, list) and cell else cell
        for cell in columns["chosen"]
    ]
    columns["id"] = list(range(rows))
    columns["parent"] = [draw(st.sampled_from([None, *range(row)])) for row in range(rows)]
    if not draw(st.integers(0, 5)):
        name = draw(st.sampled_from(["id", "parent"]))
        columns[name][draw(st.integers(0, rows - 1))] = draw(st.sampled_from([*range(rows), *odd]))
    names = list(columns)
    if not draw(st.integers(0, 15)):
        names[draw(st.integers(0, len(names) - 1))] = draw(st.sampled_from(["p", "", " ", "é", "loss", "prediction"]))
    return kind, columns, names


ANY_COLUMN = st.sampled_from(["p", "q", "s", "a", "r", "y", "c", "k", "n", "w", "m", "id", "parent", "d", "nowhere", "é", ""])
ANSWERS: dict[str, st.SearchStrategy[Any]] = {
    "classification": st.sampled_from(["y", "c", "k", ["y"], ["y", "z"], ["y", "k"], "a", "n", "s"]),
    "regression": st.sampled_from(["n", "y", ["n"], ["n", "k"], ["n", "n"], "a", "w"]),
}  # fmt: skip
LOSSES = {
    "causal_lm": ["token_averaged_cross_entropy", "sample_averaged_cross_entropy"],
    "seq2seq": ["token_averaged_cross_entropy", "sample_averaged_cross_entropy"],
    "dpo": ["dpo", "ipo", "hinge", "kto_pair", "cpo", "simpo"],
    "classification": ["label_cross_entropy", "cross_entropy", "binary_cross_entropy"],
    "regression": ["squared_error", "absolute_error"],
}
METRICS = {
    "causal_lm": ["perplexity", "bleu", "rouge", "chrf", "exact_match"],
    "seq2seq": ["perplexity", "bleu", "exact_match"],
    "dpo": ["perplexity", "chrf"],
    "classification": ["auc", "accuracy", "log_loss", "f1"],
    "regression": ["mse", "mae", "r2", "spearman"],
}
RARE: dict[str, list[Any]] = {
    "dataset.prompt_column": [["p", "q"], ["q", "p", "s"], [], ["p", "p"], "d", "n", "m", "nowhere"],
    "dataset.prompt_column_separator": ["", " ", "\\n", "\\x", "日"],
    "dataset.system_column": ["s", "q", "nowhere", "n"],
    "dataset.weight_column": ["w", "w", "n", "p", "nowhere"],
    "dataset.rejected_prompt_column": ["q", "p", "nowhere"],
    "dataset.limit_chained_samples": [False],
    "dataset.mask_prompt_labels": [False],
    "dataset.only_last_answer": [True],
    "dataset.chat_template": [True],
    "dataset.personalize": [True],
    "dataset.add_eos_token_to_answer": [False],
    "dataset.add_eos_token_to_prompt": [True, False],
    "dataset.text_answer_separator": ["", "\\n", "日本", "\\u", " "],
    "dataset.text_prompt_start": ["", "\\n", "Q:"],
    "dataset.data_sample": [0.5, 0.01, 0.99],
    "dataset.data_sample_choice": [["train"], ["validation"], []],
    "dataset.validation_size": [0.1, 0.01, 0.9],
    "dataset.split_seed": [0, 7],
    "tokenizer.max_length": [1, 2, 3, 8, 24, 30, 512],
    "tokenizer.padding_quantile": [0.0, 0.5, 0.01],
    "tokenizer.add_prompt_answer_tokens": [True],
    "augmentation.token_mask_probability": [0.3, 0.99],
    "augmentation.skip_parent_probability": [0.5, 1.0],
    "augmentation.random_parent_probability": [0.5, 1.0],
    "augmentation.neftune_noise_alpha": [5.0],
    "problem.num_classes": [1, 2, 3, 4, 50],
    "problem.class_weights": ["balanced", [0.0, 1.0], [1.0, 2.0, 3.0], [0.0, 0.0], [1.0], []],
    "problem.standardize": [False],
    "problem.max_target_length": [1, 3],
    "trainer.batch_size": [1, 3, 16],
    "trainer.grad_accumulation": [2, 5],
    "trainer.drop_last_batch": [True],
    "trainer.max_bad_steps": [1, 3],
    "trainer.evaluate_before_training": [False],
    "trainer.evaluation_epochs": [0.5, 2.0],
    "trainer.epochs": [0, 2],
    "generation.batch_size_inference": [1, 3],
    "generation.num_beams": [2],
    "generation.stop_tokens": ["a", ",", "\\n", "日"],
    "backbone.attention_implementation": ["dense", "sdpa", "eager", "segments"],
    "backbone.gradient_checkpointing": [True],
    "lora": [None],
    "cache": ["off"],
    "seed": [-1, 3],
}
HEADS = ("classification", "regression")
TOKENS = ("causal_lm", "seq2seq")
UNFIT: dict[str, Sequence[str]] = {  # which problems have no use for it; it is drawn for them all the same, but rarely
    "dataset.system_column": HEADS,
    "dataset.rejected_prompt_column": (*HEADS, *TOKENS),
    "dataset.limit_chained_samples": ("dpo",),
    "augmentation.skip_parent_probability": HEADS,
    "augmentation.random_parent_probability": HEADS,
    "problem.num_classes": ("regression", "dpo", *TOKENS),
    "problem.class_weights": ("regression", "dpo", *TOKENS),
    "problem.standardize": ("classification", "dpo", *TOKENS),
    "problem.max_target_length": (*HEADS, "dpo", "causal_lm"),
}


@st.composite
def cases(draw: Draw) -> Case:
    """A table and settings, most of which go together."""
    kind, columns, names = draw(tables())
    problem = draw(st.sampled_from(list(LOSSES)))
    form = draw(st.sampled_from(["table", "table", "table", "table", "auto", "messages"]))
    choices = (
        f"problem={problem}", f"problem/loss={draw(st.sampled_from(LOSSES[problem]))}", f"dataset={form}",
        f"metric={draw(st.sampled_from(METRICS[problem]))}",
        "backbone=tiny_t5" if problem == "seq2seq" else "backbone=tiny",
    )  # fmt: skip
    changes: dict[str, Any] = {"dataset.validation_size": draw(st.sampled_from([0.3, 0.5]))}
    if form == "table":
        changes |= {"dataset.prompt_column": "p", "dataset.answer_column": draw(ANSWERS.get(problem, st.just("a")))}
        if problem == "dpo":
            changes["dataset.rejected_answer_column"] = "r"
        if problem not in ANSWERS and draw(st.booleans()):
            changes |= {"dataset.id_column": "id", "dataset.parent_id_column": "parent"}
        if not draw(st.integers(0, 8)):
            key = draw(st.sampled_from(["prompt", "answer", "rejected_answer", "id", "parent_id", "system", "weight"]))
            changes[f"dataset.{key}_column"] = draw(ANY_COLUMN | st.none())
    elif form == "messages" and problem == "dpo":
        changes |= {
            "dataset.format": "preferences", "dataset.messages_column": None, "dataset.prompt_column": "prompt",
            "dataset.answer_column": "chosen", "dataset.rejected_answer_column": "rejected",
        }  # fmt: skip
    elif form == "messages":
        changes["dataset.messages_column"] = draw(st.sampled_from(["m", "m", "m", "chosen", ["m", "chosen"], "p"]))
    else:  # what is not found by its cells is found by its name
        kept = draw(st.lists(st.sampled_from(names), min_size=2, max_size=5, unique=True))
        renamed = dict(zip(kept, draw(st.permutations(["prompt", "answer", "text", "label", "messages"])), strict=False))
        columns = {name: columns[name] for name in columns if name in kept}
        names = [renamed[name] if draw(st.booleans()) else name for name in columns]
    fitting = [key for key in RARE if problem not in UNFIT.get(key, ())] if draw(st.integers(0, 12)) else list(RARE)
    for key in draw(st.lists(st.sampled_from(fitting), max_size=4, unique=True)):
        changes[key] = draw(st.sampled_from(RARE[key]))
    if draw(st.booleans()):
        changes["dataset.validation_strategy"] = "custom"
    damage = draw(st.integers(1, 5000)) if not draw(st.integers(0, 30)) else None
    return Case(kind, names, list(columns.values()), choices, changes, damage)
