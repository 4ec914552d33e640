"""Small runs for the tests of pages, on rows that no page may fall for."""

from __future__ import annotations

from pathlib import Path

from tests.effects.small_runs import Columns, settings_of

from leyden.artifacts.job import run_job

HOSTILE = (
    "<script>window.planted = 1</script>",
    "</script><img src=x onerror='window.planted = 1'>",
    "\u202eright to left\u202c \u200f mark",
    "nul \0 and bell \x07",
    "emoji \U0001f9ea\U0001f469\u200d\U0001f680",
    "# Markdown **bold** [link](javascript:window.planted=1)",
    '=HYPERLINK("http://example.invalid","x")',
    "{{ 7 * 7 }} ${7*7} %{x} &amp; <b>bold</b>",
)
LONG = "a very long answer " * 5300  # 100,000 characters


def preference(folder: Path) -> Path:
    """Twelve updates of DPO, an evaluation before and after each epoch."""
    columns = {"p": HOSTILE, "a": [f"{text} yes" for text in HOSTILE], "rejected": [f"{text} no" for text in HOSTILE]}
    more = ["problem=dpo", "dataset.rejected_answer_column=rejected"]
    return with_a_page(folder, columns, "trainer.epochs=3", "trainer.evaluation_epochs=1", *more)


def texts(folder: Path) -> Path:
    """Ten updates on single answers, one of them very long, and a metric that reads what is generated."""
    columns = {"p": [*HOSTILE, "long", LONG], "a": [*HOSTILE, LONG, "short"]}
    return with_a_page(folder, columns, "trainer.epochs=2", "trainer.evaluation_epochs=1", "metric=bleu")


def with_a_page(folder: Path, columns: Columns, *overrides: str) -> Path:
    """The folder of a run that was trained, with the page that it wrote itself."""
    run_job(settings_of(folder, columns, *overrides))
    return folder / "run"
