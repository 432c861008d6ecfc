"""Nodes of images, masks, latents, primitives and texts are listed with the facts graphs rely on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support import node_listing

TABLE = node_listing.table("extras_nodes_images.json")
NODES = [(module, node) for module, nodes in TABLE.items() for node in nodes]


def _as_sent(facts: Any) -> Any:
    """What is left of it in JSON: rows and lists are the same there."""
    return json.loads(json.dumps(facts))


@pytest.mark.parametrize("module", TABLE)
def test_file_brings_the_nodes_of_its_table_and_no_others(module: str) -> None:
    assert set(node_listing.nodes_of(module)) == set(TABLE[module])


@pytest.mark.parametrize(("module", "node"), NODES)
def test_node_is_listed_as_in_comfyui(module: str, node: str) -> None:
    shown = node_listing.told(*node_listing.nodes_of(module)[node])
    assert _as_sent(shown) == _as_sent(node_listing.wanted(TABLE[module][node], shown))


@pytest.mark.parametrize(("module", "node"), NODES)
def test_function_takes_the_inputs_by_name(module: str, node: str) -> None:
    assert node_listing.takes_its_inputs(node_listing.nodes_of(module)[node][0])
