"""The command that imports an experiment of H2O LLM Studio: where it writes, and what it says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from leyden.settings.errors import ConfigError
from leyden.settings.h2o import KNOWN, Imported, convert, file_name, read_old
from leyden.settings.h2o_outcomes import Outcome
from leyden.settings.wording import nearest, show

CHECKOUT = Path(__file__).resolve().parents[3]


def import_file(path: Path, output: Path | None, conf: Path | None, *, force: bool) -> str:
    """Import an experiment file and return what became of each key.

    Args:
        path: of the old file.
        output: of the new file; None: `experiment/NAME.yaml` among our config groups.
        conf: folder of our config groups; None: `conf` in the current folder, or that of this checkout.
        force: replace an existing file.

    Raises:
        ConfigError: all faults; then nothing is written.
    """
    folder = conf or (Path("conf") if Path("conf/train.yaml").is_file() else CHECKOUT / "conf")
    faults = list(_folder_faults(folder))
    imported = None
    try:
        if faults:
            faults += read_old(path)[1]
        else:
            imported = convert(path, folder)
    except ConfigError as error:
        faults += error.faults
    target = output or (folder / "experiment" / f"{file_name(path, imported.old)}.yaml" if imported else None)
    if target is not None:
        faults += _target_faults(target, force=force)
    if faults or imported is None or target is None:
        raise ConfigError(faults)
    target.write_text(imported.text, encoding="utf-8")
    return "\n".join(_summary(path, imported, target, folder))


def _folder_faults(folder: Path) -> Iterator[str]:
    if not (folder / "train.yaml").is_file():
        yield f"--conf {folder} holds no train.yaml (seen from {Path.cwd()}). Name the folder of our config groups."


def _target_faults(target: Path, *, force: bool) -> Iterator[str]:
    if target.suffix != ".yaml":
        yield f"--output {target}: an experiment file ends in .yaml."
    elif target.is_dir() or not target.parent.is_dir():
        what = "is a folder" if target.is_dir() else "stands in a folder that does not exist"
        yield f"--output {target} {what} (seen from {Path.cwd()}). Name a file in a folder that exists."
    elif target.exists() and not force:
        yield f"{target} is there already. Replace it with --force, or name another file with --output."


def _summary(path: Path, imported: Imported, target: Path, folder: Path) -> Iterator[str]:
    old, outcomes = imported.old, imported.outcomes
    yield f"{path} ({old.problem_type}) is now {target} (problem={old.problem})."
    yield from _block("Mapped", [_mapped(outcome) for outcome in _of(outcomes, "mapped")])
    yield from _block("Equal to Leyden's default", _by_section(_of(outcomes, "equal")))
    yield from _block("Without effect in the old experiment, so left out", _by_reason(_of(outcomes, "idle")))
    left = [f"{outcome.old}={outcome.shown}: {outcome.why}" for outcome in _of(outcomes, "left")]
    yield from _block("Not mapped", left)
    yield from _block("Not known: H2O LLM Studio has no such key", [_stranger(key) for key in old.unknown])
    yield from _block("To mend before it runs here", imported.mend)
    yield "What the old file does not say stays at Leyden's default."
    yield f"Train with: {_call(target, folder)}"


def _stranger(key: str) -> str:
    """A key without its value, which may be anything: a misspelt one, the state of a run, a password."""
    if key.rpartition(".")[2].startswith("_"):
        return f"{key}: the state of a run, no setting"
    return f"{key}.{nearest(key, KNOWN)}"


def _of(outcomes: Iterable[Outcome], state: str) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.state == state]


def _block(title: str, lines: Iterable[str]) -> Iterator[str]:
    shown = list(dict.fromkeys(lines))
    if shown:
        yield f"{title}:"
        yield from (f"  - {line}" for line in shown)


def _mapped(outcome: Outcome) -> str:
    source = " (not in the file, H2O's default)" if outcome.added else ""
    remark = f"; {outcome.why}" if outcome.why else ""
    return f"{outcome.old}={outcome.shown}{source} -> {outcome.new}={show(outcome.value)}{remark}"


def _by_section(outcomes: Iterable[Outcome]) -> list[str]:
    groups = defaultdict[str, list[str]](list)
    for outcome in outcomes:
        section, _, key = outcome.old.rpartition(".")
        groups[section].append(key)
    return [f"{section or 'root'}: {', '.join(dict.fromkeys(keys))}" for section, keys in groups.items()]


def _by_reason(outcomes: Iterable[Outcome]) -> list[str]:
    groups = defaultdict[str, list[str]](list)
    for outcome in outcomes:
        groups[outcome.why].append(f"{outcome.old}={outcome.shown}")
    return [f"{', '.join(dict.fromkeys(keys))}: {reason}" for reason, keys in groups.items()]


def _call(target: Path, folder: Path) -> str:
    name = target.stem
    if target.parent.resolve() == (folder / "experiment").resolve():
        return f"python train.py experiment={name}"
    if target.parent.name == "experiment":
        return f"python train.py --config-dir {target.parent.parent} experiment={name}"
    return f"put it into conf/experiment, then python train.py experiment={name}"
