"""Faults of the disk: bytes that are not as they were written, in checkpoints, logs, settings and caches."""

from __future__ import annotations

import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path
from random import Random

from tests.integration.stopped_runs import logged, weights
from tests.reliability.outcomes import PASSED_OVER, REFUSED, REMADE, SAME, Case, Kind, WrongOutcomeError
from tests.reliability.runs import SCENARIOS, Bench

CACHES = ("tables", "fits", "tokens", "tokenizers", "weights", "reference")
LAST = 7  # updates after which the runs that are damaged were killed
WAYS = ("a flipped bit", "cut short", "emptied", "deleted", "filled with noise")


def damage(draw: Random, file: Path, ways: tuple[str, ...] = WAYS) -> str:
    """Harm a file; return how."""
    way = draw.choice(ways)
    content = bytearray(file.read_bytes())
    if way == "deleted":
        file.unlink()
        return way
    if way == "a flipped bit":
        place = draw.randrange(len(content))
        content[place] ^= 1 << draw.randrange(8)
        way = f"{way} in byte {place}"
    elif way == "cut short":
        content = content[: draw.randrange(len(content))]
    elif way == "emptied":
        content = bytearray()
    else:
        content = bytearray(draw.randbytes(len(content)))
    file.write_bytes(content)
    return way


def killed_run(bench: Bench, scenario: str, place: Path, *more: str, name: str = "") -> None:
    """A copy of a run that was killed after some updates."""
    kept = bench.folder / "killed" / (name or scenario)
    if not kept.exists():
        words = bench.overrides(scenario, kept, *more)
        end = bench.begin(words, kept.with_suffix(".log"), partial(kill_after, LAST)).wait()
        assert end.code == -signal.SIGKILL, end.said
    shutil.copytree(kept, place)


def kill_after(update: int) -> None:
    """Have this process killed as soon as the checkpoint after an update is whole."""
    from leyden.training.checkpoints import Checkpoints

    original = Checkpoints._keep

    def keep(self: Checkpoints, trainer: object, *rest: object, **more: object) -> None:
        original(self, trainer, *rest, **more)  # type: ignore[arg-type]
        if trainer.global_step == update:  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoints._keep = keep  # type: ignore[assignment]


def a_scenario(case: Case) -> tuple[str, list[Path]]:
    """A run that was killed; and its checkpoints that hold the optimizer, oldest first."""
    scenario = case.draw.choice(sorted(SCENARIOS))
    killed_run(case.bench, scenario, case.place)
    paths = sorted((case.place / "checkpoints").glob("step-*"))
    return scenario, [path for path in paths if json.loads((path / "manifest.json").read_text())["resumable"]]


def newest_checkpoint(case: Case) -> str:
    scenario, paths = a_scenario(case)
    file = paths[-1] / case.draw.choice(["state.ckpt", "manifest.json"])
    case.what.append(f"{scenario}: {file.name} {damage(case.draw, file)}")
    end = case.go_on()
    case.done(end, scenario)
    case.said(end, f"{paths[-1]} is damaged and is passed over", "The run goes on after update")
    return PASSED_OVER


def every_checkpoint(case: Case) -> str:
    scenario, paths = a_scenario(case)
    for path in paths:
        case.what.append(f"{scenario}: {damage(case.draw, path / 'state.ckpt', WAYS[1:])}")
    before = sorted(case.place.rglob("*"))
    end = case.go_on()
    case.orderly(end, 2)
    case.said(end, *(f"{path} is damaged" for path in paths))
    if gone := set(before) - set(case.place.rglob("*")):
        raise WrongOutcomeError(f"it has deleted {sorted(gone)}")
    return REFUSED


def foreign_checkpoint(case: Case) -> str:
    """The newest checkpoint of a run with another seed."""
    scenario, paths = a_scenario(case)
    other = case.place.with_name("other")
    killed_run(case.bench, scenario, other, "seed=5", name=f"{scenario}-of-another-seed")
    newest = max((other / "checkpoints").glob("step-*"))
    copy = paths[-1].with_name(case.draw.choice([paths[-1].name, "step-00000009"]))
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(newest, copy)
    case.what.append(f"{scenario}: as {copy.name}")
    end = case.go_on()
    shutil.rmtree(other)
    case.done(end, scenario)
    case.said(end, f"{copy} ", "passed over")
    return PASSED_OVER


def metrics_file(case: Case) -> str:
    """What is left of metrics.csv is not what the checkpoint knows; lines that are lost do not come back."""
    scenario, _ = a_scenario(case)
    file = case.place / "metrics.csv"
    way = damage(case.draw, file)
    case.what.append(f"{scenario}: {way}")
    end = case.go_on()
    case.orderly(end, 0)
    case.said(end, "metrics.csv is not as it was")
    whole = case.bench.undisturbed(scenario)
    if weights(case.place) != weights(whole):
        raise WrongOutcomeError("the weights differ")
    if b"\0" in file.read_bytes() and "noise" not in way and "flipped" not in way:
        raise WrongOutcomeError("metrics.csv holds zeros that nobody wrote")
    if "noise" not in way and "flipped" not in way:
        later = [row for row in logged(whole) if row[0].isdigit() and int(row[0]) > LAST]
        if logged(case.place)[-len(later) :] != later:
            raise WrongOutcomeError("what was logged from there on differs")
    return "named; goes on with equal weights and what is left of the file"


def torn_metrics(case: Case) -> str:
    """Half a line and noise behind what the checkpoint knows, as a machine may leave that loses its power."""
    scenario, _ = a_scenario(case)
    with (case.place / "metrics.csv").open("ab") as file:
        file.write(
            case.draw.choice([b"8,16,train/lo", b"\0" * 100, b"8,16,train/loss,1.0\n9", case.draw.randbytes(64)])
        )
    case.what.append(scenario)
    case.done(case.go_on(), scenario)
    return SAME


def other_file(case: Case) -> str:
    """Files that a resume reads beside the checkpoints."""
    scenario, _ = a_scenario(case)
    name = case.draw.choice(["config.yaml", "resumes.jsonl", "manifest.json", "results.json", ".lock", "trackers.json"])
    file = case.place / name
    if name == "resumes.jsonl":
        file.write_text('{"time": "2026-01-01T00:00:00+00:00", "after_update": 3, "changes": {}}\n')
    elif name == "trackers.json":
        file.write_text('{"tensorboard": "x"}\n')
    elif name in ("manifest.json", "results.json"):
        shutil.copy(case.bench.undisturbed(scenario) / name, file)
    way = damage(case.draw, file)
    case.what.append(f"{scenario}: {name} {way}")
    end = case.go_on()
    if name == "config.yaml":
        case.orderly(end, 2)
        case.said(end, "config.yaml")
        return REFUSED
    if name == "manifest.json" and "flipped" in way and "nothing to do" in end.said:
        raise WrongOutcomeError("it held the run to be finished")
    case.done(end, scenario)
    return SAME


def finished_run(case: Case) -> str:
    """A run that was finished, of which a file is damaged: its end is done again from the last checkpoint."""
    scenario = case.draw.choice(sorted(SCENARIOS))
    shutil.copytree(case.bench.undisturbed(scenario), case.place)
    file = case.place / case.draw.choice(["manifest.json", "results.json"])
    case.what.append(f"{scenario}: {file.name} {damage(case.draw, file, WAYS[1:])}")
    case.done(case.go_on(), scenario)
    return SAME


def cache_entry(case: Case) -> str:
    """A file in the cache that a killed run had filled."""
    scenario = "dpo"
    killed_run(case.bench, scenario, case.place)
    shutil.copytree(case.bench.folder / "cache", case.place.with_name("cache"))
    case.cold = True
    kind = case.draw.choice(CACHES)
    entries = sorted(path for path in (case.cache / kind).rglob("*") if path.is_file() and path.suffix != ".lock")
    for file in entries if case.draw.random() < 0.3 else [case.draw.choice(entries)]:
        case.what.append(f"{kind}: {file.name} {damage(case.draw, file)}")
    end = case.go_on()
    case.done(end, scenario)
    return REMADE if "made again" in end.said else SAME


KINDS = (
    Kind("the newest checkpoint is damaged", 16, newest_checkpoint),
    Kind("every checkpoint is damaged", 3, every_checkpoint),
    Kind("a checkpoint of another run among those of this one", 3, foreign_checkpoint),
    Kind("`metrics.csv` is damaged", 6, metrics_file),
    Kind("`metrics.csv` ends in half a line", 3, torn_metrics),
    Kind("another file that a resume reads is damaged", 8, other_file),
    Kind("a file of a finished run is damaged", 4, finished_run),
    Kind("entries of the cache are damaged", 12, cache_entry),
)
