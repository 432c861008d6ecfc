"""The web page in a real browser: what a new user sees, *Run*, side bars, two visitors at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from support.browser import Visit, visit
from support.running_server import Program, wait_until
from tools.shapes.reading import read

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CHECKPOINT = "shapes_tiny_sd15.safetensors"
BESIDE_PANEL = """() => {
    app.canvas.ds.scale = 0.58;
    app.canvas.ds.offset = [665, 550];
    app.canvas.setDirty(true, true);
}"""


@dataclass(frozen=True)
class Done:
    """A page in which *Run* was pressed once, and that has the picture.

    Attributes:
        visit: The page.
        prompt_id: Of the prompt.
        images: What the node that saves told of its files.
    """

    visit: Visit
    prompt_id: str
    images: list[dict[str, Any]]


@pytest.fixture(scope="module")
def done(browser: Browser, server: Program) -> Iterator[Done]:
    """Several tests look at it; none of them changes the workflow."""
    with visit(browser, server.url) as visitor:
        prompt_id = visitor.press_run()
        visitor.wait_until_done(prompt_id)
        outputs = visitor.page.evaluate("() => Object.values(app.nodeOutputs)")
        images = [image for output in outputs for image in output.get("images", ())]
        visitor.shown_on_nodes()
        yield Done(visitor, prompt_id, images)


# -- a new user ------------------------------------------------------------------------------------


def test_a_new_user_finds_an_example_open_and_nothing_to_click_away(visitor: Visit) -> None:
    visitor.screenshot("new_user")
    name = visitor.page.evaluate("() => app.extensionManager.workflow.activeWorkflow.filename")
    assert name == "text_to_image"
    kinds = visitor.page.evaluate("() => app.graph.nodes.map((node) => node.type)")
    assert {"CheckpointLoaderSimple", "KSampler", "SaveImage"} <= set(kinds)
    expect(visitor.page.get_by_role("dialog")).to_have_count(0)
    assert visitor.errors == []


def test_the_examples_are_in_the_list_of_workflows(visitor: Visit) -> None:
    visitor.page.get_by_test_id("workflows-tab-button").click()
    for name in ("hires_fix", "image_to_image", "inpaint"):
        expect(visitor.page.get_by_text(name, exact=True)).to_be_visible()
    visitor.screenshot("workflows")
    assert visitor.errors == []


# -- run -------------------------------------------------------------------------------------------


def test_run_yields_the_picture_in_the_page(done: Done) -> None:
    ((address, width),) = done.visit.shown_on_nodes()
    assert width == 64
    seen = read(done.visit.picture(address))
    assert (seen.colour, seen.shape, seen.background) == ("red", "circle", "white")
    assert done.images[0]["filename"] in address
    done.visit.screenshot("after_run")
    assert done.visit.errors == []


def test_the_file_in_the_output_folder_is_the_one_in_the_page(done: Done, server: Program) -> None:
    (image,) = done.images
    path = server.log.parent / "output" / image["subfolder"] / image["filename"]
    ((address, _),) = done.visit.shown_on_nodes()
    assert done.visit.fetch(address) == Path(path).read_bytes()


def test_the_queue_shows_the_job_and_how_long_it_took(done: Done) -> None:
    page = done.visit.page
    page.get_by_test_id("queue-overlay-toggle").click()
    job = page.get_by_test_id("job-assets-list").get_by_text(done.images[0]["filename"])
    expect(job).to_be_visible()
    done.visit.screenshot("queue")
    page.get_by_test_id("queue-overlay-toggle").click()
    assert done.visit.errors == []


def test_the_assets_side_bar_shows_the_picture(done: Done) -> None:
    page = done.visit.page
    page.get_by_test_id("assets-tab-button").click()
    image = page.get_by_role("img", name=done.images[0]["filename"]).first
    expect(image).to_be_visible()
    done.visit.screenshot("assets")
    shown = done.visit.picture(image.evaluate("(element) => element.src"))
    assert read(shown).shape == "circle"
    page.get_by_test_id("assets-tab-button").click()
    assert done.visit.errors == []


def test_the_loading_panel_shows_the_file_its_homes_and_its_strategy(
    done: Done, server: Program
) -> None:
    page = done.visit.page
    page.get_by_test_id("onecopy-loading-tab-button").click()
    panel = page.get_by_role("region", name="Model loading")
    card = panel.get_by_role("list", name="Weight files").get_by_role("listitem")
    expect(card).to_contain_text(CHECKPOINT)
    (file,) = server.get("/loading").json()["files"]
    expect(card).to_contain_text(f"Strategy: {file['strategy']}")
    expect(panel).to_contain_text("Load strategy: auto.")
    expect(card.get_by_role("img")).to_have_attribute("aria-label", re.compile(r"MiB"))
    page.get_by_test_id("close-minimap-button").click()
    page.evaluate(BESIDE_PANEL)
    done.visit.screenshot("page")
    assert done.visit.errors == []


def test_a_second_run_with_another_prompt_draws_it(visitor: Visit) -> None:
    visitor.set_value("Prompt", "text", "a large blue star on a black background")
    visitor.wait_until_done(visitor.press_run())
    ((address, _),) = visitor.shown_on_nodes()
    seen = read(visitor.picture(address))
    assert (seen.colour, seen.shape, seen.background) == ("blue", "star", "black")


def test_the_button_of_the_loading_panel_sends_weights_back_to_their_file(
    visitor: Visit, server: Program
) -> None:
    visitor.wait_until_done(visitor.press_run())
    visitor.page.get_by_test_id("onecopy-loading-tab-button").click()
    panel = visitor.page.get_by_role("region", name="Model loading")
    panel.get_by_role("button", name="Release memory").click()
    expect(panel.get_by_role("status")).to_contain_text("released")

    def nothing_is_at_home() -> bool:
        (file,) = server.get("/loading").json()["files"]
        return not file["homes"] or file["homes"]["host"] + file["homes"]["device"] == 0

    wait_until(nothing_is_at_home)
    visitor.screenshot("released")
    assert visitor.errors == []


def test_a_value_that_the_server_refuses_is_told_at_its_node(visitor: Visit) -> None:
    visitor.set_value("Checkpoint", "ckpt_name", "missing.safetensors")
    with visitor.page.expect_response(lambda answer: answer.url.endswith("/api/prompt")) as answer:
        visitor.page.get_by_test_id("queue-button").click()
    assert answer.value.status == 400
    wrong = visitor.page.wait_for_function("() => Object.keys(app.lastNodeErrors ?? {})[0]")
    titles = "(id) => app.graph.nodes.find((node) => String(node.id) === id).title"
    assert visitor.page.evaluate(titles, wrong.json_value()) == "Checkpoint"
    visitor.page.wait_for_timeout(1000)
    visitor.screenshot("refused")


def test_after_a_reload_the_page_is_as_it_was(visitor: Visit, server: Program) -> None:
    visitor.set_value("Prompt", "text", "a green ring on a beige background")
    visitor.page.keyboard.press("Control+s")
    visitor.page.wait_for_function("() => !app.extensionManager.workflow.activeWorkflow.isModified")
    visitor.open(server.url)
    names = visitor.page.evaluate(
        "() => app.extensionManager.workflow.openWorkflows.map((workflow) => workflow.filename)"
    )
    assert names == ["text_to_image"]
    assert "green ring" in visitor.value("Prompt", "text")
    assert visitor.errors == []


# -- two visitors ----------------------------------------------------------------------------------


def test_each_of_two_visitors_hears_of_his_own_prompts_only(
    browser: Browser, server: Program
) -> None:
    with visit(browser, server.url) as one, visit(browser, server.url) as other:
        for visitor, text in ((one, "a green ring"), (other, "an orange square")):
            visitor.set_value("Prompt", "text", f"{text} on a beige background")
        prompts = one.press_run(), other.press_run()
        for visitor, prompt_id in zip((one, other), prompts, strict=True):
            visitor.wait_until_done(prompt_id)
        kinds = [
            {frame["type"] for frame in v.frames if isinstance(frame, dict)} for v in (one, other)
        ]
        assert all({"status", "progress", "progress_state", "executed"} <= heard for heard in kinds)
        assert (one.prompts_heard_of(), other.prompts_heard_of()) == ({prompts[0]}, {prompts[1]})
        assert (one.errors, other.errors) == ([], [])
