"""How rows are read: with which tokenizer, and how much of each sample."""

from __future__ import annotations

import logging

from transformers import PreTrainedTokenizerBase

from leyden.backbone.checkpoint import Checkpoint, load_tokenizer
from leyden.backbone.generate import pad_id
from leyden.data.dataset import Limits, TreeDataset
from leyden.data.detection import Purpose
from leyden.data.sources import detected
from leyden.problem.base import Problem
from leyden.settings.checks import check
from leyden.settings.errors import ConfigError
from leyden.settings.escapes import decode_escapes
from leyden.settings.schema import Settings

log = logging.getLogger(__name__)

PURPOSES: dict[str, Purpose] = {"tokens": "answers", "pair": "pairs", "classes": "labels", "numbers": "labels"}


def find_columns(settings: Settings) -> Settings:
    """With `dataset.format=auto` the columns that the training table shows; otherwise the settings as they are.

    Raises:
        ConfigError, DataError: the table does not say which column is what, or what it shows does not go together.
    """
    if settings.dataset.format != "auto":
        return settings
    dataset, how = detected(settings.dataset, PURPOSES[settings.problem.scores])
    log.info("%s", how)
    found = settings.model_copy(update={"dataset": dataset})
    if faults := check(found):
        raise ConfigError(faults)
    return found


def make_tokenizer(checkpoint: Checkpoint, settings: Settings) -> tuple[PreTrainedTokenizerBase, list[str]]:
    """The tokenizer of a checkpoint, with the text markers as tokens if `tokenizer.add_prompt_answer_tokens` says so.

    Returns:
        The tokenizer, and what to say about it.
    """
    tokenizer = load_tokenizer(checkpoint, settings.tokenizer.tokenizer_kwargs)
    if not settings.tokenizer.add_prompt_answer_tokens:
        return tokenizer, []
    data, key = settings.dataset, "tokenizer.add_prompt_answer_tokens=true"
    texts = (data.text_system_start, data.text_prompt_start, data.text_answer_separator)
    markers = [text for text in (decode_escapes(text).strip() for text in texts) if text]
    before = len(tokenizer)
    tokenizer.add_tokens(list(dict.fromkeys(markers)))
    lines = [] if markers else [f"{key} adds nothing, because every text marker is empty."]
    frozen = settings.lora is not None and not any("embed" in entry for entry in settings.lora.unfreeze_layers)
    if len(tokenizer) > before and frozen:
        lines.append(
            f"{key} adds {len(tokenizer) - before} tokens whose embeddings stay random, because the adapter leaves the "
            "embedding frozen. Set lora.unfreeze_layers=[embed]."
        )
    return tokenizer, lines


def make_limits(
    settings: Settings, problem: Problem, tokenizer: PreTrainedTokenizerBase, *, known: bool = True
) -> Limits:
    """How much of each sample the model reads.

    Args:
        settings: of the run.
        problem: says what stands in the answer column.
        tokenizer: of the backbone.
        known: whether the table has answers.
    """
    data, length = settings.dataset, settings.tokenizer.max_length
    apart = problem.head.family == "encoder_decoder"
    plain = not data.prompt_columns and data.system_column is None and data.parent_id_column is None
    starts = (tokenizer.bos_token_id, tokenizer.eos_token_id, pad_id(tokenizer))
    return Limits(
        max_length=length,
        answers=problem.targets == "text",
        target_length=(settings.problem.max_target_length or length) if apart else None,
        start_id=next(token for token in starts if token is not None),
        whole_documents=known and plain and settings.problem.scores == "tokens" and not apart,
    )


def check_readout(trees: TreeDataset, tokenizer: PreTrainedTokenizerBase, problem: Problem) -> None:
    """Refuse samples of a head that end with the token of the padding.

    A head is read at the last token of a sample. The library's classes read it at the last one that is no padding, by
    its id: with the saved model they would read such a sample one token too early.

    Args:
        trees: of the training part; all samples end alike.
        tokenizer: of the run.
        problem: of the run; without a head there is nothing to refuse.

    Raises:
        ConfigError: the first sample ends so.
    """
    padding = pad_id(tokenizer)
    if problem.head.outputs is not None and len(trees) and int(trees[0].tree.tokens[-1]) == padding:
        name = tokenizer.convert_ids_to_tokens(padding)
        raise ConfigError(
            f"dataset.add_eos_token_to_prompt: samples end with {name!r}, which is the padding of this tokenizer too. "
            "The saved model would be read one token too early. Set dataset.add_eos_token_to_prompt=false, or give "
            "the padding a token of its own, such as tokenizer.tokenizer_kwargs={pad_token: '<unk>'}."
        )
