"""Nodes of `comfy_extras` are listed with the facts that graphs rely on."""

from __future__ import annotations

import pytest

from support import node_listing

TABLES = node_listing.tables()
FILES = {module: nodes for table in TABLES for module, nodes in table.items()}
NODES = [(module, node) for module, nodes in FILES.items() for node in nodes]
# Merges by block take their ratios as they come.
BY_BLOCK = {"ModelMergeBlocks", *FILES["nodes_model_merging_model_specific"]}


def test_no_file_is_in_two_tables() -> None:
    assert len(FILES) == sum(map(len, TABLES))


@pytest.mark.parametrize("module", FILES)
def test_file_brings_the_nodes_of_its_table_and_no_others(module: str) -> None:
    assert set(node_listing.nodes_of(module)) == set(FILES[module])


@pytest.mark.parametrize(("module", "node"), NODES)
def test_node_is_listed_as_in_comfyui(module: str, node: str) -> None:
    shown = node_listing.told(*node_listing.nodes_of(module)[node])
    assert node_listing.as_sent(shown) == node_listing.as_sent(
        node_listing.wanted(FILES[module][node], shown)
    )


@pytest.mark.parametrize(("module", "node"), [one for one in NODES if one[1] not in BY_BLOCK])
def test_function_takes_the_inputs_by_name(module: str, node: str) -> None:
    assert node_listing.takes_its_inputs(node_listing.nodes_of(module)[node][0])
