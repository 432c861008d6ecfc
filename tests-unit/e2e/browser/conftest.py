"""A browser, and the program to visit with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from support.base_folder import furnish
from support.browser import Visit, launched, visit
from support.running_server import Program, program
from tools import get_browser

# Playwright's loop runs in the thread of the tests while a browser is open; tests of other files
# start loops there, so a browser ends with its file.


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser without a window."""
    path = get_browser.find()
    if path is None and get_browser.is_needed():
        pytest.fail("There is no Chromium here; python -m tools.get_browser installs one.")
    if path is None:
        pytest.skip("needs Chromium: python -m tools.get_browser")
    with launched(path) as started:
        yield started


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The program as it comes, with the checkpoint that ships with it and no user yet."""
    with program(furnish(tmp_path_factory.mktemp("base"))) as started:
        yield started


@pytest.fixture
def visitor(browser: Browser, server: Program) -> Iterator[Visit]:
    """Somebody whose browser was never here."""
    with visit(browser, server.url) as visitor:
        yield visitor
