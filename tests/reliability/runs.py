"""Small runs that are put to the test, and whether one that went through a fault is the run that went through none."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from tests.effects.small_runs import CONF, Columns, write_table
from tests.integration.stopped_runs import logged, weights
from tests.reliability.children import Child, start

from leyden.artifacts.job import run_job
from leyden.settings.composition import compose_config
from leyden.settings.read import read
from leyden.settings.resuming import continued

ROWS = 14
COLUMNS: Columns = {
    "p": [f"question {row} {'x' * (row % 5)}" for row in range(ROWS)],
    "a": [f"answer {row * 7}" for row in range(ROWS)],
    "bad": [f"no {row}" for row in range(ROWS)],
    "kind": [("red", "green", "blue")[row % 3] for row in range(ROWS)],
}
SCENARIOS = {  # a checkpoint after every update: where the files are touched then depends on no clock
    "sft": ["lora.dropout=0.1"],
    "dpo": ["problem=dpo", "dataset.rejected_answer_column=bad", "lora.dropout=0.1",
        "checkpoint=each_evaluation_epoch"],
    "classes": ["problem=classification", "dataset.answer_column=kind", "checkpoint=best"],
}  # fmt: skip
Hook = Callable[[], object]


@dataclass
class Bench:
    """Where the runs are, and those that nothing was done to.

    Attributes:
        folder: of everything.
        more: overrides of every run.
        whole: the undisturbed run of each scenario, and how long it took.
    """

    folder: Path
    more: tuple[str, ...] = ("checkpoint.every_minutes=1e-9",)
    whole: dict[str, tuple[Path, float]] = field(default_factory=dict)

    def overrides(self, scenario: str, place: Path, *more: str) -> list[str]:
        """The command line of a run."""
        table = self.folder / "table.jsonl"
        if not table.exists():
            write_table(table, COLUMNS)
        return [
            "backbone=tiny", "backbone.dtype=float32", "dataset=table", "trainer=cpu", "checkpoint.verify=false",
            f"dataset.train_dataframe={table}",
            "dataset.prompt_column=p", "dataset.answer_column=a", "dataset.validation_size=0.2",
            "trainer.progress=plain", "tokenizer.max_length=128", "generation.max_length_inference=4",
            "trainer.batch_size=2", "trainer.epochs=2", "trainer.evaluation_epochs=0.5", *self.more,
            f"output_directory={place.parent}", f"experiment_name={place.name}", *SCENARIOS[scenario], *more,
        ]  # fmt: skip

    def begin(
        self, words: list[str], log: Path, hook: Hook | None = None, variables: Mapping[str, str] | None = None
    ) -> Child:
        """Start `train.py` with a command line in a child.

        Args:
            words: of the command line.
            log: where it prints; appended to.
            hook: called in the child before anything else.
            variables: of the environment.
        """

        def work() -> None:
            os.environ.update(variables or {"LEYDEN_CACHE": str(self.folder / "cache")})
            if hook is not None:
                hook()
            train(words)

        return start(work, log)

    def warm(self) -> None:
        """Train once in this process: what a first run loads and compiles is there in every child then.

        That run has a cache of its own.
        """
        place = self.folder / "warm"
        words = self.overrides("sft", place / "run")
        with (place.with_suffix(".log")).open("w") as log, redirect_stdout(log), redirect_stderr(log):
            before = os.environ["LEYDEN_CACHE"]
            os.environ["LEYDEN_CACHE"] = str(place / "cache")
            train(words)
            os.environ["LEYDEN_CACHE"] = before

    def undisturbed(self, scenario: str) -> Path:
        """The folder of the run that nothing was done to."""
        if scenario not in self.whole:
            place = self.folder / "whole" / scenario
            end = self.begin(self.overrides(scenario, place), place.with_suffix(".log")).wait()
            assert end.code == 0, end.said
            self.whole[scenario] = place, end.seconds
        return self.whole[scenario][0]

    def differs(self, scenario: str, place: Path) -> str:
        """What a finished run has otherwise than the undisturbed one; empty if every bit is the same."""
        return difference(self.undisturbed(scenario), place)


def train(words: list[str]) -> None:
    """What `train.py` does with a command line."""
    config = composed(tuple(words))
    run_job(read(continued(config, words)))


def composed(words: tuple[str, ...]) -> DictConfig:
    """A command line as Hydra composes it; what most runs share is composed once."""
    own = [word for word in words if "." in word.partition("=")[0] or word.split("=")[0] in OWN]
    shared = [word for word in words if word not in own]
    config = OmegaConf.create(OmegaConf.to_container(_groups(tuple(shared))))
    OmegaConf.set_struct(config, True)
    config.merge_with_dotlist(own)
    return config


OWN = ("resume", "output_directory", "experiment_name", "overwrite", "cache", "seed")


@cache
def _groups(words: tuple[str, ...]) -> DictConfig:
    config, faults = compose_config("train", words, CONF)
    assert not faults, faults
    assert config is not None
    return config


def difference(one: Path, two: Path) -> str:
    """What two finished runs do not share: numbers, weights, results, predictions, end."""
    if logged(two) != logged(one):
        return _first_difference(one, two)
    if weights(two) != weights(one):
        return "the weights differ"
    for name in ("results.json", "predictions.csv"):
        if (two / name).read_bytes() != (one / name).read_bytes():
            return f"{name} differs"
    ends = [json.loads((place / "manifest.json").read_text(encoding="utf-8")) for place in (one, two)]
    if [end["status"] for end in ends] != ["done", "done"] or ends[0]["updates_done"] != ends[1]["updates_done"]:
        return f"it ended as {ends[1]['status']} after {ends[1]['updates_done']} updates"
    odd = [path.name for path in two.rglob(".*") if path.name not in KNOWN]
    return f"left behind: {', '.join(odd)}" if odd else ""


KNOWN = (".lock", ".metrics.csv.cut-off", ".gitattributes")


def _first_difference(one: Path, two: Path) -> str:
    expected, found = logged(one), logged(two)
    for number, (first, second) in enumerate(zip(expected, found, strict=False)):
        if first != second:
            return f"metrics.csv differs in line {number + 1}: {second} in place of {first}"
    return f"metrics.csv has {len(found)} lines in place of {len(expected)}"
