"""The rest of the page: side bars, dialogs, cancelling, errors of a run, pictures dropped on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from support.browser import Visit, visit
from support.running_server import Program

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

DROP = """async (address) => {
    const answer = await fetch(address);
    await app.handleFile(new File([await answer.blob()], "dropped.png", {type: "image/png"}));
}"""


@pytest.fixture(scope="module")
def looking(browser: Browser, server: Program) -> Iterator[Visit]:
    """A page whose panels are opened and closed one after the other."""
    with visit(browser, server.url) as visitor:
        yield visitor


@pytest.mark.parametrize(
    "tab", ["assets", "node-library", "model-library", "workflows", "apps", "onecopy-loading"]
)
def test_side_bars_open_without_an_error(looking: Visit, tab: str) -> None:
    button = looking.page.get_by_test_id(f"{tab}-tab-button")
    button.click()
    looking.page.wait_for_timeout(1000)
    looking.screenshot(f"side_bar_{tab}")
    button.click()
    assert looking.errors == []


@pytest.mark.parametrize("name", ["Settings (Ctrl + ,)", "Templates"])
def test_dialogs_open_without_an_error(looking: Visit, name: str) -> None:
    looking.page.get_by_role("button", name=name, exact=True).first.click()
    dialog = looking.page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    looking.page.wait_for_timeout(1000)
    looking.screenshot(f"opened_{name.split()[0]}")
    looking.page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert looking.errors == []


def test_the_bottom_panel_shows_the_log(looking: Visit) -> None:
    button = looking.page.get_by_role("button", name="Toggle Bottom Panel")
    button.click()
    log = looking.page.locator(".xterm-rows")
    expect(log).to_contain_text("To see the GUI go to")
    looking.screenshot("log")
    button.click()
    assert looking.errors == []


def test_the_model_library_knows_the_checkpoint(visitor: Visit) -> None:
    visitor.page.get_by_test_id("model-library-tab-button").click()
    visitor.page.get_by_text("checkpoints", exact=True).click()
    expect(visitor.page.get_by_text("Shapes, a tiny latent diffusion")).to_be_visible()
    visitor.screenshot("model_library")


def test_a_run_that_is_cancelled_in_the_page_ends_and_is_told_so(
    visitor: Visit, server: Program
) -> None:
    visitor.set_value("Sampler", "steps", 10_000)
    prompt_id = visitor.press_run()
    visitor.wait_for("progress")
    visitor.screenshot("running")
    visitor.page.get_by_role("button", name="Cancel current run").click()
    visitor.wait_until_done(prompt_id)
    job = server.get(f"/api/jobs/{prompt_id}").json()
    assert job["status"] == "cancelled"
    assert visitor.errors == []


def test_a_picture_that_is_dropped_on_the_page_opens_the_workflow_that_made_it(
    visitor: Visit, server: Program
) -> None:
    visitor.set_value("Prompt", "text", "a yellow ring on a navy background")
    prompt_id = visitor.press_run()
    visitor.wait_until_done(prompt_id)
    ((_, output),) = server.get(f"/history/{prompt_id}").json()[prompt_id]["outputs"].items()
    (image,) = output["images"]
    visitor.set_value("Prompt", "text", "something else")
    address = f"{server.url}/view?filename={image['filename']}&subfolder={image['subfolder']}"
    visitor.page.evaluate(DROP, address)
    assert visitor.value("Prompt", "text") == "a yellow ring on a navy background"
    assert visitor.errors == []
