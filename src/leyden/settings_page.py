"""Write the page of all settings, docs/settings.md: `python -m leyden.settings_page`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from leyden.settings.command import report
from leyden.settings.errors import USER_FAULT, LeydenError
from leyden.settings.read_predict import CONFIG_DIR
from leyden.settings.reference import settings_page
from leyden.settings.stops import ended_by_signals

PAGE = CONFIG_DIR.parent / "docs" / "settings.md"
STALE = 1


@ended_by_signals()
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or say whether it is what the code and the config files make of it.

    Args:
        arguments: of the command line; None: those of this process.

    Returns:
        0 done, 1 stale, 2 a config file that does not compose.
    """
    parser = argparse.ArgumentParser("python -m leyden.settings_page", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page is stale")
    options = parser.parse_args(arguments)
    try:
        text = settings_page(CONFIG_DIR)
    except LeydenError as error:
        report(error)
        return USER_FAULT
    if options.check:
        fresh = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print(f"{PAGE.name} is {'up to date' if fresh else 'stale. Write it anew: make docs'}.")
        return 0 if fresh else STALE
    PAGE.write_text(text, encoding="utf-8")
    print(f"{PAGE} is written.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
