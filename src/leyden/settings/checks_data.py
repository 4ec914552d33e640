"""Checks of the data settings against each other and against the disk: one sentence per fault."""

from __future__ import annotations

from collections.abc import Iterator

from leyden.settings.escapes import decode_escapes
from leyden.settings.locations import mixing_faults, table_faults
from leyden.settings.schema import Settings
from leyden.settings.wording import show

MARKERS = (
    "text_system_start text_prompt_start text_answer_separator "
    "add_eos_token_to_system add_eos_token_to_prompt add_eos_token_to_answer"
)
HEADS = ("classes", "numbers")
TEXTS_OF_OTHERS = ("system_column", "parent_id_column")


def labels(settings: Settings) -> Iterator[str]:
    """What goes with heads only, and what does not go with them."""
    data, problem = settings.dataset, settings.problem
    name = problem.target.rpartition(".")[2]
    if data.format == "auto":
        return
    if not data.answer_columns:
        yield "dataset.answer_column=[] names no column. Name one, or use dataset=auto."
    if problem.scores not in HEADS:
        if len(data.answer_columns) > 1:
            yield (
                f"dataset.answer_column={show(data.answer_column)} names {len(data.answer_columns)} columns, and "
                f"{name} writes one text. Name one column."
            )
        return
    for key in TEXTS_OF_OTHERS:
        if getattr(data, key) is not None:
            yield (
                f"dataset.{key}={show(getattr(data, key))} does not go with {name}, which reads prompts alone. "
                "Set it to null."
            )
    if not data.prompt_columns:
        yield f"dataset.prompt_column=[] leaves {name} nothing to read. Name a column."
    twice = sorted({column for column in data.answer_columns if data.answer_columns.count(column) > 1})
    if twice:
        yield f"dataset.answer_column names {', '.join(twice)} more than once. Name each column once."
    if problem.scores == "classes":
        yield from _classes(settings)


def augmentation(settings: Settings) -> Iterator[str]:
    """Turns in front of a sample, where a sample has none (U2, U3)."""
    heads, prompts = settings.problem.scores in HEADS, settings.dataset.prompt_columns
    for key in ("skip_parent_probability", "random_parent_probability"):
        value = getattr(settings.augmentation, key)
        if value and (heads or not prompts):
            why = "reads single prompts" if heads else "has no prompts (dataset.prompt_column=[])"
            name = settings.problem.target.rpartition(".")[2]
            yield f"augmentation.{key}={value} does not go with {name}, which {why}. Set it to 0."


def _classes(settings: Settings) -> Iterator[str]:
    """Rule D15, as far as it shows without the labels."""
    problem, several = settings.problem, len(settings.dataset.answer_columns) > 1
    count, loss = problem.num_classes, problem.loss.target.rpartition(".")[2]
    if several and count not in (None, len(settings.dataset.answer_columns)):
        yield (
            f"problem.num_classes={count} does not fit the {len(settings.dataset.answer_columns)} columns of "
            "dataset.answer_column, one yes-or-no label each. Set it to null."
        )
    if loss == "binary_cross_entropy" and not several and count not in (None, 1):
        yield (
            f"problem/loss=binary_cross_entropy with one answer column is for yes or no, and problem.num_classes="
            f"{count}. Use problem/loss=cross_entropy, or problem.num_classes=1."
        )
    if loss == "cross_entropy" and (several or count == 1):
        what = "several answer columns" if several else "problem.num_classes=1"
        yield (
            f"problem/loss=cross_entropy is for one class of several, not for {what}. Use "
            "problem/loss=label_cross_entropy."
        )
    weights = problem.class_weights
    if isinstance(weights, list) and not any(weights):
        yield f"problem.class_weights={weights} are all 0. Raise some of them, or use balanced or null."


def tables(settings: Settings) -> Iterator[str]:
    """The files to read."""
    data = settings.dataset
    for name in data.train_tables:
        yield from table_faults(name, "dataset.train_dataframe")
    yield from mixing_faults(data.train_tables, data.train_ratios, "dataset.train_dataframe", "dataset.train_ratios")
    if data.format == "messages" and not data.messages_column:
        yield "dataset.format=messages needs dataset.messages_column: the column with the lists of messages. Set it."
    if data.format != "messages" and data.messages_column:
        yield (
            f"dataset.messages_column={show(data.messages_column)} has no effect with dataset.format={data.format}. "
            "Use dataset=messages, or set it to null."
        )
    if data.validation_strategy == "custom":
        if data.validation_dataframe is None:
            yield (
                "dataset.validation_strategy='custom' needs a table. Set dataset.validation_dataframe=…, or "
                "dataset.validation_strategy=automatic."
            )
        else:
            yield from table_faults(data.validation_dataframe, "dataset.validation_dataframe")
    elif data.validation_dataframe is not None:
        yield (
            f"dataset.validation_dataframe={show(data.validation_dataframe)} has no effect with "
            "dataset.validation_strategy=automatic. Set dataset.validation_strategy=custom."
        )


def columns(settings: Settings) -> Iterator[str]:
    """Which column is what."""
    data = settings.dataset
    if data.format == "auto":
        return
    leaked = sorted(set(data.prompt_columns) & set(data.answer_columns))
    if leaked and data.format == "columns":
        yield (
            f"dataset.prompt_column and dataset.answer_column both name {', '.join(leaked)}, so the model would see "
            "the answer. Name different columns."
        )
    if data.weight_column is not None and data.weight_column in {*data.prompt_columns, *data.answer_columns}:
        yield f"dataset.weight_column={show(data.weight_column)} is a prompt or answer column too. Name another."
    twice = sorted({name for name in data.prompt_columns if data.prompt_columns.count(name) > 1})
    if twice:
        yield f"dataset.prompt_column names {', '.join(twice)} more than once. Name each column once."
    if settings.problem.scores == "pair":
        if data.rejected_answer_column is None:
            yield (
                "dataset.rejected_answer_column is not set, but pairs need a worse answer. Set it to the column that "
                "holds it."
            )
        elif data.rejected_answer_column == data.answer_column:
            yield (
                f"dataset.rejected_answer_column={show(data.answer_column)} is dataset.answer_column too. "
                "Name two columns."
            )
    else:
        for key in ("rejected_answer_column", "rejected_prompt_column"):
            if getattr(data, key) is not None:
                yield f"dataset.{key}={show(getattr(data, key))} has no effect without pairs. Set it to null."


def chains(settings: Settings) -> Iterator[str]:
    """Conversations by parent id."""
    data = settings.dataset
    if data.parent_id_column is not None:
        if data.id_column is None:
            yield "dataset.parent_id_column needs dataset.id_column: the column whose values it holds. Set it."
        elif data.id_column == data.parent_id_column:
            yield f"dataset.id_column={show(data.id_column)} is dataset.parent_id_column too. Name two columns."
        if settings.problem.scores == "pair" and data.rejected_prompt_column is not None:
            yield (
                f"dataset.rejected_prompt_column={show(data.rejected_prompt_column)} does not go with "
                "dataset.parent_id_column: both sides of a conversation share its history. Set one of them to null."
            )
    if settings.problem.scores == "pair" and not data.limit_chained_samples:
        yield (
            "dataset.limit_chained_samples=false does not go with pairs: only whole conversations are compared. "
            "Set it to true."
        )
    if data.only_last_answer and not data.mask_prompt_labels:
        yield (
            "dataset.only_last_answer=true does not go with dataset.mask_prompt_labels=false. Set the first to false "
            "or the second to true."
        )


def texts(settings: Settings) -> Iterator[str]:
    """Escapes in markers and stop strings."""
    data = settings.dataset
    for key in ("prompt_column_separator", "text_system_start", "text_prompt_start", "text_answer_separator"):
        try:
            decode_escapes(getattr(data, key))
        except ValueError as error:
            yield f"dataset.{key}={show(getattr(data, key))} has a broken escape: {error}."
    try:
        decode_escapes(settings.generation.stop_tokens)
    except ValueError as error:
        yield f"generation.stop_tokens={show(settings.generation.stop_tokens)} has a broken escape: {error}."
