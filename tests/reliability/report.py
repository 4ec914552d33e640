"""The figures as Markdown, between two marks of a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.reliability.faults import Fault
from tests.reliability.kills import Kills
from tests.reliability.options import Options
from tests.reliability.soak import Soak

MARKS = ("<!-- figures -->", "<!-- end of the figures -->")


def markdown(
    options: Options, when: str, kills: Sequence[Kills], soaks: Sequence[Soak], faults: Sequence[Fault]
) -> str:
    """All that was found."""
    words = f"kills={options.kills} faults={options.faults} updates={options.updates} seed={options.seed}"
    parts = [f'Measured on {when} with `make reliability ARGS="{words}"`.\n']
    if kills:
        parts += ["### Kills\n", *_kills(kills)]
    if soaks:
        parts += ["### Soak\n", *_soak(soaks)]
    if faults:
        parts += ["### Faults\n", *_faults(faults)]
    return "\n".join(parts)


def _kills(kills: Sequence[Kills]) -> list[str]:
    lines = ["| problem | runs | SIGKILLs | updates that their newest checkpoint had | resumed bit-equal |",
             "|---|---|---|---|---|"]  # fmt: skip
    for scenario in dict.fromkeys(one.scenario for one in kills):
        own = [one for one in kills if one.scenario == scenario]
        reached = ", ".join(map(str, sorted(update for one in own for update in one.reached)))
        same, all_kills = sum(not one.wrong for one in own), sum(len(one.moments) for one in own)
        lines.append(f"| {scenario} | {len(own)} | {all_kills} | {reached} | {same} of {len(own)} |")
    return [*lines, ""]


def _soak(soaks: Sequence[Soak]) -> list[str]:
    lines = [
        "| | updates | stopped and gone on with | memory at the end | slope per update | open files, median of the first "
        "half and of the second | processes left |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, one in zip(("never stopped", "stopped at random updates"), soaks, strict=True):
        lines.append(
            f"| {name} | {one.updates} | {one.stops} | {one.memory:.0f} MiB | {one.slope:+.2f} KiB | {one.files[0]}, "
            f"{one.files[1]} | {one.left} |"
        )
    equal = "not bit-equal" if soaks[1].wrong else "bit-equal"
    return [*lines, "", f"Both runs are {equal}: numbers, weights, results and predictions.", ""]


def _faults(faults: Sequence[Fault]) -> list[str]:
    lines = ["| fault | injected | what came of it | not as it should be |", "|---|---|---|---|"]
    for kind in dict.fromkeys(one.kind for one in sorted(faults, key=lambda one: -one.kind.share)):
        own = [one for one in faults if one.kind is kind]
        came = "; ".join(
            f"{count} × {what}" for what, count in Counter(one.outcome for one in own if one.outcome).items()
        )
        lines.append(f"| {kind.name} | {len(own)} | {came} | {sum(bool(one.wrong) for one in own)} |")
    good = [one for one in faults if not one.wrong]
    survived = sum(not one.kind.bad_input for one in good)
    tried = sum(one.kind.bad_input for one in faults)
    lost = "none" if len(good) == len(faults) else f"see the {len(faults) - len(good)} that went wrong"
    lines += [
        "",
        f"Faults survived: {survived} of {len(faults) - tried}. Bad inputs tried: {tried}. Data lost: {lost}.",
    ]
    return [*lines, ""]
