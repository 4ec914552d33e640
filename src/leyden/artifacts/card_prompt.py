"""The part of a model card about prompts: how one is written, token for token, and where that is not exact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from leyden.artifacts.markdown import block, bullets, code, table
from leyden.problem.base import Problem
from leyden.settings.data_groups import Dataset
from leyden.settings.escapes import decode_escapes
from leyden.settings.schema import Settings

SYSTEM = {"role": "system", "content": "You answer in one word."}
TALK = [
    {"role": "user", "content": "What colour is the sky?"},
    {"role": "assistant", "content": "Blue."},
    {"role": "user", "content": "And grass?"},
    {"role": "assistant", "content": "Green."},
]
CUT = {
    "samples that lost turns": "lost their oldest turns",
    "samples with a cut prompt": "lost the beginning of their prompt",
    "samples with a cut answer": "lost the end of their answer",
    "samples with a cut system text": "lost the end of their system text",
}


def prompt_format(
    settings: Settings,
    problem: Problem,
    tokenizer: PreTrainedTokenizerBase,
    counts: Mapping[str, Any],
    checked: Mapping[str, Any] | None,
) -> str:
    """What the model reads, with an example of neutral words, and what the template of the tokenizer cannot repeat.

    Args:
        settings: of the run.
        problem: of the run.
        tokenizer: with the chat template that is saved.
        counts: of the training part.
        checked: what was found in the check of the tokens; None before it.
    """
    data = settings.dataset
    inexact = bullets(_inexact(settings, counts, checked))
    if not data.prompt_columns:
        end = f", and ends with {code(tokenizer.eos_token)}" if data.add_eos_token_to_answer else ""
        return f"It reads and writes plain text, with nothing before it{end}.\n\n{inexact}"
    parts = [
        "`tokenizer.apply_chat_template(messages, add_generation_prompt=True)` writes it as in training, with the "
        "same tokens but for what is named below.",
        _tokens(data, tokenizer),
        *_example(data, problem, tokenizer),
        *([f"The prompt is made of several columns, {_joined(data)}."] if len(data.prompt_columns) > 1 else []),
        inexact,
    ]
    return "\n\n".join(parts)


def _tokens(data: Dataset, tokenizer: PreTrainedTokenizerBase) -> str:
    """What stands around the texts: a control token, or text like any other."""
    own = [data.text_system_start, data.text_prompt_start, data.text_answer_separator]
    names = [] if data.chat_template else [text for text in map(decode_escapes, own) if text]
    used = [tokenizer.bos_token, tokenizer.eos_token] if data.chat_template else [*names, tokenizer.eos_token]
    rows = []
    for name in dict.fromkeys(str(one) for one in used if one):
        ids = tokenizer(name, add_special_tokens=False)["input_ids"]
        kind = f"one token, {ids[0]}" if len(ids) == 1 else f"text, of {len(ids)} tokens"
        rows.append([code(name), kind])
    return table(["written", "is"], rows) if rows else "Nothing is written around the texts."


def _example(data: Dataset, problem: Problem, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """One conversation as the template writes it."""
    turns = 4 if data.parent_id_column or data.format == "messages" else 2
    talk = [*([SYSTEM] if data.system_column else []), *TALK[:turns]]
    try:
        asked = tokenizer.apply_chat_template(talk[:-1], tokenize=False, add_generation_prompt=True)
        answered = tokenizer.apply_chat_template(talk, tokenize=False)
    except Exception:  # noqa: BLE001  a template may raise anything to refuse a conversation
        return
    writes = problem.head.outputs is None
    until = "up to where the model goes on" if writes else "as the model reads it"
    yield f"An example, {until}:\n\n{block(str(asked))}"
    if writes and problem.head.family == "decoder":
        yield f"And with its answer:\n\n{block(str(answered))}"


def _joined(data: Dataset) -> str:
    between = f" with {code(data.prompt_column_separator)} between them" if data.prompt_column_separator else ""
    return f"{', '.join(map(code, data.prompt_columns))}, in this order{between}"


def _inexact(settings: Settings, counts: Mapping[str, Any], checked: Mapping[str, Any] | None) -> Iterator[str]:
    """Where the tokens of the training and those of the template part."""
    data, chance = settings.dataset, settings.augmentation
    yield from _found(checked)
    if data.prompt_columns:
        yield (
            "Texts are tokenised apart from what stands around them. A tokenizer that joins both ends of such a seam "
            "to one token gives other tokens for the same text."
        )
    yield "The name of a control token inside a text was text in training; in the template it is the control token."
    for key, what in CUT.items():
        if count := counts.get(key):
            yield f"{count} samples had more than {settings.tokenizer.max_length} tokens and {what}."
    if data.personalize:
        yield (
            f"Names of other assistants and their makers in the texts became {code(data.chatbot_name)} and "
            f"{code(data.chatbot_author)}."
        )
    if chance.token_mask_probability:
        yield f"Each token was hidden with a chance of {chance.token_mask_probability:g}; in use none is."
    if chance.skip_parent_probability or chance.random_parent_probability:
        yield "Earlier turns were left out, or taken from other conversations, by chance; in use none are."
    if not data.add_eos_token_to_answer and not data.chat_template:
        yield "No token ends an answer, so the model does not learn to stop; give a limit or a stop text."


def _found(checked: Mapping[str, Any] | None) -> Iterator[str]:
    """What the check of the saved tokenizer has found."""
    if checked is None or not checked.get("checked"):
        yield "The tokens of the template were not compared with those of the training."
        return
    if not checked.get("conversations"):
        return
    yield (
        f"{checked['conversations']} conversations of the training were compared, {checked['tokens_compared']} tokens: "
        f"{checked['rows_different']} have another text, {checked['rows_joined']} the same text with other tokens, and "
        f"{checked['prompts_different']} another prompt with `add_generation_prompt=True`."
    )
    for why, count in checked.get("left_out", {}).items():
        yield f"{count} conversations {why} were not compared."
