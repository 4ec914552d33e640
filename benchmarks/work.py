"""What every peer is given: token ids, labels and order as Leyden makes them, in one JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import Kind

IGNORED = -100


@dataclass(frozen=True)
class Shape:
    """What the operations of a model depend on.

    Attributes:
        frozen: entries of all linear maps below the adapter, output head left out.
        adapter: entries of the adapter's matrices.
        attended: layers times numbers of all heads.
        head: entries of the output head that is evaluated at labelled positions.
    """

    frozen: int
    adapter: int
    attended: int
    head: int


@dataclass(frozen=True)
class Work:
    """One case, ready for a peer.

    Attributes:
        kind: of the samples.
        base: folder of the weights.
        adapter: folder of the adapter as it is before the first update.
        tokenizer: folder of the tokenizer.
        head: keys of the model's config that describe its head; empty for the vocabulary.
        samples: `tokens`: input_ids, labels; `pairs`: prompt, chosen, rejected; `classes`: input_ids, label.
        epochs: for each epoch its updates, for each update the places of its samples in `samples`.
        batch_size: samples per update.
        learning_rate: constant.
        clip: of the gradient's norm.
        beta: of DPO.
        precision: `float32` or `bfloat16`.
        chained: samples of one update share beginnings, which need be computed only once.
        cut: samples that lost tokens to the limit of the length.
        shape: of the model, for counting its operations.
    """

    kind: Kind
    base: str
    adapter: str
    tokenizer: str
    head: dict[str, Any]
    samples: list[dict[str, Any]]
    epochs: list[list[list[int]]]
    batch_size: int
    learning_rate: float
    clip: float
    beta: float
    precision: str
    chained: bool
    cut: dict[str, int]
    shape: Shape

    @property
    def updates(self) -> int:
        """Of all epochs."""
        return sum(map(len, self.epochs))

    def row_tokens(self) -> int:
        """Tokens of all updates without padding, each sample by itself, the prompt of a pair once."""
        return sum(sum(len(ids) for name, ids in sample.items() if name not in ("labels", "label")) for sample in self)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The samples of all updates, in order."""
        return (self.samples[place] for epoch in self.epochs for update in epoch for place in update)


def write_work(work: Work, path: Path) -> None:
    """Write it as JSON."""
    path.write_text(json.dumps(asdict(work)), encoding="utf-8")


def read_work(path: Path) -> Work:
    """Read what `write_work` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return Work(**{**content, "shape": Shape(**content["shape"])})
