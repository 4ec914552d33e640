"""Runs the arms of a case in turn, A B A B …, each in a fresh process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.agreement import check_agreement
from benchmarks.cases import CASES, Case, overrides
from benchmarks.leyden_arm import read_run
from benchmarks.machine import matrix_rate
from benchmarks.options import ROOT, Options
from benchmarks.result import Result, read_result
from benchmarks.tables import write_tables
from benchmarks.work import Work, read_work

SHORTEST = "trainer.max_minutes=0.0001"  # ends the run after its first update


class ArmError(RuntimeError):
    """A process ended with an error."""


@dataclass
class CaseRun:
    """What was measured of one case.

    Attributes:
        case: the work.
        work: as the peers got it.
        results: by arm, one per round.
        rates: operations per second of matrix products, one per round.
        gap: largest relative difference between two losses of one update.
        cold: seconds from the command to the first update with an empty cache; None if not measured.
    """

    case: Case
    work: Work
    results: dict[str, list[Result]]
    rates: list[float] = field(default_factory=list)
    gap: float = 0.0
    cold: float | None = None


@dataclass(frozen=True)
class Bench:
    """Everything that all runs of a benchmark share.

    Attributes:
        options: of the benchmark.
        scratch: folder for tables, caches and runs.
    """

    options: Options
    scratch: Path

    @property
    def kept(self) -> Path:
        """The cache with converted weights and tokens; each run gets a copy, so that it finds nothing of another."""
        return self.scratch / "cache"

    def environment(self, cache: Path | None = None) -> dict[str, str]:
        """Threads pinned, one cache, no network."""
        threads = str(self.options.threads)
        paths = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
        return {
            **os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false", "LEYDEN_CACHE": str(cache or self.kept),
            "HF_HOME": str(self.scratch / "hub"), "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }  # fmt: skip

    def run_case(self, name: str) -> CaseRun:
        """All rounds of a case; the losses are compared after each of them.

        Raises:
            ArmError: a process failed.
            Disagreement: the arms did not do the same work.
        """
        case, folder = CASES[name], self.scratch / name
        shutil.rmtree(folder, ignore_errors=True)
        tables, columns = write_tables(case, self.options.data, folder / "tables", self.options.scale)
        settings = overrides(case, tables, columns, self.options.backbone, folder / "run")
        self._process(["-m", "benchmarks.export_work", str(folder), *settings], folder / "work.log")
        run = CaseRun(case, read_work(folder / "work.json"), {})
        arms = [arm for arm in self.options.arm if arm in (*case.peers, "leyden")]
        for number in range(1, self.options.rounds + 1):
            run.rates.append(matrix_rate(case.precision, self.environment()))
            for arm in arms:
                result = self._run_arm(arm, folder, settings)
                run.results.setdefault(arm, []).append(result)
                everything = [one for results in run.results.values() for one in results]
                run.gap = check_agreement(everything, case.precision, case.kind)
                say(f"{name}, round {number} of {self.options.rounds}: {arm} done")
        return run

    def cold_start(self, name: str) -> float:
        """Seconds from the command to the first update of Leyden, when nothing was converted or tokenised before."""
        case, folder, cache = CASES[name], self.scratch / "cold", self.scratch / "cold-cache"
        for old in (folder, cache):
            shutil.rmtree(old, ignore_errors=True)
        tables, columns = write_tables(case, self.options.data, folder / "tables", self.options.scale)
        settings = overrides(case, tables, columns, self.options.backbone, folder / "run")
        started = time.time()
        self._process([str(ROOT / "train.py"), *settings, SHORTEST], folder / "leyden.log", cache)
        return read_run(folder / "run", started).start_seconds

    def _run_arm(self, arm: str, folder: Path, settings: Sequence[str]) -> Result:
        log = folder / f"{arm}.log"
        if arm != "leyden":
            found = folder / f"{arm}.json"
            self._process(["-m", "benchmarks.peers", str(folder / "work.json"), arm, str(found)], log)
            return read_result(found)
        cache = folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        shutil.copytree(self.kept, cache, copy_function=_linked)
        shutil.rmtree(folder / "run", ignore_errors=True)
        started = time.time()
        self._process([str(ROOT / "train.py"), *settings], log, cache)
        return read_run(folder / "run", started)

    def _process(self, words: Sequence[str], log: Path, cache: Path | None = None) -> None:
        """Run Python with these words, its output in a file.

        Raises:
            ArmError: it ended with another code than 0.
        """
        environment: Mapping[str, str] = {**self.environment(cache), "BENCHMARK_STARTED": str(time.time())}
        with log.open("w", encoding="utf-8") as file:
            done = subprocess.run(
                [sys.executable, *words], env=dict(environment), cwd=self.scratch, stdin=subprocess.DEVNULL,
                stdout=file, stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip
        if done.returncode:
            end = "\n".join(log.read_text(encoding="utf-8").splitlines()[-15:])
            raise ArmError(f"{' '.join(words[:3])} ended with code {done.returncode}; the end of {log}:\n{end}")


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def _linked(source: str, target: str) -> None:
    """A second name for a file, or a copy where the disk has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
