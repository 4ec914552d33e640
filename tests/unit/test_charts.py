"""Charts: figures for plotly's script, and the same numbers for those who do not run it."""

from __future__ import annotations

import base64
import gzip
import json
import re
from importlib.util import find_spec
from pathlib import Path

from leyden.report.charts import MOST_ROWS, chart, figure_of, line, rows_of, thinned
from leyden.report.plotly_script import plotly_script


def test_the_script_of_plotly_comes_back_as_it_is() -> None:
    packed = re.search(r">([A-Za-z0-9+/=]+)<", str(plotly_script()))
    assert packed
    assert len(packed[1]) < 2_200_000
    spec = find_spec("plotly")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent / "package_data" / "plotly.min.js"
    assert gzip.decompress(base64.b64decode(packed[1])) == source.read_bytes()


def test_a_table_has_a_row_for_each_x_and_a_column_for_each_series() -> None:
    figure = figure_of([line("a", [2, 1], [0.2, 0.1]), line("b", [1, 3], [1.0, None])], x="update")
    assert rows_of(figure) == (["update", "a", "b"], [[1, 0.1, 1.0], [2, 0.2, None], [3, None, None]])
    words = figure_of([{"type": "bar", "x": ["z", "a"], "y": [1, 2]}], layout={"xaxis": {"title": {"text": "class"}}})
    assert rows_of(words) == (["class", "series 1"], [["z", 1], ["a", 2]])
    assert rows_of({"data": [{"type": "heatmap", "z": [[1]]}]}) == ([], [])


def test_long_tables_are_thinned_and_say_so() -> None:
    rows = [[place] for place in range(1000)]
    few = thinned(rows)
    assert (len(few), few[0], few[-1]) == (MOST_ROWS, [0], [999])
    assert few == sorted(few)
    drawn = chart(figure_of([line("a", range(1000), range(1000))]), "label")
    assert f"{MOST_ROWS} of 1,000 rows" in drawn
    assert "rows, evenly" not in chart(figure_of([line("a", [1], [1])]), "label")


def test_controls_come_with_the_second_series() -> None:
    one, two = line("a", [1], [1]), line("b", [1], [2], series=1)
    assert "data-trace" not in chart(figure_of([one]), "label")
    assert chart(figure_of([one, two]), "label").count("data-trace") == 2
    assert (one["line"]["dash"], one["line"]["color"]) != (two["line"]["dash"], two["line"]["color"])
    assert one["line"]["dash"] != two["line"]["dash"]  # not by colour alone


def test_a_figure_is_in_the_page_as_it_was_given() -> None:
    figure = figure_of([line("</script>&", [1, 2], [float("nan"), 2.0])])
    text = re.search(r'<script type="application/json">(.*?)</script>', chart(figure, "label"), re.DOTALL)
    assert text
    read = json.loads(text[1])
    assert read["data"][0]["name"] == "</script>&"
    assert read["data"][0]["y"] == [None, 2.0]
