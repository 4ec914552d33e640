"""Settings that may or may not go with a table, as a strategy of hypothesis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from tests.integration.fuzz_tables import Draw, File, files

ANY_COLUMN = st.sampled_from(
    ["p", "q", "s", "a", "r", "y", "c", "k", "n", "w", "m", "id", "parent", "d", "nowhere", "é", ""]
)
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
    "dataset.group_conversations": [False],
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
    "backbone.name": [f"tiny:{name}" for name in ("gpt2", "opt", "gemma2", "qwen3", "phi", "t5", "llama")],
    "lora.use_dora": [True],
    "lora.unfreeze_layers": [["embed"], ["nowhere"]],
    "trainer.precision": ["bf16-true", "bf16-mixed", "64-true"],
    "cache": ["off"],
    "seed": [-1, 3],
}
TRAINING: dict[str, list[Any]] = {  # how it is trained, whatever the table
    "optimizer.learning_rate": [1e-6, 1.0, "auto"],
    "optimizer.weight_decay": [0.1],
    "optimizer.differential_learning_rate_layers": [["embed"], ["lora"], ["score", "lora"], ["nowhere"], []],
    "schedule.warmup_epochs": [0.1, 1.0, 7.0],
    "schedule.min_learning_rate_ratio": [0.1],
    "trainer.batch_size": [1, 3, "auto"],
    "trainer.grad_accumulation": [2, 5, 100],
    "trainer.gradient_clip": [0.0, 0.01],
    "trainer.epochs": [0, 2, 3],
    "trainer.evaluation_epochs": [0.01, 0.3, 1.5, 9.0],
    "trainer.evaluate_before_training": [False],
    "trainer.early_stopping_patience": [1, 2],
    "trainer.early_stopping_min_delta": [0.5],
    "trainer.max_minutes": [1e-6],
    "trainer.precision": ["bf16-true", "bf16-mixed", "64-true"],
    "backbone.dtype": ["float32", "bfloat16"],
    "backbone.intermediate_dropout": [0.0, 0.3],
    "backbone.gradient_checkpointing": [True],
    "backbone.freeze_layers": [["embed"], ["layers.0."], ["layer", "head"], ["block"], ["nowhere"]],
    "backbone.pretrained": [False],
    "lora.dropout": [0.0, 0.5],
    "lora.target_modules": [["q_proj"], ["q"], ["nowhere"]],
    "lora.unfreeze_layers": [["embed"], ["norm"]],
    "checkpoint.max_gib": [1e-9],
    "log_step_size": ["relative"],
}
CHOICES = {  # groups beside the problem's own, each with what is drawn now and then
    "optimizer": ["adam", "sgd", "rmsprop", "adadelta", "adafactor", "muon"],
    "schedule": ["linear", "constant", "wsd", "inverse_sqrt", "one_cycle", "plateau"],
    "lora": ["none", "none", "none", "dora", "rslora", "ia3", "vera", "loha", "lokr", "oft"],
    "checkpoint": ["best", "best", "each_evaluation_epoch", "disable"],
    "logger": ["tensorboard"],
}
WITHOUT = {  # keys that these choices do not have
    "lora=none": ("lora.",),
    "schedule=constant": ("schedule.min",),
    "schedule=one_cycle": ("schedule.min",),
    "schedule=plateau": ("schedule.min",),
    **{f"lora={name}": ("lora.dropout",) for name in ("ia3", "vera", "loha", "lokr", "oft")},
}  # fmt: skip
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


@dataclass(frozen=True)
class Case:
    """A table, perhaps a second one, and what is asked: choices of groups, and keys with their values.

    Attributes:
        second: validates, or is trained on beside the first; None: there is one file alone.
    """

    table: File
    second: File | None
    choices: tuple[str, ...]
    changes: Mapping[str, Any]


@st.composite
def trained_how(draw: Draw, changes: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Choices of groups, and the changes with more of the training, without the keys that those choices do not have."""
    groups = draw(st.lists(st.sampled_from(list(CHOICES)), max_size=3, unique=True))
    own = [f"{group}={draw(st.sampled_from(CHOICES[group]))}" for group in groups]
    keys = draw(st.lists(st.sampled_from(list(TRAINING)), max_size=3, unique=True))
    more = {key: draw(st.sampled_from(TRAINING[key])) for key in keys}
    lacking = [key for choice in own for key in WITHOUT.get(choice, ())]
    return own, {key: value for key, value in {**changes, **more}.items() if not key.startswith(tuple(lacking))}


@st.composite
def cases(draw: Draw) -> Case:
    """A table and settings, most of which go together."""
    problem = draw(st.sampled_from(list(LOSSES)))
    form = draw(st.sampled_from(["table", "table", "table", "table", "auto", "messages"]))
    choices = (
        f"problem={problem}", f"problem/loss={draw(st.sampled_from(LOSSES[problem]))}", f"dataset={form}",
        f"metric=[{','.join(draw(st.lists(st.sampled_from(METRICS[problem]), min_size=1, max_size=2, unique=True)))}]",
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
    fitting = [key for key in RARE if problem not in UNFIT.get(key, ())] if draw(st.integers(0, 12)) else list(RARE)
    for key in draw(st.lists(st.sampled_from(fitting), max_size=4, unique=True)):
        changes[key] = draw(st.sampled_from(RARE[key]))
    own, changes = draw(trained_how(changes))
    second = draw(files(renames=form == "auto")) if not draw(st.integers(0, 3)) else None
    if draw(st.booleans()):
        changes["dataset.validation_strategy"] = "custom"
    elif second is not None and draw(st.booleans()):
        changes["dataset.train_ratios"] = draw(st.sampled_from([None, [0.5, 0.5], [1.0, 0.0], [0.1, 3.0]]))
    return Case(draw(files(renames=form == "auto")), second, (*choices, *own), changes)
