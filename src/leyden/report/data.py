"""The section on the training data: what the tables hold, what is lost of them, and samples as the model sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from leyden.report.charts import chart, figure_of, line
from leyden.report.page import Section, fill, number
from leyden.report.run_files import RunFiles
from leyden.report.token_runs import shown_parts

Json = Mapping[str, Any]
LOSSES = ("lost", "cut", "left out", "without a token", "weight 0", "repeat", "equal to", "also in training", "empty")
PARTS = {"train": "training", "validation": "validation"}
ALIKE = 0.25  # share of words in common from which on a pair has its differences marked
BAR, ROOM = 24, 90  # pixels of a bar, and around all of them


def section(run: RunFiles) -> Section | None:
    """What `data.json` says; None while there is none."""
    data = run.data
    if data is None:
        return None
    counts, absent = _counts(data["counts"])
    body = fill(
        "data", tables=data["tables"], counts=counts, absent=absent, parts=[_part(name) for name in data["counts"]],
        warnings=data["warnings"], notes=data["notes"], duplicates=data["duplicates"], overlap=data["overlap"],
        charts=[*map(_lengths, data["lengths"]), *_labels(data)], samples=[_sample(one) for one in data["samples"]],
        legend=_legend(data),
    )  # fmt: skip
    return Section("data", "Training data", body, _lead(data))


def _lead(data: Json) -> str:
    """The whole in one sentence."""
    sizes = " and ".join(f"{number(part['rows'])} rows for {_part(name)}" for name, part in data["counts"].items())
    forms = {"columns": "one text per cell", "messages": "lists of messages", "preferences": "pairs of message lists"}
    kinds = ", ".join(dict.fromkeys(kind for table in data["tables"] for kind in table["formats"]))
    return f"{sizes}, read from {kinds} as {forms.get(data['form'], data['form'])}."


def _part(name: str) -> str:
    return PARTS.get(name, name)


def _counts(counts: Mapping[str, Json]) -> tuple[list[tuple[str, bool, list[Any]]], list[str]]:
    """Each count of the gates: its name, whether it tells of a loss, its number in each part; and those that are 0."""
    names = dict.fromkeys(name for part in counts.values() for name in part)
    rows: list[tuple[str, bool, list[Any]]] = []
    absent = []
    for name in names:
        values = [part.get(name) for part in counts.values()]
        lost = any(word in name for word in LOSSES) and any(values)
        shown = [f"{value:.1%}" if name.startswith("share") and value is not None else value for value in values]
        if any(values):
            rows.append((name, lost, shown))
        else:
            absent.append(name)
    return rows, absent


def _lengths(lengths: Json) -> Markup:
    """A histogram of token lengths with the limit in it, of all parts in shares of their samples."""
    edges, limit, parts = lengths["edges"], lengths["limit"], lengths["parts"]
    usual = edges[1] - edges[0]
    drawn = [*edges[:-1], min(edges[-1], edges[-2] + 2 * usual)]  # the last bin may be many times as wide
    traces, near = [], 2 * edges[-1] > limit
    for place, (name, part) in enumerate(parts.items()):
        whole = max(1, sum(part["counts"]))
        shares = [100 * count / whole for count in part["counts"]]
        step = line(_part(name), drawn, [*shares, shares[-1]], series=place)
        traces.append({**step, "line": {**step["line"], "shape": "hv"}, **({"fill": "tozeroy"} if not place else {})})
    mark = {
        "shapes": [{"type": "line", "x0": limit, "x1": limit, "yref": "paper", "y0": 0, "y1": 1,
                    "line": {"color": "var(--bad)", "width": 2, "dash": "dash"}}],
        "annotations": [{"x": limit, "y": 1, "yref": "paper", "text": f"limit {limit:,}", "showarrow": False,
                         "xanchor": "right" if limit > drawn[-1] / 2 else "left", "yanchor": "bottom",
                         "font": {"color": "var(--bad)"}}],
        "margin": {"l": 12, "r": 12, "t": 26, "b": 8},
    }  # fmt: skip
    over = {_part(name): part["over"] for name, part in parts.items()}
    longest = max(part["longest"] for part in parts.values())
    said = ", ".join(f"{number(count)} of {name}" for name, count in over.items())
    note = f"Tokens before anything is cut. {lengths['setting']} is {limit:,}; longer: {said}."
    note += f" The longest has {longest:,}."
    if edges[-1] > drawn[-1]:
        note += f" The last step holds all from {edges[-2]:,} on."
    spans = [f"{start:,} – {end - 1:,}" for start, end in zip(edges, edges[1:], strict=False)]
    rows = [[span, *(part["counts"][place] for part in parts.values())] for place, span in enumerate(spans)]
    title = f"Lengths of {lengths['of']}"
    return chart(
        figure_of(traces, x="tokens", y="% of the part", layout={
            "xaxis": {"title": "tokens", "range": [0, max(drawn[-1], limit * 1.04 if near else 0)]},
            "yaxis": {"title": "% of the part", "rangemode": "tozero"}, **(mark if near else {}),
        }),
        f"{title}: share of the samples over their tokens. {note}", title=title, note=note,
        table=(["tokens", *map(_part, parts)], rows),
    )  # fmt: skip


def _labels(data: Json) -> list[Markup]:
    """Bars for the rows of each label; a histogram for each column of numbers."""
    if balance := data.get("balance"):
        return [_balance(balance)]
    return [_targets(column, found) for column, found in (data.get("targets") or {}).items()]


def _balance(balance: Mapping[str, Mapping[str, int]]) -> Markup:
    names = list(dict.fromkeys(name for part in balance.values() for name in part))
    short = [f"{place}. {name[:40]}" for place, name in enumerate(names, 1)]
    rows = [[name, *(part.get(name, 0) for part in balance.values())] for name in names]
    traces = [
        {
            "type": "bar", "orientation": "h", "name": _part(part), "y": short,
            "x": [counts.get(name, 0) for name in names], "meta": {"series": place + 1},
            "marker": {"color": f"var(--series-{place + 1})", "pattern": {"shape": "/" if place else ""}},
        }
        for place, (part, counts) in enumerate(balance.items())
    ]  # fmt: skip
    first = next(iter(balance.values()))
    counts = [first.get(name, 0) for name in names]
    note = f"{len(names)} labels; in {_part(next(iter(balance)))} from {min(counts):,} to {max(counts):,} rows."
    height = ROOM + BAR * len(names) * len(traces)
    layout = {
        "height": height, "barmode": "group", "hovermode": "closest", "bargap": 0.25,
        "xaxis": {"title": "rows"}, "yaxis": {"title": "", "autorange": "reversed", "type": "category"},
    }  # fmt: skip
    return chart(
        figure_of(traces, layout=layout), f"Rows of each label. {note}", title="Label balance", note=note,
        table=(["label", *map(_part, balance)], rows),
    )  # fmt: skip


def _targets(column: str, found: Json) -> Markup:
    edges, parts = found["edges"], found["parts"]
    traces = []
    for place, (name, part) in enumerate(parts.items()):
        step = line(_part(name), edges, [*part["counts"], part["counts"][-1]], series=place)
        traces.append({**step, "line": {**step["line"], "shape": "hv"}})
    spans = [f"{number(start)} – {number(end)}" for start, end in zip(edges, edges[1:], strict=False)]
    rows = [[span, *(part["counts"][place] for part in parts.values())] for place, span in enumerate(spans)]
    note = f"Numbers to predict, from {number(edges[0])} to {number(edges[-1])}."
    return chart(
        figure_of(traces, x=column, y="rows"), f"Rows over the numbers of {column}. {note}",
        title=f"Targets: {column}", note=note, table=([column, *map(_part, parts)], rows),
    )  # fmt: skip


def _sample(sample: Json) -> dict[str, Any]:
    """A sample with its tokens in runs."""
    pair = sample.get("pair")
    named = [f"id {sample['id']}"] if sample.get("id") is not None else []
    tokens = f"{number(sample['length'])} tokens"
    if sample["before"] > sample["length"] and sample["cut"]:
        tokens = f"{tokens} of {number(sample['before'])}"
    return {
        "title": f"{_part(sample['part']).capitalize()}, {sample['place']}",
        "facts": [*named, sample["why"], tokens, *([f"{sample['turns']} turns"] if sample["turns"] > 1 else [])],
        "cut": ", ".join(sorted(sample["cut"])),
        "weight": sample["weight"],
        "labels": sample["labels"] or {},
        "parts": list(shown_parts(sample)) if sample["tokens"] else [],
        "unlike": pair is not None and pair["alike"] < ALIKE,
        "pair": [(title, list(shown_parts(view))) for title, view in _sides(sample).items()],
    }


def _sides(sample: Json) -> dict[str, Json]:
    """The two answers of a pair."""
    pair = sample.get("pair")
    return {"Better answer": pair["chosen"], "Worse answer": pair["rejected"]} if pair else {}


def _legend(data: Json) -> Sequence[str]:
    """The kinds of tokens that the samples have."""
    views = [view for one in data["samples"] for view in (one, *_sides(one).values())]
    tokens = [token for view in views for token in view["tokens"]]
    roles = {role for _, role, _ in tokens}
    letters = set().union(*(said for _, _, said in tokens))
    present = [name for name in ("system", "prompt", "answer") if name in roles]
    if any("t" in said for _, _, said in tokens):
        present.append("predicted")
    names = (("m", "markup"), ("c", "control"), ("s", "shared"), ("d", "different"), ("b", "raw"))
    return [*present, *(name for letter, name in names if letter in letters)]
