"""Cells of csv files that others open: a text that a spreadsheet would take for a formula is made inert."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# What spreadsheets begin a formula with, the full-width forms included; OWASP, "CSV Injection". An apostrophe in front
# makes it text there; one more in front of what has some already, so that exactly one can be taken away again.
_LIVE = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")  # noqa: RUF001  the full-width forms are meant


def inert(cell: Any) -> Any:
    """The cell as it is written: `'` before a text that would be a formula; numbers, also those in texts, stay."""
    if not isinstance(cell, str) or not _LIVE.match(cell) or _is_number(cell):
        return cell
    return f"'{cell}"


def restored(cell: Any) -> Any:
    """The cell that `inert` was given."""
    return cell[1:] if isinstance(cell, str) and cell.startswith("'") and _LIVE.match(cell) else cell


def inert_table(table: pd.DataFrame) -> pd.DataFrame:
    """The table with every cell and every column name made inert; a copy, as far as anything changes."""
    import pandas as pd

    columns = {
        place: [inert(cell) for cell in table.iloc[:, place]]
        for place in range(table.shape[1])
        if not pd.api.types.is_numeric_dtype(table.dtypes.iloc[place])
    }
    if not columns:
        return table
    changed = [
        pd.Series(columns[place], index=table.index, dtype=object) if place in columns else table.iloc[:, place]
        for place in range(table.shape[1])
    ]
    return pd.concat(changed, axis=1).set_axis([inert(name) for name in table.columns], axis=1)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip()
