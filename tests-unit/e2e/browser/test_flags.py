"""The page of a server that was started with flags: users, previews, a named load strategy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from support.base_folder import furnish
from support.browser import arrival, visit
from support.running_server import Program, program
from tools.shapes.reading import read

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

FLAGS = ("--multi-user", "--preview-method=latent2rgb", "--load-strategy=file-slice")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with program(furnish(tmp_path_factory.mktemp("base")), *FLAGS) as started:
        yield started


def test_a_user_names_himself_sees_previews_and_the_strategy_that_was_asked_for(
    browser: Browser, server: Program
) -> None:
    with arrival(browser, server.url) as visitor:
        page = visitor.page
        page.goto(server.url)
        page.get_by_placeholder("Enter a username").fill("Ada")
        visitor.screenshot("user_select")
        page.get_by_role("button", name="Next").click()
        visitor.wait_until_ready()
        name = page.evaluate("() => app.extensionManager.workflow.activeWorkflow.filename")
        assert name == "text_to_image"
        prompt_id = visitor.press_run()
        visitor.wait_until_done(prompt_id)
        # A page that is slow is spared some of the twenty.
        assert {preview.format for preview in visitor.previews()} == {"JPEG"}
        assert visitor.prompts_heard_of() == {prompt_id}
        page.get_by_test_id("onecopy-loading-tab-button").click()
        panel = page.get_by_role("region", name="Model loading")
        expect(panel).to_contain_text("Strategy: file-slice (--load-strategy=file-slice")
        visitor.screenshot("multi_user")
        assert visitor.errors == []
    (user,) = server.get("/users").json()["users"]
    assert user.startswith("Ada_")
    kept = server.log.parent / "user" / user / "workflows" / "text_to_image.json"
    assert kept.is_file()


def test_offline_the_page_works_and_asks_no_other_machine(browser: Browser, tmp_path: Path) -> None:
    with program(furnish(tmp_path), "--offline") as server, visit(browser, server.url) as visitor:
        visitor.wait_until_done(visitor.press_run())
        ((address, _),) = visitor.shown_on_nodes()
        assert read(visitor.picture(address)).shape == "circle"
        assert visitor.abroad == []
        # The browser calls it an error that the page was kept from asking.
        assert all("Content Security Policy" in error for error in visitor.errors)
        assert all("Connecting to 'https://" in error for error in visitor.errors)
