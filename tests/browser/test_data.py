from __future__ import annotations

import json
from collections.abc import Callable
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
from tests.effects.small_runs import settings_of
from tests.report_runs import HOSTILE

from leyden.artifacts.job import run_job
from leyden.report import data
from leyden.report.page import render_page
from leyden.report.run_files import RunFiles

Open = Callable[..., Any]
SECTION = "#data"


@pytest.fixture(scope="module")
def pair_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data section alone, of pairs with hostile texts, one of them cut."""
    rows = [HOSTILE[0], *HOSTILE[2:5], HOSTILE[7], "tab\tand\r\nline", "long " * 60]
    columns = {
        "p": rows,
        "a": [f"{text} is the better one" for text in rows],
        "r": [f"{text} is worse" for text in rows],
    }
    return page_of(tmp_path_factory.mktemp("pairs"), columns, "problem=dpo", "dataset.rejected_answer_column=r")


@pytest.fixture(scope="module")
def class_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    columns = {"p": HOSTILE, "a": ["<b>bold</b>", "\u202ename", *["plain"] * (len(HOSTILE) - 2)]}
    return page_of(tmp_path_factory.mktemp("classes"), columns, "problem=classification")


@pytest.fixture(scope="module")
def kept_pairs(pair_page: Path, keep_page: Open) -> Any:
    return keep_page(pair_page)


@pytest.fixture(scope="module")
def kept_classes(class_page: Path, keep_page: Open) -> Any:
    return keep_page(class_page)


@pytest.fixture
def pairs(kept_pairs: Any) -> Any:
    return as_opened(kept_pairs)


@pytest.fixture
def classes(kept_classes: Any) -> Any:
    return as_opened(kept_classes)


def as_opened(page: Any) -> Any:
    """A page as it is when it has just been opened."""
    fold_again(page)
    page.set_viewport_size(LAPTOP)
    page.emulate_media(color_scheme="light", media="screen")
    return page


def page_of(folder: Path, columns: dict[str, Any], *overrides: str) -> Path:
    run_job(settings_of(folder, columns, "mode=inspect", *overrides))
    section = data.section(RunFiles.read(folder / "run"))
    assert section is not None
    (folder / "page.html").write_text(render_page("run", [section]), encoding="utf-8")
    return folder / "page.html"


def test_everyone_can_read_it(pairs: Any, classes: Any) -> None:
    for page, scheme in ((pairs, "dark"), (classes, "light")):
        page.emulate_media(color_scheme=scheme)
        draw_charts(page)
        unfold(page)
        assert axe_violations(page) == []


def test_every_control_is_reached_by_keyboard_and_samples_open(pairs: Any) -> None:
    order = focus_order(pairs)
    assert unreached(pairs) == []
    assert not [one for one in order if one.endswith("UNSEEN")]
    second = pairs.locator("details.sample").nth(1)
    assert second.get_attribute("open") is None
    second.locator("summary").focus()
    pairs.keyboard.press("Enter")
    assert second.get_attribute("open") is not None
    pairs.keyboard.press("Enter")


def test_hostile_text_is_text_with_signs_for_what_cannot_be_seen(pairs: Any) -> None:
    unfold(pairs)
    assert pairs.evaluate("window.planted") is None
    assert pairs.locator(f"{SECTION} script:not([type]), {SECTION} img, {SECTION} b").count() == 0
    samples = pairs.locator("details.sample")
    texts = [sample.locator(".tokens").first.text_content() for sample in samples.all()]
    assert any("window.planted = 1</script>" in text for text in texts)
    assert any("E280AEright to leftE280AC" in text for text in texts)  # this tokenizer has a token for each byte
    assert "⟨U+202E⟩right to left⟨U+202C⟩ ⟨U+200F⟩ mark" in pairs.locator("table.columns").first.text_content()
    assert any("nul ␀ and bell ␇" in text for text in texts)
    assert any("tab⇥and␍↵\nline" in text for text in texts)
    assert any("{{ 7 * 7 }}" in text for text in texts)


def test_the_legend_names_every_mark_that_is_there_and_marks_are_more_than_colours(pairs: Any) -> None:
    unfold(pairs)
    legend = pairs.locator(".legend div").all_inner_texts()
    said = " ".join(legend)
    for word in ("prompt", "answer", "underlined", "markup", "boxed", "shared", "marked", "byte"):
        assert word in said
    assert "system" not in said  # there is none
    style = pairs.evaluate(
        """() => {
            const of = (name, pseudo) => getComputedStyle(document.querySelector(`.sample ${name}`), pseudo);
            return {
                predicted: of(".run.predicted").textDecorationLine,
                masked: of(".run.prompt").textDecorationLine,
                markup: of(".markup", "::before").content,
                control: of(".control").borderTopStyle,
                shared: of(".run.shared").boxShadow !== "none",
                raw: of(".raw", "::before").content,
                mark: of("mark").fontWeight,
            };
        }"""
    )
    assert style == {
        "predicted": "underline", "masked": "none", "markup": '"["', "control": "solid", "shared": True, "raw": '"⟨"',
        "mark": "700",
    }  # fmt: skip


def test_screen_readers_are_told_what_tokens_are(pairs: Any) -> None:
    first = pairs.locator("details.sample").first
    said = first.locator(".run > .aloud").all_text_contents()
    assert said == ["[prompt, not predicted, shared:] ", "[answer, predicted:] ", "[answer, predicted:] "]
    assert first.locator(".control .aloud").first.text_content() == "control token "


def test_both_answers_stand_beside_each_other_with_what_differs(pairs: Any) -> None:
    first = pairs.locator("details.sample").first
    assert first.locator("h4").all_inner_texts() == ["Better answer", "Worse answer"]
    marked = ["".join(side.locator("mark").all_text_contents()) for side in first.locator(".pair > div").all()]
    assert marked == [" the better one", " worse"]


def test_what_was_cut_is_said_at_the_sample_and_in_the_histogram(pairs: Any) -> None:
    draw_charts(pairs)
    assert pairs.locator(".sample .tag.warn").all_inner_texts().count("cut: answer, prompt") == 2  # both parts
    chart = pairs.locator("figure.chart").first
    assert "tokenizer.max_length is 128" in chart.inner_text()
    assert "limit 128" in chart.locator(".plot").text_content()
    assert chart.locator("details table tbody tr").count() > 1


def test_labels_have_bars_and_every_count_in_a_table(classes: Any) -> None:
    draw_charts(classes)
    chart = classes.locator("figure.chart", has_text="Label balance")
    assert "3 labels; in training from 1 to 6 rows" in chart.inner_text()
    assert chart.locator(".plot svg .bars path").count() == 6
    chart.locator("summary").click()
    assert "<b>bold</b>" in chart.locator("table").inner_text()
    assert classes.locator("#data b").count() == 0


def test_a_phone_scrolls_down_alone_and_paper_has_the_first_samples(pairs: Any) -> None:
    pairs.set_viewport_size(PHONE)
    unfold(pairs)
    assert pairs.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    pairs.emulate_media(media="print")
    assert pairs.locator("details.sample:visible").count() == 3


def test_no_data_no_section_and_a_page_without_scripts_has_all_texts(
    pair_page: Path, open_page: Open, tmp_path: Path
) -> None:
    assert data.section(RunFiles.read(tmp_path)) is None
    page = open_page(pair_page, java_script_enabled=False)
    found = json.loads((pair_page.parent / "run" / "data.json").read_text(encoding="utf-8"))
    assert page.locator("details.sample").count() == len(found["samples"])
    assert "is the better one" in page.locator("details.sample .pair").first.inner_text()
