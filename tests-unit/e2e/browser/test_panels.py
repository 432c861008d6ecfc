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


@pytest.fixture
def visitor(browser: Browser, server: Program) -> Iterator[Visit]:
    with visit(browser, server.url) as visitor:
        yield visitor


@pytest.mark.parametrize(
    "tab", ["assets", "node-library", "model-library", "workflows", "apps", "onecopy-loading"]
)
def test_side_bars_open_without_an_error(visitor: Visit, tab: str) -> None:
    visitor.page.get_by_test_id(f"{tab}-tab-button").click()
    visitor.page.wait_for_timeout(1500)
    visitor.screenshot(f"side_bar_{tab}")
    assert visitor.errors == []


@pytest.mark.parametrize("name", ["Settings (Ctrl + ,)", "Templates", "Toggle Bottom Panel"])
def test_dialogs_and_the_log_open_without_an_error(visitor: Visit, name: str) -> None:
    visitor.page.get_by_role("button", name=name, exact=True).click()
    visitor.page.wait_for_timeout(2500)
    visitor.screenshot(f"opened_{name.split()[0]}")
    assert visitor.errors == []


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
