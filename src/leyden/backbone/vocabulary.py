"""The vocabulary of a model follows its tokenizer."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from leyden.backbone.generate import pad_id
from leyden.backbone.load import without_reports


def fit_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give tokens that were added to the tokenizer a row of the embedding each; name the padding where nothing does."""
    if len(tokenizer) > int(model.get_input_embeddings().num_embeddings):  # type: ignore[arg-type]
        # The library draws the new rows, and explains at length how; a reference loaded later must get the same ones.
        with without_reports(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model.resize_token_embeddings(len(tokenizer))
    if model.config.pad_token_id is None:
        model.config.pad_token_id = pad_id(tokenizer)
