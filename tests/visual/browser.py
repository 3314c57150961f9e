"""A headless Chromium, driven by Playwright. Without one, tests skip, unless
``BILEVEL_REQUIRE_CHROMIUM`` is set: then they fail. ``BILEVEL_CHROMIUM`` is the path of another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

REQUIRED, PATH = "BILEVEL_REQUIRE_CHROMIUM", "BILEVEL_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def chromium() -> str:
    """The path of a Chromium; without one the test skips or fails."""
    named = os.environ.get(PATH)
    found = named or next(filter(None, map(which, NAMES)), None)
    if found is not None:
        return found
    said = f"there is no Chromium: none of {', '.join(NAMES)} is on the path, {PATH} names none"
    if os.environ.get(REQUIRED):
        pytest.fail(f"{REQUIRED} is set, but {said}", pytrace=False)
    pytest.skip(said)


@contextmanager
def started() -> Iterator[Browser]:
    """A browser."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, path: Path, **options: Any) -> Iterator[Page]:
    """A page that is shown, once it has drawn. It must ask nothing of the network, nor complain."""
    page = browser.new_page(**options)
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(path.as_uri())
    settled(page)
    yield page
    page.close()
    # Chromium warns that to read a canvas, as tests do, is slow.
    assert [each for each in said if "getImageData" not in each] == []
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]


def settled(page: Page) -> None:
    """Wait until the weights of what was chosen are drawn."""
    page.wait_for_selector('#attention[aria-busy="false"]')
