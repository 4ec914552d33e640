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


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Open a file as a page: `open_page(path, size=PHONE, scheme="dark")`.

    At the end of the test, any word on the console, any error and any request but for files is a failure.
    """
    yield from opened_in(browser)


@pytest.fixture(scope="module")
def keep_page(browser: Any) -> Iterator[Open]:
    """As `open_page`, for a page that the tests of a module share: to load one takes as long as most tests of it."""
    yield from opened_in(browser)


def opened_in(browser: Any) -> Iterator[Open]:
    contexts, said = [], []

    def opened(path: Path, *, size: dict[str, int] = LAPTOP, scheme: str = "light", **options: Any) -> Any:
        context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("request", lambda request: said.append(f"request: {request.url}") if is_foreign(request.url) else None)
        page.goto(path.absolute().as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []


def is_foreign(url: str) -> bool:
    return not url.startswith(("file:", "data:", "blob:"))
