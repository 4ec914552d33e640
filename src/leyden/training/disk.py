"""What a disk answers that takes no more."""

from __future__ import annotations

import errno
import re

REFUSALS = frozenset({  # what a disk, its quota or its permissions answer; anything else is a fault of the program
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM,
})  # fmt: skip
IN_WORDS = re.compile(r"\(os error (\d+)\)|\[[Ee]rrno (\d+)\]")  # of libraries that raise exceptions of their own


def refusal(error: Exception) -> int | None:
    """The number of the system's error if a disk has refused something; None for any other error.

    Some libraries raise another error on the way out of the first one, so those behind it are looked at too.
    """
    behind: BaseException | None = error
    while behind is not None:
        number = behind.errno if isinstance(behind, OSError) else None
        if number is None and (found := IN_WORDS.search(str(behind))):
            number = int(found[1] or found[2])
        if number in REFUSALS:
            return number
        behind = behind.__cause__ or behind.__context__
    return None
