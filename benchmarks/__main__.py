"""`python -m benchmarks KEY=VALUE…`: measure, compare the losses, then print the tables."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.agreement import Disagreement
from benchmarks.machine import describe
from benchmarks.options import ROOT, OptionError, Options, read_options
from benchmarks.report import markdown, put_into, summary
from benchmarks.rounds import ArmError, Bench, CaseRun, say


def main(words: Sequence[str]) -> int:
    """Run a benchmark; the exit code is 0, 1 for a failed run or unequal losses, 2 for wrong options."""
    try:
        options = read_options(words)
    except OptionError as error:
        say(str(error))
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="run-", dir=options.output))
    try:
        runs = measure(options, scratch)
    except (ArmError, Disagreement) as error:
        say(f"{error}\nThe logs of all processes stay in {scratch}.")
        return 1
    shutil.rmtree(scratch)
    write(options, runs)
    return 0


def measure(options: Options, scratch: Path) -> list[CaseRun]:
    """All cases, one after the other; then a cold start, which needs no peer."""
    bench = Bench(options, scratch)
    rows = "the public tables" if options.data.is_dir() else "the embedded helpdesk table"
    say(f"{', '.join(options.case)}: {options.rounds} rounds, {options.threads} threads per process, rows of {rows}.")
    runs = [bench.run_case(name) for name in options.case]
    if options.cold and "leyden" in options.arm:
        runs[0].cold = bench.cold_start(options.case[0])
    return runs


def write(options: Options, runs: Sequence[CaseRun]) -> None:
    """Write JSON and Markdown, the page if there is one, and print the tables."""
    machine, when = describe(), datetime.now(UTC).date().isoformat()
    tables = markdown(runs, machine, options, when)
    content = {
        "measured": when,
        "machine": machine,
        "options": {"rounds": options.rounds, "threads": options.threads, "backbone": options.backbone,
                    "scale": options.scale, "public_tables": options.data.is_dir()},
        "cases": {run.case.name: summary(run) for run in runs},
    }  # fmt: skip
    (options.output / "benchmark.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (options.output / "benchmark.md").write_text(tables, encoding="utf-8")
    if options.document:
        put_into(ROOT / options.document, tables)
    print(tables, end="")
    say(f"JSON and Markdown are in {options.output}.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
