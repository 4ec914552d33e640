"""What a disk answers that takes no more."""

from __future__ import annotations

import errno
import re

REFUSALS = frozenset({  # what a disk, its quota or its permissions answer; anything else is a fault of the program
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM,
})  # fmt: skip
IN_WORDS = re.compile(r"\(os error (\d+)\)|\[[Ee]rrno (\d+)\]")  # of libraries that raise exceptions of their own


def refusal(error: Exception) -> int | None:
    """The number of the system's error if a disk has refused something; None for any other error."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := IN_WORDS.search(str(error))):
        number = int(found[1] or found[2])
    return number if number in REFUSALS else None
