"""The other examples of the page's list: opened from there, run, and their pictures shown."""

from __future__ import annotations

import pytest

from support.base_folder import ROOT
from support.browser import Visit
from support.running_server import Program
from tools.shapes.reading import read

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

FIRST = "text_to_image"
OTHERS = sorted({path.stem for path in (ROOT / "examples" / "page").glob("*.json")} - {FIRST})
IS_OPEN = "(name) => app.extensionManager.workflow.activeWorkflow.filename === name"
# Bodies of nodes without their titles, so that what only touches does not count.
OVERLAPPING = """() => app.graph.nodes.flatMap((one, index) =>
    app.graph.nodes.slice(index + 1)
        .filter((other) => [0, 1].every((axis) =>
            one.pos[axis] < other.pos[axis] + other.size[axis]
            && other.pos[axis] < one.pos[axis] + one.size[axis]))
        .map((other) => [one.title, other.title]))"""


@pytest.mark.parametrize("name", OTHERS)
def test_an_example_opens_from_the_list_and_draws_at_the_first_press_of_run(
    visitor: Visit, server: Program, name: str
) -> None:
    page = visitor.page
    page.get_by_test_id("workflows-tab-button").click()
    page.get_by_text(name, exact=True).click()
    page.wait_for_function(IS_OPEN, arg=name)
    page.get_by_test_id("workflows-tab-button").click()
    assert page.evaluate(OVERLAPPING) == []
    prompt_id = visitor.press_run()
    visitor.wait_until_done(prompt_id)
    assert visitor.shown_on_nodes()
    visitor.screenshot(f"example_{name}")
    entry = server.get(f"/history/{prompt_id}").json()[prompt_id]
    assert entry["status"]["status_str"] == "success"
    images = [image for output in entry["outputs"].values() for image in output["images"]]
    assert images
    for image in images:
        shown = visitor.picture(
            f"{server.url}/view?filename={image['filename']}&subfolder={image['subfolder']}"
            f"&type={image['type']}"
        )
        assert read(shown).colour
    assert visitor.errors == []
