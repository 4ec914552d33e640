"""The page over many runs in a browser: sorting, two runs side by side, by keyboard, with hostile names and answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.browser.open_pages import LAPTOP, PHONE, axe_violations, draw_charts, focus_order, unreached
from tests.report_copies import change_json, copied, with_metric, with_predictions

from leyden.report.comparison import write_comparison

Open = Callable[..., Any]
EVIL = "<img src=x onerror='window.planted=1'>"
ARABIC = "\u202eright to left"
ANSWERS = {
    "good": "the cat sat on the mat",
    EVIL: "the dog sat on the mat",
    ARABIC: "nothing of this is there, in no way, so that no mark says anything at all, whatever one looks at",
}


def answered(run: Path, answer: str) -> Path:
    """The run with this answer in its first row."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[0, "prediction"] = answer
        return table

    return with_predictions(run, change)


@pytest.fixture(scope="module")
def comparison(text_run: Path, preference_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs of one problem and one that has failed."""
    folder = tmp_path_factory.mktemp("runs")
    for place, (name, answer) in enumerate(ANSWERS.items()):
        run = answered(copied(text_run, folder / name, r=str(4 * 2**place), dropout=f"0.{place}"), answer)
        with_metric(with_metric(run, "loss", [3.0, 12.0, 5.0][place]), "bleu", [30.0, 20.0, 10.0][place])
    failed = copied(text_run, folder / "failed", r="64")
    for name in ("results.json", "metrics.csv", "predictions.parquet", "manifest.json"):
        (failed / name).unlink()
    change_json(failed / "progress.json", lambda said: said.update(status="failed", reason=EVIL))
    write_comparison([folder], folder / "comparison.html")
    return folder / "comparison.html"


@pytest.fixture(scope="module")
def page(keep_page: Open, comparison: Path) -> Any:
    """It is open once: what a test chooses on it, it takes back, or the next one chooses anew."""
    return keep_page(comparison)


def column(page: Any, heading: str) -> list[str]:
    """The cells of a column, as they are shown."""
    return page.evaluate(
        """(name) => {
            const table = document.querySelector("#compare-runs table");
            const names = [...table.tHead.rows[0].cells].map((one) => one.querySelector("bdi").textContent);
            const place = names.indexOf(name);
            return [...table.tBodies[0].rows].map((row) => row.cells[place].querySelector("bdi").textContent);
        }""",
        heading,
    )


def test_a_heading_sorts_by_keyboard_and_what_has_no_value_stays_last(page: Any) -> None:
    assert column(page, "Run") == ["good", EVIL, ARABIC, "failed"], "bleu, highest first"
    heading = page.get_by_role("columnheader", name="loss", exact=True)
    heading.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert (column(page, "loss"), heading.get_attribute("aria-sort")) == (["3", "5", "12", "–"], "ascending")
    page.keyboard.press("Space")
    assert (column(page, "loss"), heading.get_attribute("aria-sort")) == (["12", "5", "3", "–"], "descending")
    page.get_by_role("button", name="lora.r").click()
    assert column(page, "lora.r") == ["4", "8", "16", "64"]
    assert heading.get_attribute("aria-sort") is None
    assert [text.split() for text in page.locator("#compare-runs td.best").all_inner_texts()] == [
        ["★", "best:", "30"], ["★", "best:", "3"],
    ]  # fmt: skip


def test_two_runs_are_chosen_by_keyboard_and_their_differences_marked(page: Any) -> None:
    first = page.locator(".row-pair").first
    assert first.locator(".answer dt").all_inner_texts() == ["good", EVIL]
    assert first.locator("mark").all_inner_texts() == ["cat", "dog"]
    assert page.locator("#pair-said").inner_text() == (
        "10 of 10 rows are shown. Both runs have 10 rows in common; 0 rows only in the first and 0 rows only in the "
        "second have no match. This page has 10 of them."
    )
    page.locator("#pair-differ").focus()
    page.keyboard.press("Space")
    assert page.locator(".row-pair").count() == 1
    page.locator("#pair-b").focus()
    page.keyboard.press("ArrowDown")
    assert first.locator(".answer dt").all_inner_texts() == ["good", ARABIC]
    assert first.locator("mark").count() == 0
    assert "Hardly a word in common." in first.inner_text()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert page.locator(".row-pair").count() == 0, "a run does not differ from itself"
    page.locator("#pair-differ").uncheck()
    page.locator("#pair-search").fill("THE CAT")
    assert page.locator(".row-pair").count() == 1
    page.locator("#pair-search").fill("")


def test_names_and_answers_are_text_and_nothing_else(page: Any) -> None:
    page.locator("#pair-b").select_option(label=EVIL)
    assert page.evaluate("window.planted") is None
    assert page.locator("main img, main script:not([type])").count() == 0
    body = page.locator("body").inner_text()
    for text in (EVIL, ARABIC, "<script>window.planted = 1</script>", "{{ 7 * 7 }} ${7*7} %{x} &amp; <b>bold</b>"):
        assert text in body
    assert "(100,700 characters)" in body


@pytest.mark.parametrize(("size", "scheme"), [(PHONE, "dark"), (LAPTOP, "light")])
def test_everybody_can_use_it(size: dict[str, int], scheme: str, comparison: Path, open_page: Open) -> None:
    page = open_page(comparison, size=size, scheme=scheme)
    draw_charts(page)
    assert axe_violations(page) == []
    order = focus_order(page)
    assert not [one for one in order if one.endswith("UNSEEN")]
    assert unreached(page) == []
    wide = """() => [...document.querySelectorAll("main *")].filter((one) => !one.closest(".wide, .plot, .aloud")
        && one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.outerHTML.slice(0, 80))"""
    assert page.evaluate(wide) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


def test_without_scripts_the_table_is_there(comparison: Path, open_page: Open) -> None:
    page = open_page(comparison, java_script_enabled=False)
    text = page.locator("main").inner_text()
    for part in ("good", "failed", "30", "A script of this page fills this in."):
        assert part in text


def test_two_hundred_runs_are_written_and_opened_in_seconds(
    preference_run: Path, tmp_path: Path, open_page: Open
) -> None:
    for number in range(200):
        run = copied(preference_run, tmp_path / f"run{number:03d}", learning_rate=f"{1e-5 * (1 + number):.3g}")
        with_metric(run, "loss", 1 / (1 + number))
    path, before = tmp_path / "comparison.html", time.process_time()
    write_comparison([tmp_path], path)
    assert time.process_time() - before < 15
    assert path.stat().st_size < 8e6
    assert path.read_text(encoding="utf-8").count("Of 200 runs those that stand first in the table are drawn") == 1
    page = open_page(path)
    assert page.locator("#compare-runs tbody tr").count() == 200
    took = []
    for _ in range(3):
        page.reload()
        took.append(page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd") / 1000)
        if took[-1] < 3:
            break
    assert min(took) < 3, took
