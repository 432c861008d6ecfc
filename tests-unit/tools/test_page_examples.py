"""Tests of the examples in the page's form: the same graphs, laid out without overlaps."""

from __future__ import annotations

import asyncio
import json
from itertools import combinations
from typing import Any

import pytest

import nodes
from app.headless.page_graph import to_prompt
from tools import page_examples
from tools.page_examples import EXAMPLES, PAGES

NAMES = sorted(path.stem for path in PAGES.glob("*.json"))


@pytest.fixture(scope="module")
def classes() -> dict[str, Any]:
    if "SamplerCustomAdvanced" not in nodes.NODE_CLASS_MAPPINGS:
        asyncio.run(nodes.init_builtin_extra_nodes())
    return nodes.NODE_CLASS_MAPPINGS


def _page(name: str) -> dict[str, Any]:
    page: dict[str, Any] = json.loads((PAGES / f"{name}.json").read_text())
    return page


def test_every_example_has_a_page() -> None:
    graphs = {path.stem for path in EXAMPLES.glob("*.json")}
    assert set(NAMES) == graphs - {"text_to_image_page"}


def test_the_files_are_what_the_tool_writes(classes: dict[str, Any]) -> None:
    written = {name: (PAGES / f"{name}.json").read_text() for name in NAMES}
    assert page_examples.all_pages(classes) == written


@pytest.mark.parametrize("name", NAMES)
def test_a_page_runs_the_same_graph(name: str, classes: dict[str, Any]) -> None:
    prompt = json.loads((EXAMPLES / f"{name}.json").read_text())
    assert to_prompt(_page(name), classes, {}) == prompt


@pytest.mark.parametrize("name", NAMES)
def test_nodes_do_not_overlap(name: str) -> None:
    title = 30
    boxes = [(*node["pos"], *node["size"]) for node in _page(name)["nodes"]]
    for (x, y, width, height), (x2, y2, width2, height2) in combinations(boxes, 2):
        beside = x + width <= x2 or x2 + width2 <= x
        assert beside or y + height + title <= y2 or y2 + height2 + title <= y


@pytest.mark.parametrize("name", NAMES)
def test_a_node_stands_to_the_right_of_those_it_takes_from(name: str) -> None:
    page = _page(name)
    left = {node["id"]: node["pos"][0] for node in page["nodes"]}
    order = {node["id"]: node["order"] for node in page["nodes"]}
    for _, source, _, target, _, _ in page["links"]:
        assert left[source] < left[target]
        assert order[source] < order[target]


def test_pages_have_ids_of_their_own() -> None:
    assert len({_page(name)["id"] for name in NAMES}) == len(NAMES)
