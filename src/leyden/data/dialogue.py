"""What was typed becomes a source like that of a table: a dialogue with a row per turn, its last prompt unanswered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from leyden.data.conversations import Threads
from leyden.data.dataset import TreeDataset
from leyden.data.files import File
from leyden.data.integers import Integers
from leyden.data.rows import Part
from leyden.data.sources import Source, with_names
from leyden.data.table import Table
from leyden.data.texts import Texts, rows_with
from leyden.data.tokenization import control_tokens
from leyden.settings.data_groups import Dataset
from leyden.settings.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def dialogue_part(dataset: Dataset, prompts: Sequence[str], answers: Sequence[str], system: str | None) -> Part:
    """A part of one sample: the dialogue up to its last prompt, which is to be answered.

    Args:
        dataset: says whether names are changed, as in the texts of a table.
        prompts: of all turns, oldest first, at least one.
        answers: of all turns but the last.
        system: text in front of them; None or empty: none.
    """
    last = len(answers)
    texts = {"prompt": list(prompts)}
    if answers:
        texts["answer"] = [*answers, ""]
    if system:
        texts["system"] = [system] + [""] * last
    path = Path("prompt")
    table = Table(path, pd.DataFrame(texts), range(1, last + 2), (File(path, "text", ""),))
    threads = Threads([None, *range(last)], [0] * (last + 1), [])
    missing = {role: Integers([last] if role == "answer" else []) for role in texts}
    source = Source(table, {role: Texts.of(cells) for role, cells in texts.items()}, missing, threads)
    source = with_names(source, dataset)
    return Part(source, Integers(range(last + 1)), threads.chains([last]))


def remarks(trees: TreeDataset, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """What had to go of a dialogue so that the model can read it, and what in its last prompt is not what it seems.

    Args:
        trees: of a part from `dialogue_part`.
        tokenizer: of the model.
    """
    cut, limit = trees.conversation(0, answered=False).cut, f"tokenizer.max_length={trees.limits.max_length}"
    if cut["turns"]:
        yield f"The oldest {counted(cut['turns'], 'turns')} did not fit and went ({limit})."
    if cut["prompt"]:
        yield f"The prompt is too long and lost its beginning ({limit})."
    if cut["system"]:
        yield f"The system text is too long and lost its end ({limit})."
    last = len(trees.part.rows) - 1
    if rows_with(trees.part.source.texts, control_tokens(tokenizer), [last]):
        yield "The prompt holds the name of a control token, which is read as plain text."
