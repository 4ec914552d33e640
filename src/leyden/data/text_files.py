"""Plain text files and folders of them: one row per file, what continued pre-training reads."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from leyden.data.files import SHOWN, File, content_of, decoded, sha256_of
from leyden.settings.errors import DataError, LeydenError
from leyden.settings.locations import TABLE_ENDINGS, TEXT_ENDINGS

TEXT, FILE = "text", "file"  # the columns


def is_folder(path: Path) -> bool:
    """Whether a path, with `~` for the home folder, is a folder."""
    return os.path.isdir(os.path.expanduser(path))


def read_text_files(path: Path, source: str) -> tuple[pd.DataFrame, tuple[File, ...], tuple[str, ...]]:
    """One row per text file, with its text as it stands, without a byte order mark, and its name.

    Of a folder every `.txt` and `.md` file below it is read, in the order of the names; links are followed. What
    starts with a dot, has another ending, or holds nothing but blanks is left out, and counted in the notes.

    Args:
        path: a file or a folder.
        source: `setting=path`, for messages.

    Returns:
        Columns `text` and `file` (the path below the folder), the files, and notes.

    Raises:
        ConfigError: there is no such file.
        DataError: a file is not UTF-8 or cannot be read (all are named), or there is no text.
    """
    folder = is_folder(path)
    setting = source.split("=", 1)[0]
    found, notes = _found(path, source) if folder else ([path], [])
    rows: list[tuple[str, str, File]] = []
    faults: list[str] = []
    blank: list[Path] = []
    for file in found:
        try:
            content = content_of(file, f"{setting}={file}")
            text = decoded(content, f"{setting}={file}")
        except LeydenError as error:
            if not folder:
                raise
            faults += error.faults
            continue
        if not text.strip():
            blank.append(file)
            continue
        name = file.relative_to(path).as_posix() if folder else file.name
        rows.append((text, name, File(file, "text", sha256_of(content))))
    if faults:
        more = [f"{source}: {len(faults) - SHOWN} more files cannot be read."] if len(faults) > SHOWN else []
        raise DataError([*faults[:SHOWN], *more])
    if not rows:
        raise DataError(f"{source} holds no text: {_names(blank)} empty. Give a file with text in it.")
    if blank:
        notes.append(f"{path}: {len(blank)} of {len(found)} text files are empty and left out ({_names(blank)}).")
    frame = pd.DataFrame({TEXT: [row[0] for row in rows], FILE: [row[1] for row in rows]}, dtype=object)
    return frame, tuple(file for *_, file in rows), tuple(notes)


def _found(folder: Path, source: str) -> tuple[list[Path], list[str]]:
    """The text files below a folder, and what else was there."""
    names: list[Path] = []
    others: Counter[str] = Counter()
    hidden = 0
    for name in _walk(folder, source):
        if any(part.startswith(".") for part in name.parts):
            hidden += 1
        elif name.suffix.lower() in TEXT_ENDINGS:
            names.append(name)
        else:
            others[name.suffix.lower() or "no ending"] += 1
    kinds = ", ".join(sorted(others)[:SHOWN])
    if not names:
        tables = " Name its tables one by one." if others.keys() & {*TABLE_ENDINGS} else ""
        what = f" (it holds {kinds})" if others else ""
        raise DataError(
            f"{source} holds no text file{what}. Give a folder of {' or '.join(TEXT_ENDINGS)} files.{tables}"
        )
    notes = []
    if others:
        notes.append(f"{folder}: {others.total()} files that are no text files are left out ({kinds}).")
    if hidden:
        notes.append(f"{folder}: {hidden} hidden files and folders (.NAME) are left out.")
    return [folder / name for name in sorted(names, key=lambda name: name.parts)], notes


def _walk(folder: Path, source: str) -> Iterator[Path]:
    """Paths below the folder of its files, and of hidden folders, which are not entered."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{source}: {error.filename} cannot be read: {error.strerror}. Check its permissions.")

    root = Path(os.path.expanduser(folder))
    seen: set[tuple[int, int]] = set()
    for top, folders, files in os.walk(root, followlinks=True, onerror=refuse):
        place = os.stat(top)
        if (place.st_dev, place.st_ino) in seen:  # a link back up would never end
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        below = Path(top).relative_to(root)
        yield from (below / name for name in folders if name.startswith("."))
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (below / name for name in files)


def _names(files: list[Path]) -> str:
    shown = ", ".join(file.name for file in files[:SHOWN])
    return shown if len(files) <= SHOWN else f"{shown} and {len(files) - SHOWN} more"
