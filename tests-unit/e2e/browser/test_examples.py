"""The examples in a real browser: the page makes of them what runs from the command line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Browser

from app.new_user import OPEN_AT_START
from support.browser import visit
from support.running_server import Program
from tools.page_examples import EXAMPLES, PAGES

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

AS_PROMPT = """async (workflow) => {
    await app.loadGraphData(workflow, true, true, "shown");
    return (await app.graphToPrompt()).output;
}"""
FIRST_KINDS = "() => app.graph.nodes.map((node) => node.type)"


def test_the_page_makes_the_same_prompts_of_all_examples(browser: Browser, server: Program) -> None:
    pages = {path.stem: json.loads(path.read_text()) for path in PAGES.glob("*.json")}
    with visit(browser, server.url) as visitor:
        made = {name: visitor.page.evaluate(AS_PROMPT, page) for name, page in pages.items()}
        assert visitor.errors == []
    assert made == {name: json.loads((EXAMPLES / f"{name}.json").read_text()) for name in pages}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("inpaint", "SetLatentNoiseMask"), ("", "UNETLoader"), ("gone", "UNETLoader")],
)
def test_a_setting_tells_which_workflow_opens_first(
    browser: Browser, server: Program, name: str, expected: str
) -> None:
    before = server.get(f"/settings/{OPEN_AT_START}").json()
    server.post(f"/settings/{OPEN_AT_START}", name)
    try:
        with visit(browser, server.url) as visitor:
            kinds: list[Any] = visitor.page.evaluate(FIRST_KINDS)
    finally:
        server.post(f"/settings/{OPEN_AT_START}", before)
    assert expected in kinds
