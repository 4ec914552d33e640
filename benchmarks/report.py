"""Measurements become ratios, a JSON file and Markdown tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.agreement import TOLERANCE
from benchmarks.cases import ARMS
from benchmarks.flops import counts_of, useful_flops
from benchmarks.options import Options
from benchmarks.result import Result
from benchmarks.rounds import CaseRun

NAMES = {"trl": "TRL", "trl_flat": "TRL, padding-free", "trainer": "Trainer", "leyden": "Leyden"}
START, END = "<!-- benchmark: start -->", "<!-- benchmark: end -->"


@dataclass(frozen=True)
class Spread:
    """Median, least and largest of a few numbers."""

    median: float
    least: float
    largest: float

    def shown(self, form: str = ".2f") -> str:
        """Median with the span in brackets, or alone where there is none."""
        if self.least == self.largest:
            return format(self.median, form)
        return f"{self.median:{form}} ({self.least:{form}}-{self.largest:{form}})"


def spread(values: Sequence[float]) -> Spread:
    """Median, least and largest."""
    return Spread(median(values), min(values), max(values))


def ratio(run: CaseRun, measure: Callable[[Result], float]) -> tuple[str, Spread] | None:
    """Leyden against the peer whose median is least: who that is, and the quotients of each round.

    Args:
        run: of a case.
        measure: what is compared.
    """
    peers = {arm: [measure(result) for result in results] for arm, results in run.results.items() if arm != "leyden"}
    own = [measure(result) for result in run.results.get("leyden", ())]
    if not peers or not own:
        return None
    best = min(peers, key=lambda arm: median(peers[arm]))
    return best, spread([mine / theirs for mine, theirs in zip(own, peers[best], strict=True)])


def summary(run: CaseRun) -> dict[str, Any]:
    """Everything about a case, for the JSON file."""
    counts = counts_of(run.work)
    flops, rate = useful_flops(run.work.shape, counts), median(run.rates)
    arms = {arm: _arm(run, results, flops, rate) for arm, results in run.results.items()}
    time, memory = ratio(run, lambda result: result.seconds), ratio(run, lambda result: result.peak_gib)
    return {
        "what": run.case.what,
        "precision": run.case.precision,
        "samples": len(run.work.samples),
        "samples_in_all_updates": sum(1 for _ in run.work),
        "batch_size": run.work.batch_size,
        "epochs": len(run.work.epochs),
        "updates": run.work.updates,
        "max_length": run.case.max_length,
        "samples_cut": run.work.cut,
        "row_tokens": run.work.row_tokens(),
        "useful": {**asdict(counts), "flops": flops},
        "matrix_rate": [round(value) for value in run.rates],
        "losses": {"largest_difference": run.gap, "allowed": TOLERANCE[run.case.precision][run.case.kind]},
        "arms": arms,
        "time_ratio": time and {"against": time[0], **asdict(time[1]), "bar": run.case.time_bar},
        "memory_ratio": memory and {"against": memory[0], **asdict(memory[1]), "bar": run.case.memory_bar},
        "cold_start_seconds": run.cold,
    }


def _arm(run: CaseRun, results: Sequence[Result], flops: float, rate: float) -> dict[str, Any]:
    measures: Mapping[str, Callable[[Result], float]] = {
        "seconds": lambda result: result.seconds,
        "reference_seconds": lambda result: result.reference_seconds,
        "seconds_per_epoch": lambda result: result.loop_seconds / len(run.work.epochs),
        "seconds_per_update": lambda result: median(result.update_seconds),
        "tokens_per_second": lambda result: run.work.row_tokens() / result.seconds,
        "samples_per_second": lambda result: sum(1 for _ in run.work) / result.seconds,
        "peak_gib": lambda result: result.peak_gib,
        "start_seconds": lambda result: result.start_seconds,
        "share_of_matrix_rate": lambda result: flops / sum(result.update_seconds) / rate,
    }
    found = {name: asdict(spread([measure(result) for result in results])) for name, measure in measures.items()}
    return {**found, "threads": results[0].threads, "rounds": [asdict(result) for result in results]}


def markdown(runs: Sequence[CaseRun], machine: Mapping[str, Any], options: Options, when: str) -> str:
    """The tables, and what they were measured on."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    rates = {precision: [rate for run in runs if run.case.precision == precision for rate in run.rates]
             for precision in ("float32", "bfloat16")}  # fmt: skip
    speeds = [f"{spread([rate / 1e9 for rate in found]).shown('.0f')} GFLOP/s in {precision}"
              for precision, found in rates.items() if found]  # fmt: skip
    model = "SmolLM2-135M-Instruct" if options.backbone == "llama" else "two random layers"
    rows = "the public tables" if options.data.is_dir() else "the embedded helpdesk table"
    lines = [
        f"Measured {when}: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']}, Python {machine['python']}, {packages}.",
        f"{model}, LoRA r=16 on every linear layer but the head, {options.threads} threads, {options.rounds} rounds, "
        f"arms in turn, rows of {rows}. Matrix products: {'; '.join(speeds)}.",
        "", "| case | rows, updates | arm | seconds | per update | tokens/s | peak GiB | start s | of matrix rate |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for run in runs:
        lines += _arm_lines(run, summary(run))
    lines += ["", "| case | time against | ratio | bar | memory against | ratio | bar | largest difference of a loss |",
              "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    lines += [_ratio_line(run) for run in runs]
    colds = [f"{run.cold:.1f} s ({run.case.name})" for run in runs if run.cold is not None]
    lines += ["", f"Leyden from the command to the first update with an empty cache: {colds[0]}."] if colds else []
    return "\n".join(lines) + "\n"


def _arm_lines(run: CaseRun, found: Mapping[str, Any]) -> list[str]:
    lines = []
    for arm in [arm for arm in ARMS if arm in found["arms"]]:
        values = {name: Spread(**value) for name, value in found["arms"][arm].items() if isinstance(value, dict)}
        reference = values["reference_seconds"].median
        whole = values["seconds"].shown(".1f") + (f", reference {reference:.1f}" if reference else "")
        lines.append(
            f"| {run.case.name} | {found['samples']}, {found['updates']} | {NAMES[arm]} | {whole} | "
            f"{values['seconds_per_update'].shown()} | {values['tokens_per_second'].median:.0f} | "
            f"{values['peak_gib'].shown()} | {values['start_seconds'].shown('.1f')} | "
            f"{values['share_of_matrix_rate'].median:.0%} |"
        )
    return lines


def _ratio_line(run: CaseRun) -> str:
    cells = []
    for found, bar in (
        (ratio(run, lambda result: result.seconds), run.case.time_bar),
        (ratio(run, lambda result: result.peak_gib), run.case.memory_bar),
    ):
        cells.append(f"{NAMES[found[0]]} | {found[1].shown()} | {bar:.2f}" if found else "- | - | -")
    return f"| {run.case.name} | {' | '.join(cells)} | {run.gap:.1e} |"


def put_into(page: Path, tables: str, marks: tuple[str, str] = (START, END)) -> None:
    """Replace what stands between the marks of a page.

    Raises:
        ValueError: the page has no such marks.
    """
    text, (start, end) = page.read_text(encoding="utf-8"), marks
    if start not in text or end not in text:
        raise ValueError(f"{page}: there is no {start} … {end} to put the tables into.")
    before, after = text.split(start)[0], text.split(end)[1]
    page.write_text(f"{before}{start}\n{tables}{end}{after}", encoding="utf-8")
