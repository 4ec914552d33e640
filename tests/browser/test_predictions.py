"""Predictions in a browser: sorted, searched and read by keyboard; hostile text is text; many rows open at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.browser.open_pages import LAPTOP, PHONE, axe_violations, draw_charts, focus_order, unreached
from tests.report_runs import HOSTILE, LONG
from tests.unit.prediction_folders import classifier, own, regressor, run_folder, tabulated

from leyden.report import prediction_figures, predictions
from leyden.report.page import render_page, shown
from leyden.report.run_files import RunFiles

Open = Callable[..., Any]
TEXTS = [*HOSTILE, "<!-- open", "--> closed", "מה שלום"]
SECONDS, MEGABYTES = 2.0, 15.0


def page_of(run: RunFiles, path: Path) -> Path:
    """The sections of predictions alone."""
    sections = [one for one in (prediction_figures.section(run), predictions.section(run)) if one is not None]
    path.write_text(render_page("run", sections), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty rows with hostile ones in front, a very long one, numbers with gaps, and a conversation."""
    folder, rows = tmp_path_factory.mktemp("small"), 40
    texts = [*TEXTS, LONG, *(f"text {row}" for row in range(rows - len(TEXTS) - 1))]
    loss = [None if row == 3 else float((row * 7) % rows) for row in range(rows)]
    columns = {
        "id": [f"n{row}" for row in range(rows)], "parent": [None, "n0", "n1", *[None] * (rows - 3)], "p": texts,
        "category": [f"kind {row % 3}" for row in range(rows)], "prompt_text": [f"<|prompt|>{text}" for text in texts],
        "target": [f"the {text} cat sat" for text in texts], "prediction": [f"the {text} dog sat" for text in texts],
        "loss": loss, "score_gpt": [0.5] * rows, "explanation_gpt": ["SCORE 0.5: <b>because</b>"] * rows,
    }  # fmt: skip
    before = {"prediction": ["nothing at all"] * rows, "loss": [10.0] * rows, "score_gpt": [0.1] * rows}
    metric = {"gpt": {"direction": "max"}}
    run = run_folder(folder, columns, before, metric=metric, id_column="id", parent_id_column="parent")
    return page_of(run, folder / "report.html")


def column(page: Any, title: str) -> list[str]:
    """The cells of a column as they are shown."""
    place = page.locator("#predictions-table thead th").all_inner_texts()
    number = [one.strip(" ▲▼\n") for one in place].index(title) + 1
    return page.locator(f"#predictions-table tbody tr > :nth-child({number})").all_inner_texts()


def press(page: Any, title: str) -> str | None:
    """Press the button of a column by keyboard; how the column says it is sorted then."""
    button = page.locator("#predictions-table thead").get_by_role("button", name=title, exact=True)
    button.focus()
    page.keyboard.press("Enter")
    return button.evaluate("one => one.closest('th').getAttribute('aria-sort')")


def test_columns_are_sorted_by_keyboard(small: Path, open_page: Open) -> None:
    page = open_page(small)
    page.select_option("#predictions-size", "100")
    assert column(page, "Row") == [str(row + 1) for row in range(40)]
    assert press(page, "Loss") == "ascending"
    rising = [str(value) for value in sorted((row * 7) % 40 for row in range(40) if row != 3)]
    assert column(page, "Loss") == [*rising, "–"]  # what is missing stands last, either way
    assert press(page, "Loss") == "descending"
    assert column(page, "Loss") == [*rising[::-1], "–"]
    assert page.locator("#predictions-table th[aria-sort]").count() == 1
    assert press(page, "Prompt") == "ascending"
    texts = column(page, "Prompt")
    assert [text for text in texts if text.startswith("text ")] == [f"text {row}" for row in range(28)]  # 2 before 10
    assert press(page, "Row") == "ascending"
    assert press(page, "Row") == "descending"
    assert column(page, "Row")[0] == "40"


def test_the_search_looks_into_every_text(small: Path, open_page: Open) -> None:
    page = open_page(small)
    said = page.locator("#predictions-said")
    assert said.inner_text() == "40 rows"
    page.get_by_label("Search in all texts").fill("TEXT n39")
    said.get_by_text("1 of 40 rows match").wait_for()
    assert column(page, "Prompt") == ["text 27"]
    page.get_by_label("Search in all texts").fill("</script>")
    said.get_by_text("2 of 40 rows match").wait_for()
    page.get_by_label("Search in all texts").fill("nowhere")
    said.get_by_text("0 of 40 rows match").wait_for()
    assert page.locator("#predictions-page").inner_text() == "Page 1 of 1"
    page.get_by_label("Search in all texts").fill("")
    said.get_by_text("40 rows", exact=True).wait_for()


def test_pages_are_turned(small: Path, open_page: Open) -> None:
    page = open_page(small)
    assert page.locator("#predictions-page").inner_text() == "Page 1 of 2"
    assert page.get_by_role("button", name="Previous").is_disabled()
    page.get_by_role("button", name="Next").press("Space")
    assert column(page, "Row") == [str(row + 1) for row in range(25, 40)]
    assert page.get_by_role("button", name="Last").is_disabled()


def test_hostile_text_is_shown_and_never_run(small: Path, open_page: Open) -> None:
    page = open_page(small)
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
    cells = column(page, "Prompt")
    for place, text in enumerate(TEXTS):
        assert cells[place].split() == shown(text).split()
        button = page.locator("#predictions-table tbody th button").nth(place)
        assert button.get_attribute("aria-expanded") == "false"
        button.focus()
        page.keyboard.press("Enter")
        assert button.get_attribute("aria-expanded") == "true"
        details = page.locator(f"#prediction-{place + 1}")
        words = details.locator(".turn.user .words").last
        assert words.text_content() == shown(text)
        assert words.get_attribute("dir") == "auto"
        assert "SCORE 0.5: <b>because</b>" in details.inner_text()
        page.keyboard.press("Enter")
        assert details.count() == 0
    assert page.evaluate("window.planted") is None
    assert page.locator("main img, main script:not([type])").count() == 0
    assert (
        page.evaluate("getComputedStyle(document.querySelector('#predictions-table .words')).unicodeBidi") == "isolate"
    )
    assert (
        page.evaluate("getComputedStyle(document.querySelectorAll('#predictions-table .words')[0]).direction") == "ltr"
    )


def test_a_row_unfolds_into_its_conversation_and_its_differences(small: Path, open_page: Open) -> None:
    page = open_page(small)
    page.locator("#predictions-table tbody th button").nth(2).click()
    details = page.locator("#prediction-3")
    who = details.locator(".turn .who").all_inner_texts()
    assert who == ["User", "Assistant", "User", "Assistant", "User", "Target"]
    words = details.locator(".turn .words").all_text_contents()
    assert words[0] == shown(TEXTS[0])
    assert words[3] == f"the {shown(TEXTS[1])} cat sat"
    sides = details.locator(".sides").first
    assert sides.locator("del").all_text_contents() == ["cat"]
    assert sides.locator("ins").all_text_contents() == ["dog"]
    assert page.evaluate("getComputedStyle(document.querySelector('.details ins')).textDecorationLine") == "underline"
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.details del')).textDecorationLine") == "line-through"
    )
    assert "Hardly a word in common." in details.inner_text()  # before and after
    numbers = details.locator("table tr").all_inner_texts()
    assert "GPT\t0.5\t0.1" in numbers
    assert "Loss\t14\t10" in numbers


def test_a_very_long_cell_is_cut_and_says_so(small: Path, open_page: Open) -> None:
    page = open_page(small)
    place = len(TEXTS)
    page.locator("#predictions-table tbody th button").nth(place).click()
    details = page.locator(f"#prediction-{place + 1}")
    said = f"Cut: 20,000 of {len(LONG):,} characters. The whole text is in predictions.parquet, row {place + 1}."
    assert said in details.inner_text()
    assert len(details.locator(".turn.user .words").text_content()) == 20_000
    assert len(column(page, "Prompt")[place]) < 500


DIFFERENCES = [
    ("one two three", "one two three", [], []),
    ("a b c d e f", "a b x d e f", ["c"], ["x"]),
    ("a b c d", "a b c d e", [], [" e"]),
    ("", "new words", [], ["new words"]),
    ("we say yes to it", "we say no to it", ["yes"], ["no"]),
    (
        "w x y the z q r and it ends",
        "a b c the d e f and it ends",
        ["w x y the z q r"],
        ["a b c the d e f"],
    ),  # by chance
    ("中文句子在这里", "中文句子在那里", ["这里"], ["那里"]),
    ("a \U0001f469\u200d\U0001f680 flies", "a \U0001f9ea flies", ["\U0001f469\u200d\U0001f680"], ["\U0001f9ea"]),
]


def test_differences_are_of_words(small: Path, open_page: Open) -> None:
    page = open_page(small)
    for start, end, gone, new in DIFFERENCES:
        found = page.evaluate("([from, to]) => leyden.differences(from, to)", [start, end])
        assert "".join(run for run, _ in found["from"]) == start
        assert "".join(run for run, _ in found["to"]) == end
        assert [run for run, changed in found["from"] if changed] == gone
        assert [run for run, changed in found["to"] if changed] == new


def test_very_long_texts_are_not_compared_for_minutes(small: Path, open_page: Open) -> None:
    script = "() => leyden.differences('a b '.repeat(20000), 'b c '.repeat(20000)).said"
    assert open_page(small).evaluate(script) == "Too long to be compared word by word."


def test_a_card_leads_to_its_row(small: Path, open_page: Open) -> None:
    page = open_page(small)
    card = page.locator("[data-card]").first
    number = card.locator("b").inner_text().removeprefix("Row ")
    card.get_by_role("button").press("Enter")
    focused = page.evaluate(
        "[document.activeElement.textContent, document.activeElement.getAttribute('aria-expanded')]"
    )
    assert focused == [number, "true"]


def figures_pages(folder: Path) -> dict[str, Path]:
    """A page of each kind of problem with figures."""
    generator, rows = torch.Generator().manual_seed(4), 60
    names, found = ["kind <b>", "other", "מין"], {}
    for kind in ("multiclass", "numbers"):
        width = 1 if kind == "numbers" else 3
        said, before = (torch.rand(rows, width, generator=generator, dtype=torch.float64) for _ in range(2))
        if kind == "numbers":
            problem: Any = regressor(names[:1])
            keys, wanted = ("predicted_values", "target_values"), torch.rand(rows, 1, generator=generator).double()
        else:
            problem, said, before = classifier(kind, names), said.softmax(1), before.softmax(1)
            keys, wanted = ("probabilities", "labels"), torch.randint(0, 3, (rows,), generator=generator)
        columns, former = (tabulated(problem, dict(zip(keys, (one, wanted), strict=True))) for one in (said, before))
        run = run_folder(folder / kind, {**own(rows), **columns}, former, metric={"auc": {"direction": None}})
        found[kind] = page_of(run, folder / f"{kind}.html")
    return found


def test_figures_are_drawn_and_told(tmp_path: Path, open_page: Open) -> None:
    for kind, path in figures_pages(tmp_path).items():
        page = open_page(path, scheme="dark" if kind == "numbers" else "light")
        draw_charts(page)
        assert page.locator(".js-plotly-plot").count() == (2 if kind == "numbers" else 1)
        assert axe_violations(page) == [], kind
        if kind == "multiclass":
            cells = page.locator("table.confusion tbody td")
            counts = cells.evaluate_all("cells => cells.map((one) => parseInt(one.textContent))")
            assert (len(counts), sum(counts)) == (9, 60)


@pytest.mark.parametrize(("size", "scheme"), [(PHONE, "dark"), (LAPTOP, "light")])
def test_every_control_is_reached_by_keyboard_and_named(small: Path, open_page: Open, size: Any, scheme: str) -> None:
    page = open_page(small, size=size, scheme=scheme)
    draw_charts(page)
    page.select_option("#predictions-size", "10")
    page.locator("#predictions-table tbody th button").nth(2).evaluate("one => one.click()")  # Tab begins at the top
    order = focus_order(page)
    assert not [one for one in order if one.endswith("UNSEEN")]
    assert unreached(page) == []
    assert axe_violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_on_paper_the_lists_are_open_and_the_controls_gone(small: Path, open_page: Open) -> None:
    page = open_page(small)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator("details.ranked").evaluate_all("all => all.every((one) => one.open)")
    assert not page.locator("#predictions-search").is_visible()
    assert not page.locator(".pager").is_visible()
    assert page.locator("#predictions-table tbody tr").first.is_visible()
    width = page.evaluate(
        "document.getElementById('predictions-table').scrollWidth - document.querySelector('.rows').clientWidth"
    )
    assert width <= 0


def test_without_scripts_the_first_rows_are_there_and_it_says_where_the_others_are(
    small: Path, open_page: Open
) -> None:
    page = open_page(small, java_script_enabled=False)
    assert page.locator("[data-card]").first.is_visible()
    assert "This table is made by a script. The rows stand in predictions.parquet" in page.locator("main").inner_text()
    assert not page.locator("#predictions-search").is_visible()


def test_five_thousand_predictions_open_in_two_seconds(tmp_path: Path, open_page: Open) -> None:
    rows, draw = 5_000, np.random.default_rng(0)
    lexicon = np.array(["the", "model", "says", "what", "was", "asked", "and", "then", "<b>", "&", "something", "else"])

    def texts(words: int) -> list[str]:
        return [" ".join(line) for line in draw.choice(lexicon, (rows, words))]

    prompts = texts(100)
    columns = {
        "p": prompts, "prompt_text": [f"<|prompt|>{one}<|answer|>" for one in prompts], "target": texts(120),
        "prediction": texts(120), "loss": draw.gamma(2, 1, rows), "score_gpt": draw.uniform(0, 1, rows),
        "explanation_gpt": texts(60),
    }  # fmt: skip
    columns["target"][7] = LONG
    before = {"prediction": texts(120), "loss": draw.gamma(3, 1, rows)}
    run = run_folder(tmp_path, columns, before, metric={"gpt": {"direction": "max"}})
    path = page_of(run, tmp_path / "report.html")
    assert path.stat().st_size < MEGABYTES * 1e6
    for _ in range(5):  # other work on the machine is no fault of the page
        page = open_page(path)
        seconds = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd / 1000")
        if seconds < SECONDS:
            break
    assert 0 < seconds < SECONDS
    assert page.locator("#predictions-said").inner_text() == "5,000 rows"
    assert press(page, "Loss") == "ascending"
    first = float(column(page, "Loss")[0])
    assert first == pytest.approx(float(np.min(columns["loss"])), rel=1e-3)


def test_the_page_of_a_real_run_has_its_predictions(text_run: Path, open_page: Open) -> None:
    page = open_page(text_run / "report.html")
    assert page.locator("#predictions-said").inner_text() == "10 rows"
    assert column(page, "Prompt")[:8] == [one.strip() for one in map(shown, HOSTILE)]
    assert page.evaluate("window.planted") is None
