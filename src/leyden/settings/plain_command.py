"""A command that is no Hydra app: its words in, help or the work, every fault on a line of its own, an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from leyden.settings.command import report
from leyden.settings.errors import LeydenError
from leyden.settings.stops import ended_by_signals

HELP = {"-h", "--help"}


@ended_by_signals()
def run_plain(
    work: Callable[[list[str]], None],
    usage: Callable[[], str],
    arguments: Sequence[str] | None = None,
    *,
    debug: bool = False,
) -> int:
    """Do what a command line asks for; return the exit code.

    Args:
        work: takes the words, and says what it has done.
        usage: the text of `--help`.
        arguments: of the command line; None: those of this process.
        debug: the command has a setting `debug`, which lets a fault through with its traceback.

    Returns:
        0 done; else the code of the fault: 2 for one of the user, 1 for what was made and is not as it should be.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if HELP & set(words):
        print(usage())
        return 0
    try:
        work(words)
    except LeydenError as error:
        if debug and "debug=true" in [word.lower() for word in words]:
            raise
        report(error)
        return error.code
    return 0
