"""The page of a run in a browser: it draws, answers the keyboard, reads aloud, prints, and asks for nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.browser.open_pages import (
    LAPTOP,
    PHONE,
    axe_violations,
    draw_charts,
    focus_order,
    fold_again,
    unfold,
    unreached,
)

from leyden.report.report import write_report

LIMIT = 5 * 2**20  # bytes of the page of a default job
Open = Any


@pytest.fixture(scope="module")
def page_file(preference_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a small run, with a name that no page may fall for."""
    name = "run <img src=x onerror=window.planted=1> & more"
    copy = tmp_path_factory.mktemp("page") / name
    return write_report(shutil.copytree(preference_run, copy, ignore=shutil.ignore_patterns("checkpoints", "model")))


@pytest.fixture(scope="module")
def page(keep_page: Open, page_file: Path) -> Any:
    """It is open once: what a test changes on it, it changes back."""
    opened = keep_page(page_file)
    draw_charts(opened)
    return opened


def drawn(page: Any) -> list[int]:
    """Curves in each chart."""
    return page.evaluate(
        "[...document.querySelectorAll('#curves .plot')]"
        ".map((plot) => plot.querySelectorAll('.scatterlayer .trace').length)"
    )


def test_it_draws_every_chart_and_says_nothing(page: Any, page_file: Path) -> None:
    assert page.title().startswith("run <img")
    assert page.locator("h1").inner_text() == page_file.parent.name
    counts = drawn(page)
    assert len(counts) >= 10
    assert min(counts) >= 1
    assert page.evaluate("window.planted") is None
    assert page.locator(".unscripted").count() == 0
    assert page_file.stat().st_size < LIMIT


def test_the_browser_refuses_what_would_be_fetched(open_page: Open, page_file: Path, browser: Any) -> None:
    context = browser.new_context(viewport=LAPTOP)
    page = context.new_page()
    asked: list[str] = []
    page.on("response", lambda response: asked.append(response.url))
    page.on("requestfailed", lambda request: asked.append(f"{request.failure} {request.url}"))
    page.goto(page_file.as_uri())
    ran = page.evaluate(
        """async () => {
            const image = "<img src='https://example.invalid/x.png' onerror='window.planted=1'>";
            document.body.insertAdjacentHTML("beforeend", image);
            const script = document.createElement("script");
            script.textContent = "window.planted = 2";
            document.body.append(script);
            return fetch("https://example.invalid/").then(() => "fetched", () => "refused");
        }"""
    )
    assert ran == "refused"
    assert page.evaluate("window.planted") is None
    assert {one for one in asked if not one.startswith("file:")} <= {"csp https://example.invalid/x.png"}
    context.close()


@pytest.mark.parametrize(("size", "scheme"), [(LAPTOP, "light"), (PHONE, "dark")], ids=["laptop", "phone"])
def test_axe_finds_nothing_and_no_page_scrolls_sideways(page: Any, scheme: str, size: dict[str, int]) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(size)
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert axe_violations(page) == []
    fold_again(page)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(LAPTOP)


def test_axe_sees_a_text_too_pale_on_any_of_many_elements(page: Any) -> None:
    """Also where one that looks the same is hidden before it."""
    page.evaluate(
        """() => {
            const text = document.querySelectorAll("#configuration td bdi")[40];
            text.style.color = "rgb(160, 160, 160)";
            text.before(text.cloneNode(true));
            text.previousElementSibling.style.visibility = "hidden";
        }"""
    )
    unfold(page)
    assert ["color-contrast" in one for one in axe_violations(page)] == [True]
    page.evaluate("document.querySelectorAll('#configuration td bdi')[40].remove()")
    page.evaluate("document.querySelectorAll('#configuration td bdi')[40].removeAttribute('style')")
    fold_again(page)


def test_the_keyboard_reaches_every_control_and_shows_where_it_is(page: Any) -> None:
    order = focus_order(page)
    assert [one for one in order if one.endswith("UNSEEN")] == []
    assert unreached(page) == []
    assert {"button theme", "input smoothing"} <= set(order)
    assert order[0] == "a Skip to the content"


def test_smoothing_by_keyboard_moves_the_curves(page: Any) -> None:
    assert drawn(page)[0] == 3  # what was logged, that smoothed, and validation
    raw, smooth = (page.evaluate(f"document.querySelector('#curves .plot').data[{place}].y") for place in (0, 1))
    weight, last, expected = 0.6, 0.0, []
    for place, value in enumerate(raw, 1):
        last = weight * last + (1 - weight) * value
        expected.append(last / (1 - weight**place))
    assert smooth == pytest.approx(expected, rel=1e-9)
    page.focus("#smoothing")
    page.keyboard.press("Home")
    assert page.locator("#smoothing-value").inner_text() == "0.00"
    assert drawn(page)[0] == 2
    assert page.evaluate("document.querySelector('#curves .plot').data[0].y") == raw
    page.evaluate("document.getElementById('smoothing').value = 0.6")
    page.locator("#smoothing").dispatch_event("input")
    assert drawn(page)[0] == 3


def test_a_series_is_hidden_by_its_label_and_comes_back(page: Any) -> None:
    before = drawn(page)[0]
    box = page.locator("#curves figure").first.get_by_role("checkbox", name="validation")
    box.focus()
    page.keyboard.press("Space")
    assert drawn(page)[0] == before - 1
    page.keyboard.press("Space")
    assert drawn(page)[0] == before


def test_dark_and_light_are_a_button_that_the_charts_follow(page: Any) -> None:
    def colors() -> tuple[str, str]:
        return page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, "
            "document.querySelector('#curves .plot').data[1].line.color]"
        )

    light = colors()
    page.get_by_role("button", name="Dark colours").press("Enter")
    dark = colors()
    assert dark[0] != light[0]
    assert dark[1] != light[1]
    page.get_by_role("button", name="Light colours").click()
    assert colors() == light


def test_on_paper_charts_are_light_and_fit(open_page: Open, page_file: Path) -> None:
    page = open_page(page_file, scheme="dark")
    draw_charts(page)
    wide = page.evaluate("document.querySelector('#curves .plot').clientWidth")
    page.set_viewport_size({"width": 700, "height": 990})
    page.emulate_media(media="print")
    color = "document.querySelector('#curves .plot').data[1].line.color"
    for _ in range(100):  # what waits in the page itself would need eval, which it forbids
        if page.evaluate(color) == "rgb(23, 99, 107)":
            break
        page.wait_for_timeout(50)
    assert page.evaluate(color) == "rgb(23, 99, 107)"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for width, room in page.evaluate(
        "[...document.querySelectorAll('#curves .plot')].map((one) => [one._fullLayout.width, one.clientWidth])"
    ):
        assert width == pytest.approx(room, abs=2)
        assert width < wide
    assert not page.locator("nav").is_visible()
    assert len(page.pdf(format="A4")) > 20_000


def test_without_scripts_the_numbers_are_there(open_page: Open, page_file: Path) -> None:
    page = open_page(page_file, java_script_enabled=False)
    page.locator("#curves figure summary").first.click()
    assert page.locator("#curves figure table").first.locator("tbody tr").count() == 13
    assert page.locator(".unscripted").first.is_visible()


def test_hostile_names_are_text_in_charts_too(open_page: Open, tmp_path: Path) -> None:
    from leyden.report.charts import chart, figure_of, line
    from leyden.report.page import Section, render_page, write_page

    name = "<b>bold</b> <a href='https://example.invalid'>link</a> &amp; %{x}"
    figure = figure_of([line(name, [name, "b"], [1.0, 2.0]), line("y", ["b"], [1.0])], x=name, y="plain")
    path = tmp_path / "page.html"
    write_page(path, render_page("t", [Section("s", "S", chart(figure, name))]))
    page = open_page(path)
    draw_charts(page)
    texts = page.evaluate("[...document.querySelectorAll('.plot text')].map((one) => one.textContent)")
    assert [text.replace("\u2060", "") for text in texts].count(name) == 2, texts  # at the axis and at its tick
    assert page.locator(".plot a").count() == 0
