"""Tables become sources: texts by role, labels and weights, and who answers whom; every fault at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from leyden.data import cells
from leyden.data.cells import ANSWER, WEIGHT, Role, gathered
from leyden.data.conversations import Threads
from leyden.data.detection import Purpose, arrange, detect
from leyden.data.integers import Integers
from leyden.data.labels import Labels, read_labels, read_weights
from leyden.data.messages import TURNS
from leyden.data.mixing import read_tables
from leyden.data.personalization import personalized
from leyden.data.table import Note, Table, absent_columns, require_columns
from leyden.data.texts import Texts
from leyden.settings.data_groups import Dataset
from leyden.settings.errors import DataError
from leyden.settings.escapes import decode_escapes

Targets = Literal["text", "classes", "numbers"]
COLUMN_KEYS = (
    "messages_column", "system_column", "prompt_column", "answer_column", "rejected_prompt_column",
    "rejected_answer_column", "parent_id_column", "id_column",
)  # fmt: skip
AS_TURNS = {f"{name}_column": name for name in TURNS}  # what lists of messages become


@dataclass(frozen=True)
class Source:
    """A table with its texts by role, and how its rows hang together.

    Attributes:
        table: the file.
        texts: for each role one text per row of the table; a role without a column is absent.
        missing: for each role the rows whose cell is empty; for labels those that lack one.
        threads: who answers whom.
        warnings: what was odd but not wrong.
        labels: of problems with labels, which have no role "answer"; None for the others, and without the columns.
        weights: float32 [rows], share of each row in the loss; None: all count alike.
    """

    table: Table
    texts: dict[Role, Texts[str]]
    missing: dict[Role, Integers]
    threads: Threads
    warnings: list[str] = field(default_factory=list)
    labels: Labels | None = None
    weights: NDArray[np.float32] | None = None


def read_source(  # noqa: PLR0913
    dataset: Dataset,
    names: str | Sequence[str],
    setting: str,
    *,
    optional: Sequence[str] = (),
    answers: bool = True,
    targets: Targets = "text",
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
) -> Source:
    """Read one table, or several as one, and check the cells.

    Args:
        dataset: names the columns.
        names: paths, `embedded:NAME` or `hub:owner/name`.
        setting: the setting that names it, for messages.
        optional: settings whose column may be absent, with a warning.
        answers: every row must have its answer or labels; false: they are used where they are (for prediction).
        targets: what the answer columns hold.
        num_classes: as in `Labels`; None: from the table.
        class_names: of the table that was trained on; None: this is that table.

    Raises:
        ConfigError: `num_classes` does not fit the labels.
        DataError: every fault of the table at once.
    """
    dataset, table = _arranged(dataset, [names] if isinstance(names, str) else names, setting, complete=answers)
    faults: list[str] = []
    wanted = {key: value for key, value in cells.columns_of(dataset).items() if value}
    lacking = absent_columns(table, wanted)
    with gathered(faults):
        require_columns(table, {key: value for key, value in wanted.items() if key not in optional})
    warnings = [*table.notes, *(cells.without(table, key, column) for key, column in lacking if key in optional)]
    present = {key: value for key, value in wanted.items() if key not in dict(lacking)}
    spoken = {key: value for key, value in present.items() if targets == "text" or key != ANSWER}
    texts, missing = cells.texts_by_role(table, spoken, decode_escapes(dataset.prompt_column_separator), faults)
    faults += cells.missing_answers(table, present, missing) if answers else []
    labels = weights = threads = None
    if targets != "text" and ANSWER in present:
        with gathered(faults):
            labels = read_labels(table, dataset.answer_columns, targets, num_classes, class_names, complete=answers)
            missing["answer"] = Integers(np.flatnonzero(np.isnan(labels.values).any(axis=1)))
    if WEIGHT in present:
        with gathered(faults):
            weights = read_weights(table, str(dataset.weight_column))
    with gathered(faults):
        threads = cells.linked_rows(table, present, texts, missing)
    if targets != "text" and answers and not faults:
        faults += cells.empty_prompts(table, texts["prompt"], missing["prompt"])
    if faults or threads is None:
        raise DataError(faults)
    warnings += [*threads.warnings, *(labels.warnings if labels else ())]
    warnings += cells.equal_pairs(table, texts, threads) if answers else []
    return with_names(Source(table, texts, missing, threads, warnings, labels, weights), dataset)


def detected(dataset: Dataset, purpose: Purpose) -> tuple[Dataset, str]:
    """The settings with the columns that the training table shows, for `dataset.format=auto`, and what was found.

    Args:
        dataset: names the table alone.
        purpose: what the problem needs.

    Raises:
        ConfigError, DataError: the table cannot be read, or does not say which column is what.
    """
    found = detect(read_tables(dataset.train_tables, "dataset.train_dataframe"), purpose)
    columns = {**AS_TURNS, **found.columns} if found.form == "messages" else found.columns
    return dataset.model_copy(update={**columns, "format": found.form}), found.how


def _arranged(dataset: Dataset, names: Sequence[str], setting: str, *, complete: bool) -> tuple[Dataset, Table]:
    """The table with one row per turn, and the settings that name its columns as they are now."""
    table = read_tables(names, setting)
    if dataset.format == "columns" or dataset.format == "auto":  # noqa: PLR1714  # mypy follows one comparison at a time
        return dataset, table
    columns = {key: getattr(dataset, key) for key in COLUMN_KEYS}
    table, now, notes = arrange(table, dataset.format, columns, complete=complete)
    return dataset.model_copy(update=now), replace(table, notes=(*table.notes, *notes))


def with_names(source: Source, dataset: Dataset) -> Source:
    """Personalize, the last step of reading (rule N32): it changes no row, no split and no sample."""
    if not dataset.personalize:
        return source
    texts, counts = personalized(source.texts, dataset.chatbot_name, dataset.chatbot_author)
    note = Note(f"{source.table.path}: dataset.personalize {counts}.")
    return replace(source, texts=texts, warnings=[*source.warnings, note])
