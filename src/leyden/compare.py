"""Compare runs on one page: `python -m leyden.compare outputs/* metric=perplexity output=comparison.html`."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from leyden.report.comparison import FILE, KIND, write_comparison
from leyden.settings.errors import ConfigError
from leyden.settings.escapes import visible
from leyden.settings.paths import user_path
from leyden.settings.plain_command import run_plain
from leyden.settings.wording import counted, nearest

OPTIONS = ("metric", "output")
HELP = f"""Compare runs on one page that opens from disk.

    python -m leyden.compare outputs/* [metric=NAME] [output=FILE]

Folders of runs, or folders that hold runs, as outputs and sweeps do. metric: what orders them and what is drawn; by
default what most of them were watched by. output: the page; by default {FILE} in the folder that holds them all."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and say where it is.

    Args:
        arguments: of the command line; None: those of this process.

    Returns:
        0 done, 2 a fault of the user.
    """
    return run_plain(_compare, lambda: HELP, arguments)


def _compare(words: Sequence[str]) -> None:
    folders, options = _read(words)
    path = _output(folders, options.get("output"))
    try:
        compared = write_comparison(folders, path, options.get("metric"))
    except OSError as error:
        raise ConfigError(
            f"output={str(path)!r} cannot be written ({error}). Free some space, or name another file with output=FILE."
        ) from error
    if compared.left_out:
        print(f"{counted(len(compared.left_out), 'folders')} left out:", file=sys.stderr)
        for folder, reason in compared.left_out:
            print(f"  - {visible(str(folder))}: {visible(reason)}", file=sys.stderr)
    for run in compared.runs:
        for name, reason in run.files.damaged.items():
            print(f"warning: {visible(str(run.folder / name))} cannot be read: {visible(reason)}", file=sys.stderr)
    print(f"{counted(len(compared.runs), 'runs')} compared in {visible(str(path.absolute()))}")


def _read(words: Sequence[str]) -> tuple[list[Path], dict[str, str]]:
    """The folders that were named, and the options.

    Raises:
        ConfigError: all words that are neither, at once.
    """
    folders: list[Path] = []
    options: dict[str, str] = {}
    faults: list[str] = []
    for word in words:
        name, sign, value = word.partition("=")
        if sign and name in OPTIONS:
            faults += [f"{name} is given twice. Give it once."] if name in options else []
            faults += [f"{word}: {name} is empty. Name one, or leave it out."] if not value else []
            options[name] = value
        elif os.path.exists(word):
            folders.append(Path(word))
        elif found := sorted(glob.glob(word)):
            folders += map(Path, found)
        elif sign and "/" not in name:
            near = nearest(name, OPTIONS)
            faults.append(
                f"{word}: there is no such folder, and {name} is no option.{near} There are: {', '.join(OPTIONS)}."
            )
        else:
            faults.append(f"{word}: there is no such folder (seen from {Path.cwd()}).")
    folders = [folder for folder in folders if not _is_page(folder)]  # of an earlier comparison, in the same glob
    if not folders and not faults:
        faults.append("No folder is named. Name those of runs: python -m leyden.compare outputs/*")
    if faults:
        raise ConfigError(faults)
    return folders, options


def _output(folders: Sequence[Path], wanted: str | None) -> Path:
    """Where the page goes: beside the runs, unless the user says otherwise.

    Raises:
        ConfigError: no page can be written there, or something else is there that is no page of ours.
    """
    path = user_path(wanted) if wanted else _holder(folders) / FILE
    if faults := list(_output_faults(path)):
        raise ConfigError(faults)
    return path


def _holder(folders: Sequence[Path]) -> Path:
    """The folder that holds all that were named; of a single one that holds runs itself, that one; else the current."""
    if len(folders) == 1 and not (folders[0] / "config.yaml").is_file():
        return folders[0] if folders[0].is_dir() else folders[0].parent
    parents = {folder.absolute().parent for folder in folders}
    return folders[0].parent if len(parents) == 1 else Path()


def _output_faults(path: Path) -> Iterator[str]:
    said = f"output={str(path)!r}"
    if path.is_dir():
        yield f"{said} is a folder. Name a file, such as output={path / FILE}."
    elif not path.parent.is_dir():
        yield f"{said}: there is no folder {path.parent}. Make it, or name another file."
    elif path.exists() and not _is_page(path):
        yield f"{said} is there and is no page of an earlier comparison, so it is left alone. Name another file."
    elif not os.access(path.parent, os.W_OK):
        yield f"{said}: {path.parent} cannot be written to. Name another file with output=FILE."


def _is_page(path: Path) -> bool:
    """Whether a file is a page that this has written."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return f"{KIND}</title>".encode() in file.read(4096)


if __name__ == "__main__":
    sys.exit(main())
