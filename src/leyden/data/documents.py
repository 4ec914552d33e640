"""Texts without a prompt: each becomes as many samples as it needs, so that no token of it is dropped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from leyden.data.integers import Ragged
from leyden.data.rows import Part
from leyden.data.templates import Template
from leyden.settings.errors import ConfigError


def cut_documents(part: Part, lengths: NDArray[np.int64], max_length: int, template: Template) -> tuple[Part, Ragged]:
    """One sample per piece of at most `max_length` tokens; the last piece of a text leaves room for the end token.

    Args:
        part: each sample is one row.
        lengths: tokens of each row's text, without the end token.
        max_length: of a piece.
        template: says what ends a text.

    Returns:
        The part with a sample per piece, and for each the tokens of its text that it holds, from and up to.

    Raises:
        ConfigError: a piece has no room for one token beside the end of a text.
    """
    end = len(template.layout(1, system=False).answers[0].after)
    if max_length <= end:
        raise ConfigError(f"tokenizer.max_length={max_length} has no room for a text. Raise it, to 512 for example.")
    rows: list[int] = []
    pieces: list[tuple[int, int]] = []
    for row in part.samples.last().tolist():
        length = int(lengths[row])
        for start in range(0, max(1, length), max_length):
            stop = min(start + max_length, length)
            if stop == length and stop - start + end > max_length:  # the end token goes with the last token
                rows += [row, row]
                pieces += [(start, stop - 1), (stop - 1, stop)]
                continue
            rows.append(row)
            pieces.append((start, stop))
    return replace(part, samples=Ragged(np.asarray(rows), np.arange(len(rows) + 1))), Ragged.of(pieces)
