"""`python -m tests.reliability KEY=VALUE…`: kill runs, harm their files, soak one, and say what came of it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["OMP_NUM_THREADS"] = "1"  # before torch comes: a process with threads of it cannot be forked
os.environ["HF_HUB_OFFLINE"] = "1"

from benchmarks.options import ROOT, OptionError
from benchmarks.rounds import say
from tests.reliability.options import Options, read_options

if TYPE_CHECKING:
    from tests.reliability.faults import Fault
    from tests.reliability.kills import Kills
    from tests.reliability.runs import Bench
    from tests.reliability.soak import Soak


def main(words: Sequence[str]) -> int:
    """Put runs to the test; the exit code is 0, 1 where something was not as it should be, 2 for wrong options."""
    try:
        options = read_options(words)
    except OptionError as error:
        say(str(error))
        return 2
    from benchmarks.report import put_into  # late, as all below: a wrong word waits for no library
    from tests.reliability.report import MARKS, markdown
    from tests.reliability.runs import Bench

    options.output.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="run-", dir=options.output))
    os.environ |= {"LEYDEN_CACHE": str(scratch / "cache"), "HF_HOME": str(scratch / "hub")}
    kills, soaks, faults = measure(options, Bench(scratch))
    text = markdown(options, datetime.now(UTC).date().isoformat(), kills, soaks, faults)
    (options.output / "reliability.md").write_text(text, encoding="utf-8")
    if options.document:
        put_into(ROOT / options.document, f"\n{text}\n", MARKS)
    print(text)
    wrong = [one.wrong for one in (*kills, *soaks, *faults) if one.wrong]
    for one in wrong:
        say(f"WRONG: {one}")
    if not wrong:
        shutil.rmtree(scratch)
    return 1 if wrong else 0


def measure(options: Options, bench: Bench) -> tuple[list[Kills], list[Soak], list[Fault]]:
    """All that the options ask for."""
    from tests.reliability.faults import inject
    from tests.reliability.kills import kill_runs
    from tests.reliability.soak import soak

    bench.warm()
    kills: list[Kills] = []
    for scenario in ("sft", "dpo") if options.kills else ():
        for one in kill_runs(bench, scenario, options.kills, options.seed):
            say(f"{scenario}: killed after {one.moments} s, at updates {one.reached}: {one.wrong or 'bit-equal'}")
            kills.append(one)
    faults: list[Fault] = []
    for fault in inject(bench, options.seed, options.faults, options.only):
        say(f"{fault.number}: {fault.kind.name}, {fault.what}: {fault.outcome or f'WRONG {fault.wrong}'}")
        faults.append(fault)
    soaks = list(soak(bench, options.updates, options.seed)) if options.updates else []
    return kills, soaks, faults


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
