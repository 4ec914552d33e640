"""The faults of a user, apart from the faults of the program: one exception type per kind, all faults gathered."""

from __future__ import annotations

from collections.abc import Iterable

PROGRAM_FAULT, USER_FAULT = 1, 2  # exit codes


class LeydenError(Exception):
    """Faults of settings, data or model; printed without a traceback. Exit code 2 where the user can mend them.

    Args:
        faults: one message or several. Each names the setting or file, the value, what is allowed and what to do.
    """

    kind = "error"
    code = USER_FAULT

    def __init__(self, faults: str | Iterable[str]) -> None:
        self.faults = (faults,) if isinstance(faults, str) else tuple(faults)
        super().__init__("\n".join(self.faults))


class ConfigError(LeydenError):
    """A setting is misspelt, out of range, or does not go with another; found before any data is read."""

    kind = "config error"


class DataError(LeydenError):
    """A table or a cell cannot be used; found before any weights are loaded."""

    kind = "data error"


class ModelError(LeydenError):
    """A checkpoint, tokenizer or adapter cannot be found or does not fit the problem."""

    kind = "model error"


class MetricError(LeydenError):
    """A metric or judge gave no number in an evaluation."""

    kind = "metric error"


class TrainingError(LeydenError):
    """Training cannot go on with these settings and this data, such as when no gradient is finite any more."""

    kind = "training error"


class ExportError(LeydenError):
    """A saved model is not what was trained, or could not be loaded; the folder is kept. Exit code 1."""

    kind = "export error"
    code = PROGRAM_FAULT


class UploadError(LeydenError):
    """What was exported could not be sent; the folder is kept. Exit code 1: it may go another time."""

    kind = "upload error"
    code = PROGRAM_FAULT
