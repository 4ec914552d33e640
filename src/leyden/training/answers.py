"""Generated answers for evaluations: what the model is shown, what it writes, what it should have written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from torch import nn
from transformers import PreTrainedTokenizerBase

from leyden.backbone.generate import Follow, generate_texts
from leyden.data.dataset import TreeDataset
from leyden.settings.model_groups import Generation

TEXT_COLUMNS = ("predicted_texts", "target_texts", "prompt_texts", "rows")


@dataclass(frozen=True)
class Answerer:
    """Answers the samples of a part.

    Attributes:
        backbone: the model, as it is at the moment.
        tokenizer: of the model.
        trees: the part.
        settings: of the generation.
        stops: strings that end an answer.
        batch_size: prompts at a time.
        seed: of the sampling.
        advance: told after each batch how many prompts are done.
        follow: as in `generate_texts`, for one sample.
    """

    backbone: nn.Module
    tokenizer: PreTrainedTokenizerBase
    trees: TreeDataset
    settings: Generation
    stops: tuple[str, ...]
    batch_size: int
    seed: int
    advance: Callable[[int], None] = lambda rows: None
    follow: Follow | None = None

    def of(self, backbone: nn.Module) -> Answerer:
        """The same of another model."""
        return replace(self, backbone=backbone)

    def generate(self, samples: Sequence[int]) -> dict[int, str]:
        """What the model answers, by sample."""
        prompts = [self.trees.conversation(sample, answered=False).history for sample in samples]
        texts = generate_texts(
            self.backbone, self.tokenizer, prompts, self.settings, self.stops,
            batch_size=self.batch_size, seed=self.seed, advance=self.advance, follow=self.follow,
        )  # fmt: skip
        return dict(zip(samples, texts, strict=True))

    def shown(self, samples: Sequence[int]) -> dict[int, str]:
        """What the model is shown, by sample: the whole dialogue up to the answer."""
        prompts = {sample: self.trees.conversation(sample, answered=False).history for sample in samples}
        return {sample: str(self.tokenizer.decode(ids)) for sample, ids in prompts.items()}

    def columns(self, samples: Sequence[int], texts: Mapping[int, str]) -> dict[str, Sequence[Any]]:
        """Columns of texts for metrics, one cell per sample."""
        part = self.trees.part
        rows = [part.samples[sample][-1] for sample in samples]
        targets = part.source.texts.get("answer")
        shown = self.shown(samples)
        return {
            "predicted_texts": [texts[sample] for sample in samples],
            "target_texts": [targets[row] if targets else "" for row in rows],
            "prompt_texts": [shown[sample] for sample in samples],
            "rows": table_rows(part.source.table.rows(rows)),
        }


def table_rows(frame: pd.DataFrame) -> list[dict[str, str]]:
    """Rows as text by column; a missing cell is the empty text."""
    found = frame.astype(object)
    cells = found.where(found.notna(), "").to_dict("records")
    return [{str(name): str(cell) for name, cell in row.items()} for row in cells]
