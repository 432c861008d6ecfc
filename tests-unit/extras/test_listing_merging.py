"""Nodes of merging, saving and hooks are listed with the facts that graphs rely on."""

from __future__ import annotations

import pytest

from support import node_listing

TABLE = node_listing.table("extras_nodes_merging.json")
NODES = [(module, node) for module, nodes in TABLE.items() for node in nodes]
# Merges by block take their ratios as they come.
BY_BLOCK = {"ModelMergeBlocks", *TABLE["nodes_model_merging_model_specific"]}


@pytest.mark.parametrize("module", TABLE)
def test_file_brings_the_nodes_of_its_table_and_no_others(module: str) -> None:
    assert set(node_listing.nodes_of(module)) == set(TABLE[module])


@pytest.mark.parametrize(("module", "node"), NODES)
def test_node_is_listed_as_in_comfyui(module: str, node: str) -> None:
    shown = node_listing.told(*node_listing.nodes_of(module)[node])
    assert shown == node_listing.wanted(TABLE[module][node], shown)


@pytest.mark.parametrize(("module", "node"), [one for one in NODES if one[1] not in BY_BLOCK])
def test_function_takes_the_inputs_by_name(module: str, node: str) -> None:
    assert node_listing.takes_its_inputs(node_listing.nodes_of(module)[node][0])
