"""Pages: what is filled in is text, whatever it says, and nothing is asked of any host."""

from __future__ import annotations

import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from markupsafe import Markup
from tests.report_runs import HOSTILE

from leyden.report import page as pages
from leyden.report.charts import chart, figure_of, line
from leyden.report.page import (
    Section,
    duration,
    fill,
    heading,
    json_script,
    number,
    render_page,
    shown,
    words,
    write_page,
)

ELEMENTS = {"script", "img", "a", "b", "iframe", "object", "link"}


class Elements(HTMLParser):
    """Start tags with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def counted(page: str) -> dict[str, int]:
    return {tag: sum(tag == name for name, _ in Elements(page).tags) for tag in ELEMENTS}


def a_page(text: str) -> str:
    figure = figure_of([line(text, [1, 2], [1.0, 2.0]), line(f"{text}2", [1, 2], [2.0, 1.0])], x=text, y=text)
    drawn = chart(figure, text, title=text, note=text, table=([text], [[text], [1.5], [None]]))
    sections = [Section("a", text, drawn, lead=text), Section("b", text, json_script("data", {text: text}))]
    return render_page(text, sections, kind=text, subtitle=text)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_adds_no_element_and_ends_none(text: str) -> None:
    hostile, plain = a_page(text), a_page("plain")
    assert counted(hostile) == counted(plain)
    assert json.loads(_data(hostile)) == {shown(text): shown(text)}
    assert "\0" not in hostile
    assert "\x07" not in hostile


def _data(page: str) -> str:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return found[1]


def test_a_page_names_no_host_and_forbids_all(tmp_path: Path) -> None:
    page = a_page("x")
    policy = next(a["content"] for tag, a in Elements(page).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'nonce-")
    for tag, attributes in Elements(page).tags:
        for name in ("src", "href", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,")), (tag, attributes)
        if tag == "script":
            assert attributes.get("nonce") or attributes["type"] in ("application/json", "application/gzip")


def test_the_same_sections_make_the_same_page_and_others_another_word_for_scripts() -> None:
    nonces = [re.search(r"nonce-(\w+)", a_page(text)) for text in ("x", "x", "y")]
    words = [found and found[1] for found in nonces]
    assert words[0] is not None
    assert words[0] == words[1] != words[2]


def test_scripts_and_styles_of_a_section_come_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("page.css", "page.js", "own.css", "own.js"):
        (tmp_path / name).write_text(f"/* {name} */")
    monkeypatch.setattr(pages, "PAGES", tmp_path)
    pages._asset.cache_clear()
    try:
        assert "own.js" in render_page("t", [Section("own", "Own", Markup())])
        other = render_page("t", [Section("other", "Other", Markup())])
    finally:
        pages._asset.cache_clear()
    assert "page.js" in other
    assert "own." not in other


def test_plotly_comes_only_with_a_chart_and_once() -> None:
    without = render_page("t", [Section("a", "A", fill("smoothing"))])
    assert len(without) < 60_000
    one = chart(figure_of([line("x", [1], [1.0])]), "label")
    assert render_page("t", [Section("a", "A", one + one)]).count('id="plotly"') == 1


def test_a_value_for_scripts_is_what_it_was() -> None:
    value = {"</script>": ["\u2028", math.nan, math.inf, np.float32(0.5), np.arange(2), None, True, "\ud800"]}
    read = json.loads(_data(str(json_script("data", value))))
    assert read == {"</script>": ["\u2028", None, None, 0.5, [0, 1], None, True, "\ufffd"]}


def test_a_missing_value_is_an_error_of_ours() -> None:
    with pytest.raises(Exception, match="figure"):
        fill("chart", label="", title="", note="", columns=[], rows=[], all_rows=0, controls=[])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"), (math.nan, "–"), (math.inf, "–"), (0, "0"), (0.0, "0"), (12345, "12,345"), (3.0, "3"),
        (0.123456, "0.1235"), (1234.5, "1,234"), (1e-5, "1.000e-05"), (-0.5, "-0.5"), (np.float64(0.25), "0.25"),
        (np.int64(1000), "1,000"),
    ],
)  # fmt: skip
def test_numbers_are_written_for_people(value: object, expected: str) -> None:
    assert number(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(None, "–"), (0.04, "0.0 s"), (9.96, "10.0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_times_are_written_for_people(seconds: float | None, expected: str) -> None:
    assert duration(seconds) == expected


def test_a_page_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(path, "one \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"))
    write_page(path, "two")
    assert path.read_text() == "two"
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    ("name", "said", "headed"),
    [
        ("reward_margin", "reward margin", "Reward margin"),
        ("auc", "AUC", "AUC"),
        ("log_loss", "log loss", "Log loss"),
        ("chrf", "chrF", "chrF"),
    ],
)
def test_names_are_said_as_people_write_them(name: str, said: str, headed: str) -> None:
    assert (words(name), heading(name)) == (said, headed)


def test_a_draft_of_a_killed_process_goes_and_one_that_is_written_stays(tmp_path: Path) -> None:
    gone = os.fork()
    if not gone:
        os._exit(0)
    os.waitpid(gone, 0)
    names = [f".page[1].html.{pid}.partial" for pid in (gone, os.getppid())] + [".page[1].html.mine.partial"]
    for name in names:
        (tmp_path / name).write_text("half", encoding="utf-8")
    write_page(tmp_path / "page[1].html", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[1:], "page[1].html"])
