"""`python -m benchmarks.growth` at tiny sizes, in this process: what is measured, what is written, what is drawn."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from benchmarks import growth
from benchmarks.growth import GrowthOptions, read_growth_options
from benchmarks.growth_data import STEPS, make_table, start
from benchmarks.growth_report import END, START, exponent
from benchmarks.growth_updates import Point, measure
from benchmarks.options import OptionError
from benchmarks.plot import COLUMNS, HEIGHT, WIDTH, Axis, Panel, Series, draw

from leyden.training import prepare as room

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read as Linux tells it")


def shapes(svg: str, name: str) -> list[dict[str, str]]:
    return [
        dict(element.attrib) for element in ElementTree.fromstring(svg).iter(f"{{http://www.w3.org/2000/svg}}{name}")
    ]


def test_what_grows_linearly_rises_as_a_straight_line() -> None:
    axis = Axis(1.0, 100.0, 0.0, 200.0)
    assert [axis.pixel(number) for number in (1, 10, 100)] == [0, 100, 200]
    assert axis.ticks() == [1, 10, 100]
    assert Axis(8, 60, 0, 1).ticks() == [10, 20, 50]
    assert Axis(1900, 4600, 0, 1).ticks() == [2000, 3000, 4000]
    panel = Panel("a < b", "x", "y", [Series("line", [(1, 2), (10, 20), (100, 200)]), Series("other", [(1, 9)], True)])
    svg = draw([panel, panel, panel])
    (root,) = shapes(svg, "svg")
    assert (root["width"], root["height"]) == (str(COLUMNS * WIDTH), str(2 * HEIGHT))
    line = shapes(svg, "polyline")[0]["points"].split()
    (x1, y1), (x2, y2), (x3, y3) = (map(float, point.split(",")) for point in line)
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y2 - y1 == pytest.approx(y3 - y2, abs=0.2)
    assert (x1 < x3, y1 > y3) == (True, True)
    assert len(shapes(svg, "circle")) == 9, "a dashed line has no points"


def test_the_power_of_a_growth() -> None:
    assert exponent([(x, 3 * x**2) for x in (1, 2, 4, 8)]) == pytest.approx(2)
    assert exponent([(512, 7), (4096, 7)]) == pytest.approx(0)
    assert exponent([(1, 0), (2, 4), (4, 16)]) == pytest.approx(2)
    assert exponent([(512, 7), (512, 8)]) is None
    assert exponent([(512, 0), (1024, 8)]) is None


def test_points_that_are_not_above_0_have_no_place() -> None:
    some, none = Series("one", [(1, 0), (10, 1), (100, 10)]), Series("no", [(1, 0)])
    svg = draw([Panel("a", "x", "y", [some]), Panel("b", "x", "y", [none])])
    assert len(shapes(svg, "circle")) == 2
    assert "b: nothing above 0" in svg


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["part=row"], "part=row is not allowed. Allowed: updates, vocabulary, rows"),
        (["size=1"], "'size=1' is no option. .* sizes"),
        (["sizes=512,many"], "sizes=512,many is not a whole number, or several"),
        (["rows=0"], "rows=0: each must be above 0"),
        (["updates=1"], "updates=1: the first update is not counted"),
        (["sizes=512"], "sizes=512: growth is seen between two sizes"),
    ],
)
def test_wrong_options_say_what_is_allowed(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OptionError, match=message):
        read_growth_options(words)
    assert growth.main(words) == 2
    assert words[0] in capsys.readouterr().err


def test_options_are_read() -> None:
    found = read_growth_options(["part=rows,updates", "rows=10,2", "threads=2", "document=docs/benchmarks.md"])
    assert found == GrowthOptions(part=("rows", "updates"), rows=(2, 10), threads=2, document="docs/benchmarks.md")


def test_a_second_start_finds_what_the_first_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_CACHE", str(tmp_path / "cache"))
    for step in STEPS:
        monkeypatch.setattr(room, step, getattr(room, step))  # taken back at the end
    table = tmp_path / "rows.csv"
    make_table(table, 500, chained=True)
    first = start(table, chained=True, batches=1, until="update")
    second = start(table, chained=True, batches=1, until="update")
    assert first["counts"] == second["counts"]
    assert first["counts"]["samples"] > 300
    assert first["steps"].keys() == {*STEPS, "prepare", "batches", "fit to first update"}
    assert second["steps"]["prepare"]["cpu"] < first["steps"]["prepare"]["cpu"] / 2
    assert first["peak_mb"] >= first["anonymous_mb"] > 0


def test_parts_are_measured_and_written_and_the_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings that the command makes in processes of their own are made in this one."""

    def here(point: Point, updates: int, threads: int) -> dict[str, Any]:
        folder = tmp_path / f"{point.rows}x{point.length}-{point.vocabulary}"
        folder.mkdir(exist_ok=True)
        return measure(point, updates, folder)

    monkeypatch.setattr(growth, "measure_apart", here)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n", encoding="utf-8")
    options = [f"output={tmp_path}", f"document={page}", "sizes=64,128", "vocabularies=300,600", "backbone=tiny"]
    assert growth.main([*options, "part=updates"]) == 0
    known = json.loads((tmp_path / "growth.json").read_text(encoding="utf-8"))
    numbers = known["updates"]["numbers"]
    assert [(one["grows"], one["rows"], one["length"], one["tokens"]) for one in numbers] == [
        ("rows", 1, 64, 63), ("rows", 2, 64, 126), ("length", 1, 64, 63), ("length", 1, 128, 127),
    ]  # fmt: skip
    assert all(0 < one["seconds"] < 30 and 0 < one["cpu"] < 60 and one["peak_mb"] > 50 for one in numbers)
    assert growth.main([*options, "part=vocabulary"]) == 0
    found = json.loads((tmp_path / "growth.json").read_text(encoding="utf-8"))
    assert found["updates"] == known["updates"]
    assert [(one["vocabulary"], one["tokens"]) for one in found["vocabulary"]["numbers"]] == [
        (300, 127), (600, 127), (600, 63), (600, 127),
    ]  # fmt: skip
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{START}\nOne update, ")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "| 126 | more rows: 2 x 64 |" in text
    assert f"| 600 | 127 | {found['vocabulary']['numbers'][1]['peak_mb']:,} | 0 |" in text
    svg = (tmp_path / "growth.svg").read_text(encoding="utf-8")
    assert len(shapes(svg, "rect")) == 1 + 3, "three diagrams"
    assert not math.isnan(sum(float(place["cy"]) for place in shapes(svg, "circle")))
