"""Pages in a real browser, from disk: what it says on its console and whatever it asks for is a fault."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.browser.open_pages import LAPTOP

CHROMIUM = shutil.which("chromium")
Open = Callable[..., Any]
DETAILS = "document.querySelectorAll('details')"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window; its tests are skipped where there is none. It is gone when other tests begin."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Pages:
    """Pages that a browser has open, with what they said and asked for that no page should."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser
        self.said: list[str] = []
        self.contexts: list[Any] = []
        self.kept: dict[tuple[object, ...], Any] = {}

    def open(self, path: Path, *, size: dict[str, int] = LAPTOP, scheme: str = "light", **options: Any) -> Any:
        """Open a file; its charts are drawn."""
        context = self.browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce", **options)
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on(
            "request", lambda request: self.said.append(f"request: {request.url}") if is_foreign(request.url) else None
        )
        page.goto(path.absolute().as_uri())
        if options.get("java_script_enabled", True):
            page.evaluate("leyden.charts?.ready.then(() => leyden.charts.drawAll())")
        return page

    def keep(self, path: Path, *, size: dict[str, int] = LAPTOP, scheme: str = "light") -> Any:
        """The page, opened once, with what it shows folded as it was then."""
        key = (path, *size.values(), scheme)
        if key not in self.kept:
            self.kept[key] = self.open(path, size=size, scheme=scheme)
            self.kept[key].evaluate(f"for (const one of {DETAILS}) one.dataset.opened = one.open")
        self.kept[key].evaluate(f"for (const one of {DETAILS}) one.open = one.dataset.opened === 'true'")
        return self.kept[key]

    def close(self) -> None:
        """Close all of them."""
        for context in self.contexts:
            context.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Open a file as a page: `open_page(path, size=PHONE, scheme="dark")`; its charts are drawn.

    At the end of the test, any word on the console, any error and any request but for files is a failure.
    """
    pages = Pages(browser)
    yield pages.open
    pages.close()
    assert pages.said == []


@pytest.fixture(scope="module")
def kept_pages(browser: Any) -> Iterator[Pages]:
    """The pages that the tests of a module share."""
    pages = Pages(browser)
    yield pages
    pages.close()


@pytest.fixture
def shared_page(kept_pages: Pages) -> Iterator[Open]:
    """As `open_page`, but the page is the one that other tests of the module had open: loading it takes seconds.

    A test leaves the page as it has found it, but for what is unfolded.
    """
    yield kept_pages.keep
    said, kept_pages.said = kept_pages.said, []
    assert said == []


def is_foreign(url: str) -> bool:
    return not url.startswith(("file:", "data:", "blob:"))
