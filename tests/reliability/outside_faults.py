"""Faults that come from outside: a full disk, trackers that fail, workers that are killed, a second run, bad rows."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

from tests.reliability.children import members
from tests.reliability.damage_faults import LAST
from tests.reliability.outcomes import REFUSED, RESUMED, SAME, TRAINED, UNHARMED, Case, Kind, WrongOutcomeError
from tests.reliability.runs import COLUMNS, SCENARIOS
from tests.reliability.touches import at_touch, watch

MIB = 2**20
SPACE = 96 * MIB  # of the small disk; a run asks for 64 MiB before it starts
BAD_CELLS = [
    None, "", " ", "\n", "\x00", "\ufeff", "\u2028", "x" * 5000, "é" * 900, "<|endoftext|>", "</s>", "=1+1",
    "<script>alert(1)</script>", "{{ x }}", "nan", "1e999", 0, -1, True, 10**400, 0.1, [], ["a"], {}, {"a": 1},
    [{"role": "user", "content": "q"}], "\ud800",
]  # fmt: skip
BAD_LINES = [
    b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b'{"p": 1', b'{"p": "a", "p": "b"}', b"{}", b'{"other": 1}', b"\0",
    b"1e400", b'{"p": NaN, "a": Infinity}',
]  # fmt: skip


def full_disk(case: Case) -> str:
    """A small disk is filled up, but for a few KiB, at a chosen moment; afterwards there is room again."""
    scenario = case.draw.choice(sorted(SCENARIOS))
    case.place = case.folder / "disk" / "run"
    case.place.parent.mkdir(parents=True)
    free, at = case.draw.choice([0, 4, 40, 150]) * 1024, case.draw.randrange(20, 260)
    mounted = not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SPACE}", "none", str(case.place.parent)],
        check=False,
        capture_output=True,
    ).returncode
    case.what.append(f"{scenario}: {free} bytes left at touch {at}, {'a tmpfs' if mounted else 'RLIMIT_FSIZE'}")
    try:
        filled = partial(_fill if mounted else _limit, case.place.parent, free)
        end = case.run(scenario, hook=partial(watch, [case.place], at_touch(at, filled)))
        case.orderly(end, 0, 2)
        struck = case.struck(end)
        if half := [path.name for path in case.place.glob("checkpoints/.*")]:
            raise WrongOutcomeError(f"left behind: {half}")
        (case.place.parent / "ballast").unlink(missing_ok=True)
        case.finish(scenario)
    finally:
        if mounted:
            subprocess.run(["umount", str(case.place.parent)], check=True)
    return RESUMED if end.code else SAME if struck else UNHARMED


def _fill(folder: Path, free: int, _: str) -> None:
    with (folder / "ballast").open("wb", buffering=0) as file:
        while (left := shutil.disk_usage(folder).free - free) > 0:
            file.write(bytes(min(left, MIB)))


def _limit(_: Path, free: int, __: str) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, free))


def failing_tracker(case: Case) -> str:
    """The tracker raises when numbers are sent or when it is closed, or cannot start."""
    error = case.draw.choice(
        [OSError(28, "No space left on device"), RuntimeError("lost"), ConnectionError(), KeyError(3)]
    )
    number, where = case.draw.randrange(1, 60), case.draw.choice(["add_scalar", "add_scalar", "close", "start"])
    case.what.append(f"{type(error).__name__} in {where}, call {number}")
    if where == "start":
        case.place.mkdir(parents=True)
        end = case.run("sft", "logger=tensorboard", "resume=auto", hook=partial(_raise, "__init__", 1, error))
        case.orderly(end, 2)
        case.said(end, "logger=tensorboard cannot start")
        case.finish("sft")
        return RESUMED
    end = case.run("sft", "logger=tensorboard", hook=partial(_raise, where, 1 if where == "close" else number, error))
    case.done(end, "sft")
    case.said(end, "logger=tensorboard failed and was left out")
    return "named and left out; goes on, bit-equal"


def _raise(name: str, number: int, error: Exception) -> None:
    from torch.utils.tensorboard import SummaryWriter

    original, calls = getattr(SummaryWriter, name), [0]

    def failing(self: SummaryWriter, *arguments: object, **more: object) -> object:
        calls[0] += 1
        if calls[0] >= number:
            raise error
        return original(self, *arguments, **more)

    setattr(SummaryWriter, name, failing)


def killed_worker(case: Case) -> str:
    """A process that reads the rows is killed, as the system does when memory runs out."""
    update = case.draw.randrange(1, 11)
    case.what.append(f"after update {update}")
    end = case.run("sft", "trainer.number_of_workers=2", hook=partial(_kill_worker, update, case.draw.randrange(2)))
    case.orderly(end, 0, 2)
    struck = case.struck(end)
    case.finish("sft", "trainer.number_of_workers=2")
    return RESUMED if end.code else SAME if struck else UNHARMED


def _kill_worker(update: int, which: int) -> None:
    import multiprocessing

    from leyden.training.checkpoints import Checkpoints

    original = Checkpoints.on_train_batch_start

    def on_train_batch_start(self: Checkpoints, trainer: object, *rest: object) -> None:
        workers = multiprocessing.active_children()
        if trainer.global_step == update and workers:  # type: ignore[attr-defined]
            os.write(2, f"[fault at update {update}: a worker is killed]\n".encode())
            os.kill(workers[which % len(workers)].pid or 0, signal.SIGKILL)
            time.sleep(0.3)
        original(self, trainer, *rest)  # type: ignore[arg-type]

    Checkpoints.on_train_batch_start = on_train_batch_start  # type: ignore[method-assign, assignment]


def second_run(case: Case) -> str:
    """A second command for the folder of a run that is alive; then the first one is killed."""
    first = case.begin(case.bench.overrides("sft", case.place), hook=partial(_stand_still, LAST))
    latest = time.monotonic() + 60
    while not _stands(first.pid) and time.monotonic() < latest:
        time.sleep(0.05)
    words = case.draw.choice([[f"resume={case.place}"], [*case.bench.overrides("sft", case.place), "overwrite=true"]])
    case.what.append(words[-1].replace(str(case.place.parent), ""))
    before = _files(case.place)
    second = case.begin(words).wait()
    same = _files(case.place) == before
    first.wait(kill_after=0)
    case.orderly(second, 2)
    case.said(second, f"is in use by process {first.pid} on ")
    if not same:
        raise WrongOutcomeError("the second run has changed files of the first")
    case.done(case.go_on(), "sft")
    return f"{REFUSED}; after SIGKILL of the first it is accepted, bit-equal"


def _stand_still(update: int) -> None:
    from leyden.training.checkpoints import Checkpoints

    original = Checkpoints.on_update

    def on_update(self: Checkpoints, trainer: object, *rest: object) -> None:
        if trainer.global_step == update:  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGSTOP)
        original(self, trainer, *rest)  # type: ignore[arg-type]

    Checkpoints.on_update = on_update  # type: ignore[method-assign, assignment]


def _stands(pid: int) -> bool:
    return bool(members(pid)) and (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "T"


def _files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}


def bad_rows(case: Case) -> str:
    """Rows with odd cells, or lines that are none, among good ones."""
    scenario = case.draw.choice(sorted(SCENARIOS))
    rows = [dict(zip(COLUMNS, cells, strict=True)) for cells in zip(*COLUMNS.values(), strict=True)]
    expected = len(rows)
    lines = [json.dumps(row).encode() for row in rows]
    if case.draw.random() < 0.3:
        bad = case.draw.choice(BAD_LINES)
        case.what.append(f"{scenario}: a line {bad!r}")
        lines.insert(case.draw.randrange(len(lines)), bad)
        expected += bool(bad)  # an empty line is no row
    else:
        used = {"sft": ["p", "a"], "dpo": ["p", "a", "bad"], "classes": ["p", "kind"]}[scenario]
        for row in case.draw.sample(rows, case.draw.randrange(1, 5)):
            name, cell = case.draw.choice(used), case.draw.choice(BAD_CELLS)
            row[name] = cell
            case.what.append(f"{scenario}: {name}={repr(cell)[:40]}")
        lines = [json.dumps(row).encode() for row in rows]
    case.place.parent.mkdir(parents=True, exist_ok=True)
    table = case.place.with_name("table.jsonl")
    table.write_bytes(b"\n".join(lines) + b"\n")
    end = case.run(scenario, f"dataset.train_dataframe={table}")
    case.orderly(end, 0, 2)
    if end.code:
        case.said(end, " error:\n  - " if " errors:" not in end.said else " errors:\n  - ")
        if case.place.exists():
            raise WrongOutcomeError("a folder was made for a run that was refused")
        return REFUSED
    final = json.loads((case.place / "results.json").read_text(encoding="utf-8"))["final"]
    if final["validation/loss"] is None or not math.isfinite(final["validation/loss"]):
        raise WrongOutcomeError("the loss is no number")
    counts = json.loads((case.place / "manifest.json").read_text(encoding="utf-8"))["counts"]
    if sum(part["rows"] for part in counts.values()) < expected:
        raise WrongOutcomeError(f"rows are missing, and counted nowhere: {counts}")
    return TRAINED


KINDS = (
    Kind("the disk is full from a moment on", 6, full_disk),
    Kind("a tracker fails", 5, failing_tracker),
    Kind("a worker that reads rows is killed", 4, killed_worker),
    Kind("a second run on the folder", 2, second_run),
    Kind("rows with odd cells, or lines that are no rows", 11, bad_rows, bad_input=True),
)
